from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import tomlkit
from hypothesis import given
from hypothesis import strategies as st

from eka.script.flags import Flags, parse_flags
from eka.script.header import (
    BLOCK_LIMIT,
    HEAD_LIMIT,
    START_LIMIT,
    Header,
    parse_header,
    read_head,
)
from eka.script.metadata import ScriptMetadata
from eka.script.stated import Stated
from eka_runtime.errors import EkaError, HeaderError, NotExecutable, UsageError

LEADERS = ["#", "//", "--", ";", ";;", "%", '"', "'", " *", "\t#", "!"]


def parse(text: str | bytes) -> Header:
    return parse_header(text.encode() if isinstance(text, str) else text, "f")


def metadata(text: str | bytes) -> ScriptMetadata:
    found = parse(text).metadata
    assert found is not None
    return found


def fail(text: str | bytes) -> str:
    with pytest.raises(HeaderError) as caught:
        parse(text)
    return str(caught.value)


def write_block(toml: str, leader: str = "#", newline: str = "\n") -> str:
    lines = ["/// eka", *toml.split("\n"), "///"]
    return "".join(f"{leader} {line}".rstrip(" ") + newline for line in lines)


texts = st.text(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=20
)
documents = st.fixed_dictionaries(
    {},
    optional={
        "interpreter": texts,
        "packages": st.lists(texts, max_size=4),
        "network": st.booleans(),
        "read": st.lists(texts, max_size=4),
        "write": st.lists(texts, max_size=4),
        "env": st.lists(st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,5}(=[ -~]*)?", fullmatch=True)),
    },
)


@given(documents, st.sampled_from(LEADERS), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_what_is_written_is_read(
    document: dict[str, object], leader: str, newline: str, bom: bool
) -> None:
    script = ("\ufeff" if bom else "") + f"#!/usr/bin/env eka-run{newline}"
    script += write_block(tomlkit.dumps(document), leader, newline) + f"print(1){newline}"
    found = metadata(script)._asdict()
    stated = {key: found[key] for key in found["stated"]}
    assert json.loads(json.dumps(stated)) == document


@given(documents, st.sampled_from(LEADERS))
def test_each_origin_is_the_place_of_its_value(document: dict[str, object], leader: str) -> None:
    script = write_block(tomlkit.dumps(document), leader)
    flags = parse(script).block
    for item in (*flags.packages, *flags.read, *flags.write):
        line, column = map(int, item.origin.rstrip(")").split(":")[1:])
        rest = script.split("\n")[line - 1][column - 1 :]
        assert rest[0] in "\"'"
        assert tomlkit.item(item.value).as_string()[:2] in (rest[:2], '""')


def read_or_refuse(head: bytes) -> str:
    """What parsing says; nothing but a HeaderError may come out of it."""
    try:
        parse(head)
    except HeaderError as error:
        return str(error)
    return "f: read"


@given(st.binary(max_size=400))
def test_random_bytes_are_read_or_refused(data: bytes) -> None:
    for head in (data, b"#!/bin/x\n#!eka-run " + data, b"# /// eka\n# " + data + b"\n# ///"):
        assert read_or_refuse(head).startswith("f:")


@given(st.lists(st.sampled_from(
    ["#", "# ", "/// eka", "///", "\n", "\r\n", "packages", " = ", "[", "]", '"', "'", '"""', "a",
     ",", "#!", "eka-run", " -p ", "--net", "{", "}", "\\", "\u00e9", "\0", "=", "1", "\ufeff"]
), max_size=60))  # fmt: skip
def test_random_headers_are_read_or_refused(pieces: list[str]) -> None:
    text = "# /// eka\n" + "".join(pieces) + "\n# ///\n"
    assert read_or_refuse(text.encode()).startswith("f:")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "print(1)\n",
        "# /// script\n# x = 1\n# ///\n",
        'x = "# /// eka"\n',
        "/// eka\npackages = 1\n///\n",
        "# //// eka\n",
        "# /// ekaterina\n",
        "# /// eka now\n",
        "see # /// eka\n",
        "//// eka\n",
    ],
)
def test_what_only_looks_like_a_block_is_none(text: str) -> None:
    assert parse(text)._replace(size=None) == Header()


def test_an_elf_file_has_no_header() -> None:
    assert parse(b"\x7fELF\n# /// eka\n# nonsense")._replace(size=None) == Header()


def test_the_blank_after_the_leader_is_optional() -> None:
    assert metadata('#/// eka\n#packages = [\n#"a"]\n#\n#///\n').packages == ("a",)


