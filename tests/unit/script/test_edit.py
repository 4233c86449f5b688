"""Packages are added to headers and removed from them, and not one byte more is touched."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eka.script.edit import add_packages, remove_packages, stated_packages
from eka.script.header import parse_header
from eka_runtime.errors import HeaderError, UsageError
from tests.unit.script.test_header import LEADERS, documents, write_block


def added(text: str | bytes, *packages: str, file: str = "f") -> bytes:
    content = text.encode() if isinstance(text, str) else text
    return add_packages(content, file, packages)


def removed(text: str, *packages: str) -> bytes:
    return remove_packages(text.encode(), "f", packages)


def block(*lines: str, leader: str = "# ") -> str:
    return "".join(f"{leader}{line}".rstrip(" ") + "\n" for line in ("/// eka", *lines, "///"))


SHEBANG = "#!/usr/bin/env eka-run\n"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (['packages = ["a"]  # why'], ['packages = ["a", "p"]  # why']),
        (["packages = []"], ['packages = ["p"]']),
        (["packages = [", '  "a", # one', "]"], ["packages = [", '  "a", # one', '  "p",', "]"]),
        (["# none yet", 'read=["x"]'], ["# none yet", 'read=["x"]', 'packages = ["p"]']),
        ([], ['packages = ["p"]']),
        (["", "network = true", ""], ["", "network = true", 'packages = ["p"]', ""]),
    ],
)
def test_a_package_is_added_to_the_block(before: list[str], after: list[str]) -> None:
    script = f"{SHEBANG}\n{block(*before)}rest\n"
    assert added(script, "p").decode() == f"{SHEBANG}\n{block(*after)}rest\n"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (['packages = ["p", "a"]  # why'], ['packages = ["a"]  # why']),
        (['packages = ["p"]'], ["packages = []"]),
        (["packages = [", '  "a",', '  "p",', "]"], ["packages = [", '  "a",', "]"]),
        (['packages = ["p", "a", "p"]'], ['packages = ["a"]']),
    ],
)
def test_a_package_is_removed_from_the_block(before: list[str], after: list[str]) -> None:
    script = f"{SHEBANG}{block(*before)}rest\n"
    assert removed(script, "p").decode() == f"{SHEBANG}{block(*after)}rest\n"


def test_a_leader_is_kept_with_what_follows_it() -> None:
    text = '\xef\xbb\xbf\t--/// eka\r\n\t--packages = [\r\n\t--\t"a"\r\n\t--]\r\n\t--///\r\nx\xff'
    script = text.encode("latin-1")
    assert added(script, "é") == script.replace(b'"a"\r\n', '"a",\r\n\t--\t"é"\r\n'.encode())


def test_other_bytes_are_kept() -> None:
    script = b"\xff\r\n\0# /// eka\n# /// eka\n# packages = []\n# ///\n\xfe\r"
    assert added(script, "p") == script.replace(b"[]", b'["p"]')


def test_what_is_stated_is_not_added_again() -> None:
    script = f"{SHEBANG}#!eka-run -p b\n{block('packages = [ ]', leader='// ')}"
    assert added(script, "b") == script.encode()
    assert added(script, "a", "b", "a") == script.replace("[ ]", '["a"]').encode()


@pytest.mark.parametrize(
    ("text", "above", "below", "file", "leader"),
    [
        (SHEBANG, SHEBANG, "", "tool", "#"),
        (f"{SHEBANG}echo\n", SHEBANG, "echo\n", "tool", "#"),
        (f"{SHEBANG}#!eka-run -i sh\n", f"{SHEBANG}#!eka-run -i sh\n", "", "tool", "#"),
        (f"{SHEBANG}# coding: latin-1\nx", f"{SHEBANG}# coding: latin-1\n", "x", "t.py", "#"),
        (f"{SHEBANG}# a\nx", SHEBANG, "# a\nx", "tool", "#"),
        ("# -*- coding: x -*-\nx\n", "# -*- coding: x -*-\n", "x\n", "a.py", "#"),
        ("x\n", "", "x\n", "dir.x/a.lua", "--"),
        (f"{SHEBANG}x\n", SHEBANG, "x\n", "a.ts", "//"),
        (f"{SHEBANG}x\n", SHEBANG, "x\n", "a.scm", ";"),
        ("", "", "", "a.sh", "#"),
    ],
)
def test_a_header_is_made(text: str, above: str, below: str, file: str, leader: str) -> None:
    made = block('packages = ["p", "q\\"\\\\"]', leader=f"{leader} ")
    assert added(text, "p", 'q"\\', file=file).decode() == f"{above}{made}{below}"


def test_a_first_line_without_an_end_gets_one() -> None:
    assert added("#!/bin/sh", "p").decode() == "#!/bin/sh\n" + block('packages = ["p"]')
    assert added("#!/bin/sh\r\nx\r\n", "p").count(b"\r\n") == 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\x7fELF", "is a binary"),
        ("plain text\n", "does not show how its comments begin"),
    ],
)
def test_what_cannot_be_edited(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        added(text, "p")


@pytest.mark.parametrize("lines", [["packages = 1"], ["pakages = []"], ["packages = ["]])
def test_a_wrong_header_is_not_edited(lines: list[str]) -> None:
    with pytest.raises(HeaderError):
        added(block(*lines), "p")


def test_a_header_that_would_be_too_large_is_refused() -> None:
    with pytest.raises(HeaderError, match="larger than"):
        added(block("packages = []"), "p" * (1 << 14))


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        (block('packages = ["a"]'), "it has `a`"),
        (SHEBANG, "it states no packages"),
        (f"{SHEBANG}#!eka-run -p p\n", "remove it from the `#!eka-run` line"),
    ],
)
def test_what_is_not_stated_cannot_be_removed(text: str, hint: str) -> None:
    with pytest.raises(UsageError, match="has no package `p`") as caught:
        removed(text, "p")
    assert caught.value.hint == hint


names = st.text(st.characters(exclude_characters="\0\r", exclude_categories=["Cs"]), min_size=1)


@given(documents, st.sampled_from(LEADERS), st.lists(names, min_size=1, max_size=3))
def test_any_header_can_be_edited(
    document: dict[str, object], leader: str, packages: list[str]
) -> None:
    import tomlkit

    toml = tomlkit.dumps(document).replace("\r", "")
    text = f"{SHEBANG}first\n{write_block(toml.rstrip(), leader)}last"
    edited = added(text, *packages).decode()
    before, after = parse_header(text.encode(), "f"), parse_header(edited.encode(), "f")
    new = [name for name in dict.fromkeys(packages) if name not in stated_packages(before)]
    assert stated_packages(after) == (*stated_packages(before), *new)
    assert edited.startswith(f"{SHEBANG}first\n{leader} /// eka\n")
    assert edited.endswith(f"{leader} ///\nlast")
    if new:
        again = remove_packages(edited.encode(), "f", new)
        assert stated_packages(parse_header(again, "f")) == stated_packages(before)
