from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eka import warm
from eka.script.flags import FLAGS, Flags, combine, parse_flags, render_help
from eka.script.stated import Stated
from eka_runtime.errors import UsageError


def stated(value: str, origin: str) -> Stated[str]:
    return Stated(value, origin, False)


def fail(*argv: str) -> UsageError:
    with pytest.raises(UsageError) as caught:
        parse_flags(argv)
    return caught.value


def test_every_flag_has_its_effect() -> None:
    flags, rest = parse_flags([
        "-p", "a", "--package", "b", "--package=c", "-i", "sh", "--net",
        "--read", "r", "--write=w", "--env", "A", "--env=B=1=2", "--nesting", "--locked",
        "--limit", "memory=1G", "--device", "/dev/kvm", "--home=none",
        "--require-sandbox", "--explain", "--keep", "--record", "--lazy", "--json", "--store", "s",
        "-C", "d", "--view", "fuse", "--profile=./p.toml",
        "--offline", "--color=never", "-v", "--verbose", "--version", "--help",
        "FILE", "-x", "--", "--net",
    ])  # fmt: skip
    assert rest == ["FILE", "-x", "--", "--net"]
    assert flags == Flags(
        packages=tuple(stated(name, "--package") for name in "abc"),
        interpreter=stated("sh", "--interpreter"),
        network=Stated(True, "--net", False),
        read=(stated("r", "--read"),),
        write=(stated("w", "--write"),),
        env=(stated("A", "--env"), stated("B=1=2", "--env")),
        devices=(stated("/dev/kvm", "--device"),),
        home=stated("none", "--home"),
        limits=(stated("memory=1G", "--limit"),),
        nesting=Stated(True, "--nesting", False),
        locked=True,
        require_sandbox=True,
        explain=True,
        keep=True,
        record=True,
        lazy=True,
        view="fuse",
        profile="./p.toml",
        json=True,
        store="s",
        directory="d",
        offline=True,
        color="never",
        verbosity=2,
        version=True,
        help=True,
    )
    # Every field differs from its default above, so a forgotten one would show.
    assert all(getattr(flags, f) != getattr(Flags(), f) for f in Flags._fields)


@pytest.mark.parametrize(
    ("argv", "rest"),
    [
        ([], []),
        (["--"], []),
        (["--", "--net"], ["--net"]),
        (["-"], ["-"]),
        (["", "--net"], ["", "--net"]),
        (["file", "-p"], ["file", "-p"]),
    ],
)
def test_flags_end_at_the_first_other_word(argv: list[str], rest: list[str]) -> None:
    assert parse_flags(argv) == (Flags(), rest)


def test_the_last_of_several_single_values_counts() -> None:
    flags, _ = parse_flags(["-i", "a", "-i", "b", "--no-net", "--net", "--net", "--no-net"])
    assert flags.interpreter == stated("b", "--interpreter")
    assert flags.network == Stated(False, "--no-net", False)


@pytest.mark.parametrize(
    ("words", "verbosity"),
    [("-v", 1), ("-vv", 2), ("-v -vv", 3), ("-q", -1), ("-q -v", 1), ("-v -v -q", -1)],
)
def test_verbosity_counts(words: str, verbosity: int) -> None:
    assert parse_flags(words.split())[0].verbosity == verbosity


def test_values_may_look_odd() -> None:
    flags, rest = parse_flags(["--read=-x", "--read", "-", "--env=A=", "-p", "a b", "f"])
    assert [item.value for item in flags.read] == ["-x", "-"]
    assert [item.value for item in flags.packages] == ["a b"]
    assert rest == ["f"]


@pytest.mark.parametrize(
    ("argv", "message", "hint"),
    [
        (["--xyz"], "unknown flag `--xyz`", "see `eka-run --help`"),
        (["--packages", "x"], "unknown flag `--packages`", "write `--package`"),
        (["-package", "x"], "unknown flag `-package`", "write `--package`"),
        (["-ppython3"], "unknown flag `-ppython3`", "write `-p python3`"),
        (["--required-sandbox"], "unknown flag `--required-sandbox`", "write `--require-sandbox`"),
        (["-vx"], "unknown flag `-vx`", "see `eka-run --help`"),
        (["-vv=1"], "unknown flag `-vv`", None),
        (["-=x"], "unknown flag `-`", None),
        (["--=x"], "unknown flag `--`", None),
        (["-é"], "unknown flag `-é`", None),
        (["-vp"], "unknown flag `-vp`", "see `eka-run --help`"),
        (["-p"], "`-p` needs a value", "write `-p P`"),
        (
            ["--read", "--net", "f"],
            "`--read` needs a value",
            "write `--read PATH`, or `--read=--net` if that is the value",
        ),
        (["--read="], "`--read` needs a value that is not empty", None),
        (["-p", ""], "`-p` needs a value that is not empty", None),
        (["--net=yes"], "`--net` takes no value", "write `--net`"),
        (["--env", "1A"], "`1A` is not a variable", "write NAME to pass a variable on, or"),
        (["--env", "A\n"], "`A\\x0a` is not a variable", "write NAME"),
        (["--color", "blue"], "`--color` cannot be `blue`", "use one of `auto`, `always`, `never`"),
    ],
)
def test_errors_say_what_to_write(argv: list[str], message: str, hint: str | None) -> None:
    error = fail(*argv)
    assert str(error) == message
    assert (error.hint or "").startswith(hint or "")


@given(st.lists(st.text(max_size=6) | st.sampled_from([f.long for f in FLAGS]), max_size=8))
def test_random_words_are_read_or_refused(words: list[str]) -> None:
    try:
        _, rest = parse_flags(words)
    except UsageError:
        return
    assert words[len(words) - len(rest) :] == rest


def test_combining_with_nothing_changes_nothing() -> None:
    flags, _ = parse_flags(["-p", "a", "--no-net", "-q", "--keep", "--env", "A=1", "--store", "s"])
    assert combine(flags, Flags()) == combine(Flags(), flags) == combine(flags) == flags


def test_help_names_every_flag() -> None:
    text = render_help()
    for flag in FLAGS:
        assert f"{flag.long} {flag.metavar}".rstrip() + " " in text
        assert flag.help in text
    assert max(map(len, text.splitlines())) <= 80


def test_names_are_unique_and_fields_exist() -> None:
    names = [name for flag in FLAGS for name in (flag.long, flag.short) if name]
    assert len(set(names)) == len(names)
    assert {flag.field for flag in FLAGS} == set(Flags._fields)


def test_the_warm_path_reads_flags_alike() -> None:
    takes_value = {n.encode(): bool(f.metavar) for f in FLAGS for n in (f.long, f.short)}
    assert {takes_value[name] for name in warm.FLAGS_WITH_VALUE} == {True}
    assert {takes_value[name] for name in warm.FLAGS_WITHOUT_VALUE} == {False}