def test_multi_line_strings_keep_their_indentation() -> None:
    assert metadata('# /// eka\n# read = ["""\n#   a\n#\n#b"""]\n# ///').read == ("  a\n\nb",)


def test_bytes_outside_the_block_may_be_anything() -> None:
    block = write_block("network = true").encode()
    assert metadata(b"\xff\xfe\n" + block + b"\x80\xff\0").network


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\n\n# /// eka\n# pakages = []\n# ///", "f:4:3: unknown key `pakages`"),
        ("// /// eka\n// read = 1\n// ///", "f:2:11: `read` must be"),
        ("  -- /// eka\n  -- read = ['é', 1]\n  -- ///", "f:2:19: each element of `read`"),
        ("#/// eka\n#read = 1\n#///", "f:2:9: `read` must be"),
        ("\ufeff# /// eka\r\n# read = 1\r\n# ///\r\n", "f:2:10: `read` must be"),
        ("# /// eka\n# a = \n# ///", "f:2:7: the header is not valid TOML: invalid value"),
        ("# /// eka\n# a = 'é\n# ///", "f:2:9: the header is not valid TOML"),
        ("# /// eka\n# a = '''\n#   b\n# ///", "f:3:"),
        ("\n# /// eka\n# a = " + "[" * 900 + "\n# ///", "f:3:3: the header is not valid TOML"),
        ("\n\n# /// eka", "f:3:1: the `/// eka` block is not closed"),
        (
            "# /// eka\n# network = true\nimport os\n# ///",
            "f:1:1: the `/// eka` block is not closed: line 3 does not begin with `#`",
        ),
        ("  # /// eka\n# ///", "f:1:1: the `/// eka` block is not closed: line 2"),
        (
            "// /// eka\n// ///\n\n# /// eka\n# ///",
            "f:4:1: second `/// eka` block: the first begins on line 1",
        ),
    ],
)
def test_errors_stand_in_the_script(text: str, message: str) -> None:
    assert fail(text).startswith(message)


def test_an_unclosed_block_is_told_how_to_close() -> None:
    with pytest.raises(HeaderError) as caught:
        parse("-- /// eka\n--\n")
    assert caught.value.hint == "close it with a line `-- ///`"


def test_a_block_that_is_not_utf8_is_an_error_at_the_byte() -> None:
    text = "# /// eka\n# read = ['é".encode() + b"\xff']\n# ///"
    assert fail(text) == "f:2:13: byte 0xff is not UTF-8"


def test_a_block_begins_within_the_limit() -> None:
    block = write_block("network = true")
    assert metadata("\n" * (START_LIMIT - 1) + block).network
    assert parse("\n" * START_LIMIT + block)._replace(size=None) == Header()


def test_a_block_has_a_largest_size() -> None:
    opening, closing = "# /// eka\n", "# ///"
    filler = BLOCK_LIMIT - len(opening) - len(closing) - 1
    largest = opening + "#" * filler + "\n" + closing
    assert metadata(largest) == ScriptMetadata()
    assert fail(opening + "#" * (filler + 1) + "\n" + closing) == (
        "f:1:1: the `/// eka` block is larger than 16 KiB"
    )
    assert "larger than 16 KiB" in fail(opening + "#\n" * HEAD_LIMIT)


def test_only_the_head_of_a_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "script"
    file.write_bytes(b"x" * (HEAD_LIMIT + 5))
    assert len(read_head(file)) == HEAD_LIMIT


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        read_head(tmp_path / "absent")
    with pytest.raises(UsageError, match="no such file"):
        read_head("/dev/null/x")
    with pytest.raises(UsageError, match="is a directory"):
        read_head(tmp_path)


@pytest.fixture
def not_root() -> Iterator[None]:
    """Root reads everything, so root lends its privilege away for a while."""
    was = os.geteuid()
    os.seteuid(65534 if was == 0 else was)
    yield
    os.seteuid(was)


def test_an_unreadable_file_is_not_executable(not_root: None) -> None:
    with tempfile.NamedTemporaryFile(dir="/tmp") as file:
        os.chmod(file.name, 0)
        with pytest.raises(NotExecutable, match="not readable"):
            read_head(file.name)


def stated(value: str, origin: str) -> Stated[str]:
    return Stated(value, origin, True)


