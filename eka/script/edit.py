"""Edits the packages that a script states, in place: `eka add --script`, `eka remove --script`.

Only lines of the `/// eka` block that change are written anew, with the block's own leader, blank
and line end; every other byte of the file stays, whatever its encoding. Where there is no block one
is made, below the `#!` lines. Constraint: a pure function over bytes, and its result is read back
before it is given away. Out of scope: what packages are; `#!eka-run` lines, which people edit.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import tomlkit
from tomlkit.items import Array

from eka.script.header import HEAD_LIMIT, Header, find_block, parse_header
from eka.script.stated import quoted
from eka_runtime.errors import UsageError

_ELF = b"\x7fELF"
_BOM = b"\xef\xbb\xbf"
_MARK = b"/// eka"
# PEP 263: Python and others take an encoding from the first two lines only.
_CODING = re.compile(rb"[ \t\f]*#.*?coding[:=][ \t]*[-_.a-zA-Z0-9]+")
_FLAG_LINE = re.compile(rb"#![ \t]*eka-run(?:[ \t].*)?")

_LEADERS = {
    "#": "awk bash fish jl ksh nix nu pl pm ps1 py r rb sh tcl toml yaml yml zsh",
    "//": "c cc cpp cxx cs d dart fs go h hpp java js jsx kt kts mjs php rs scala swift ts tsx zig",
    "--": "adb ads elm hs lua sql vhd",
    ";": "asm clj el lisp lsp rkt scm ss",
    "%": "erl hrl sty tex",
}
_BY_SUFFIX = {suffix: leader for leader, text in _LEADERS.items() for suffix in text.split()}

Change = Callable[[Array], None]


class Lines(NamedTuple):
    """A file in lines without their b"\\n"; `bom` is what precedes the first."""

    bom: bytes
    lines: list[bytes]

    @classmethod
    def of(cls, content: bytes) -> Lines:
        bom = _BOM if content.startswith(_BOM) else b""
        return cls(bom, content[len(bom) :].split(b"\n"))

    def content(self) -> bytes:
        return self.bom + b"\n".join(self.lines)


def add_packages(content: bytes, file: str, packages: Sequence[str]) -> bytes:
    """Those that the script does not state yet, at the end. Raises HeaderError, UsageError."""
    stated = stated_packages(_header(content, file))
    new = [text for text in dict.fromkeys(packages) if text not in stated]
    if not new:
        return content

    def change(array: Array) -> None:
        array.extend(new)

    return _edited(content, file, change)


def remove_packages(content: bytes, file: str, packages: Sequence[str]) -> bytes:
    """Raises HeaderError, and UsageError for a package that the block does not state."""
    header = _header(content, file)
    block = header.metadata.packages if header.metadata else ()
    for text in packages:
        if text not in block:
            lines = text in stated_packages(header)
            hint = (
                "remove it from the `#!eka-run` line" if lines else _have(stated_packages(header))
            )
            raise UsageError(f"`{file}` has no package {quoted(text)} in its header", hint=hint)

    def change(array: Array) -> None:
        for text in packages:
            while text in array:
                array.remove(text)

    return _edited(content, file, change)


def stated_packages(header: Header) -> tuple[str, ...]:
    return tuple(item.value for item in (*header.lines.packages, *header.block.packages))


def _have(packages: Sequence[str]) -> str:
    listed = ", ".join(map(quoted, packages))
    return f"it has {listed}" if listed else "it states no packages"


def _header(content: bytes, file: str) -> Header:
    if content.startswith(_ELF):
        raise UsageError(
            f"`{file}` is a binary, which has no header", hint="give packages with `eka-run -p P`"
        )
    return parse_header(content[:HEAD_LIMIT], file)


def _edited(content: bytes, file: str, change: Change) -> bytes:
    before = _header(content, file)
    lines = Lines.of(content)
    if before.metadata is None:
        _insert_block(lines.lines, file, before, change)
    else:
        _edit_block(lines.lines, file, change)
    edited = lines.content()
    _check(before, parse_header(edited[:HEAD_LIMIT], file), file)
    return edited


def _check(before: Header, after: Header, file: str) -> None:
    """That nothing but the packages is another."""
    old, new = (
        header.metadata and header.metadata._replace(packages=(), stated=frozenset())
        for header in (before, after)
    )
    if after.lines != before.lines or new is None or (old is not None and old != new):
        raise UsageError(
            f"the header of `{file}` cannot be edited without changing more than its packages",
            hint="edit it by hand",
        )


def _edit_block(lines: list[bytes], file: str, change: Change) -> None:
    block = find_block(lines, file)
    assert block is not None  # there is metadata
    first, count = block.first_line, len(block.indents)
    raw = lines[first : first + count]
    opening = lines[first - 1]
    leader = opening.rstrip(b"\r \t").removesuffix(_MARK).rstrip(b" \t")
    end = b"\r" if opening.endswith(b"\r") else b""
    old = block.text.split("\n") if count else []
    new = _change_toml(block.text, change).split("\n")
    head = _common(old, new)
    tail = _common(old[head:][::-1], new[head:][::-1])
    blank = _blank(raw, leader, head)
    made = [
        leader + (blank + line.encode() if line else b"") + end
        for line in new[head : len(new) - tail]
    ]
    lines[first + head : first + count - tail] = made


def _change_toml(text: str, change: Change) -> str:
    document = tomlkit.parse(f"{text}\n" if text else "")
    if "packages" not in document:
        document["packages"] = tomlkit.array()
    array = document["packages"]
    assert isinstance(array, Array)  # the header was checked
    change(array)
    return tomlkit.dumps(document).removesuffix("\n")


def _common(left: Sequence[str], right: Sequence[str]) -> int:
    pairs = zip(left, right, strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(left), len(right)))


def _blank(raw: Sequence[bytes], leader: bytes, at: int) -> bytes:
    """What stands between leader and text, on the line that changes or else on any."""
    for line in (*raw[at:], *raw):
        rest = line[len(leader) :]
        if rest.strip():
            return rest[:1] if rest[:1] in (b" ", b"\t") else b""
    return b" "


def _insert_block(lines: list[bytes], file: str, header: Header, change: Change) -> None:
    leader = _leader(lines, file, header)
    end = b"\r" if lines[0].endswith(b"\r") else b""
    array = tomlkit.array()
    change(array)
    listed = ", ".join(json.dumps(str(text), ensure_ascii=False) for text in array)
    block = ["/// eka", f"packages = [{listed}]", "///"]
    at = _after_first_lines(lines)
    lines[at:at] = [f"{leader} {line}".encode() + end for line in block]
    if at + len(block) == len(lines):
        lines.append(b"")


def _after_first_lines(lines: Sequence[bytes]) -> int:
    at = 1 if lines[0].startswith(b"#!") else 0
    while at and at < len(lines) and _FLAG_LINE.fullmatch(lines[at].rstrip(b"\r")):
        at += 1
    if at < min(len(lines), 2) and _CODING.match(lines[at]):
        at += 1
    return at


def _leader(lines: Sequence[bytes], file: str, header: Header) -> str:
    name = file.rpartition("/")[2]
    suffix = name.rpartition(".")[2].lower() if "." in name else ""
    if suffix in _BY_SUFFIX:
        return _BY_SUFFIX[suffix]
    if lines[0].startswith(b"#!"):
        return "#"
    raise UsageError(
        f"`{file}` does not show how its comments begin",
        hint="write a header by hand: a comment `/// eka`, `packages = []`, and a comment `///`",
    )