def test_flag_lines_follow_the_first_line() -> None:
    header = parse("#!/usr/bin/env eka-run\r\n#!eka-run -p a\r\n#! eka-run\t--net \r\n\r\n")
    assert header._replace(size=None) == Header(
        lines=Flags(
            packages=(stated("a", "--package (f:2:14)"),),
            network=Stated(True, "--net (f:3:12)", True),
        )
    )


def test_flag_lines_list_packages_as_nix_shell_does() -> None:
    header = parse("#!/x\n#!eka-run -i bash -p a 'b c' \\#d --read ~/x\n")
    assert header.lines == Flags(
        interpreter=stated("bash", "--interpreter (f:2:14)"),
        packages=(
            stated("a", "--package (f:2:22)"),
            stated("b c", "--package (f:2:24)"),
            stated("#d", "--package (f:2:30)"),
        ),
        read=(stated("~/x", "--read (f:2:41)"),),
    )


def test_the_words_of_flag_lines_are_joined() -> None:
    header = parse("#!/x\n#!eka-run -i a -p\n#!eka-run b c\n#!eka-run -i d\n")
    assert [item.value for item in header.lines.packages] == ["b", "c"]
    assert header.lines.interpreter == stated("d", "--interpreter (f:4:14)")


@pytest.mark.parametrize(
    "text",
    [
        "#!eka-run -p a\n",
        "\n#!eka-run -p a\n",
        "#!/x\n\n#!eka-run -p a\n",
        "#!/x\n#!eka-runner -p\n",
    ],
)
def test_lines_elsewhere_are_not_flag_lines(text: str) -> None:
    assert parse(text)._replace(size=None) == Header()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("#!/x\n#!eka-run --pakage a", "f:2:11: unknown flag `--pakage`"),
        ("#!/x\n#!eka-run -p a\n#! eka-run   --nett", "f:3:14: unknown flag `--nett`"),
        ("#!/x\n#!eka-run 'é' ", "f:2:11: `é` is not a flag"),
        ("#!/x\n#!eka-run --net a", "f:2:17: `a` is not a flag"),
        ("#!/x\n#!eka-run --env 'é' ", "f:2:17: `é` is not a variable"),
        ("#!/x\n#!eka-run --read='é' --env", "f:2:22: `--env` needs a value"),
        ("#!/x\n#!eka-run -p a 'b ", "f:2:16: no closing quotation"),
        ("#!/x\n#!eka-run -p a b\\", "f:2:16: no escaped character"),
        ("#!/x\n#!eka-run --explain", "f:2:11: `--explain` is for the command line"),
        ("#!/x\n#!eka-run -vv", "f:2:11: `-v` is for the command line"),
        ("#!/x\n#!eka-run -- x", "f:2:11: unknown flag `--`"),
        ("#!/x\n#!eka-run -p a\0b", "f:2:14: null character in the value of `-p`"),
        ("#!/x\n# -*- coding: utf-8 -*-\n#!eka-run -p a", "f:3:1: a `#!eka-run` line must follow"),
        ("#!/x\n#!eka-run " + "a" * BLOCK_LIMIT, "f:2:1: line is longer than 16 KiB"),
    ],
)
def test_errors_in_flag_lines_stand_at_the_word(text: str, message: str) -> None:
    assert fail(text).startswith(message)


def test_a_flag_line_that_is_not_utf8_is_an_error_at_the_byte() -> None:
    assert fail("#!/x\n#!eka-run é".encode() + b"\xfe") == "f:2:12: byte 0xfe is not UTF-8"


def test_command_line_wins_over_lines_over_block() -> None:
    header = parse(
        "#!/x\n#!eka-run -i lines -p l --env A=l --env B=l\n"
        + write_block(
            'interpreter = "block"\npackages = ["b"]\nnetwork = true\n'
            'env = ["A=b", "C=b"]\nread = ["r"]'
        )
    )
    command_line, _ = parse_flags(["--no-net", "-p", "c", "--env", "B=c"])
    asked = header.with_flags(command_line)
    assert [item.value for item in asked.packages] == ["c", "l", "b"]
    assert asked.interpreter == stated("lines", "--interpreter (f:2:14)")
    assert asked.network == Stated(False, "--no-net", False)
    assert asked.network_origin is None
    assert {item.value for item in asked.env} == {"A=l", "B=c", "C=b"}
    assert asked.read == (stated("r", "read (f:8:11)"),)
    assert header.with_flags(Flags()).network_origin == "network (f:6:13)"


def test_header_errors_are_shown_as_eka_errors() -> None:
    with pytest.raises(EkaError) as caught:
        parse("# /// eka")
    assert caught.value.exit_code == 10
