"""Reads what a script states about itself: a commented TOML block and `#!eka-run` lines.

    #!/usr/bin/env eka-run
    #!eka-run -p ./result -i python3        flags, directly below the first line
    # /// eka                               or a block, anywhere in the first 64 KiB
    # packages = ["./result"]
    # ///

The leader (`#` here) is whatever precedes `/// eka`, so that the file stays a valid program in any
language. spec/script.md is the rule book. Constraint: files are hostile; what is read is bounded,
only the header itself has to be UTF-8, and each error says line and column.
"""

from __future__ import annotations

import io
import re
import shlex
from collections.abc import Iterator, Mapping
from os import PathLike, fspath
from typing import NamedTuple, TypeVar

from eka.script.flags import Flags, combine, parse_flags
from eka.script.locate import Located
from eka.script.metadata import ScriptMetadata, line_and_column, parse_metadata
from eka.script.stated import Place, Stated
from eka_runtime.errors import NotExecutable, UsageError

START_LIMIT = 64 << 10
"""A block begins within so many bytes of the file."""
BLOCK_LIMIT = 16 << 10
"""A block, leaders included, has at most so many bytes."""
HEAD_LIMIT = START_LIMIT + BLOCK_LIMIT

T = TypeVar("T")

_BOM = b"\xef\xbb\xbf"
_ELF = b"\x7fELF"
# A leader is punctuation: prose, assignments and strings that mention a block do not open one.
_OPENING = re.compile(rb"([ \t]*[!-/:-@\[-`{-~]{1,8})(?:[ \t]+|(?<!/))/// eka[ \t]*")
_BLANK = re.compile(r"[ \t\r\n]*")
_FLAG_LINE = re.compile(rb"#![ \t]*eka-run(?:[ \t].*)?")


class Header(NamedTuple):
    """`metadata` is None without a block; `block` and `lines` say where each statement stands.

    `size` is how many bytes from the start on hold all that; other lines may follow as long as no
    comment goes on there. None where that cannot be told.
    """

    metadata: ScriptMetadata | None = None
    block: Flags = Flags()
    lines: Flags = Flags()
    size: int | None = None

    def with_flags(self, command_line: Flags) -> Flags:
        """All that is asked for: command line before `#!eka-run` lines before the block."""
        return combine(command_line, self.lines, self.block)


class Block(NamedTuple):
    """`indents` has the length of what was stripped from each line of `text`."""

    file: str
    first_line: int
    indents: list[int]
    text: str

    @property
    def last_line(self) -> int:
        return self.first_line + len(self.indents) + 1

    def place(self, line: int, column: int) -> Place:
        # An error at the end of the TOML stands on the closing line.
        indent = self.indents[line - 1] if line <= len(self.indents) else 0
        return Place(self.file, self.first_line + line, indent + column)


def read_head(file: str | PathLike[str]) -> bytes:
    """The part that can hold a header. Raises UsageError, or NotExecutable when unreadable."""
    try:
        with open(file, "rb") as stream:
            return stream.read(HEAD_LIMIT)
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(f"no such file: {fspath(file)}") from None
    except IsADirectoryError:
        raise UsageError(f"`{fspath(file)}` is a directory", hint="name a script") from None
    except PermissionError:
        hint = f"make it readable, as in `chmod u+r {fspath(file)}`"
        raise NotExecutable(f"`{fspath(file)}` is not readable", hint=hint) from None


def parse_header(head: bytes, file: str) -> Header:
    """Raises HeaderError. `file` is the name for messages; an ELF file has no header."""
    if head.startswith(_ELF):
        return Header()
    lines = head.removeprefix(_BOM)[:HEAD_LIMIT].split(b"\n")
    flags = _parse_flag_lines(lines, file)
    block = find_block(lines, file)
    size = _size(head, block.last_line if block else 0)
    if block is None:
        return Header(lines=flags, size=size)
    metadata, found = parse_metadata(block.text, block.place)
    return Header(metadata, _as_flags(metadata, found, block), flags, size)


def _size(head: bytes, last_line: int) -> int | None:
    lines = head.split(b"\n")
    while last_line < len(lines) and lines[last_line].startswith(b"#"):
        last_line += 1
    size = sum(len(line) + 1 for line in lines[:last_line])
    return size if 0 < size <= min(len(head), HEAD_LIMIT - 1) else None


def _parse_flag_lines(lines: list[bytes], file: str) -> Flags:
    words: list[str] = []
    places: list[Place] = []
    for number, raw in _flag_lines(lines, file):
        line = _decode(raw, Place(file, number, 1))
        for word, column in _split(line, Place(file, number, 1)):
            words.append(word)
            places.append(Place(file, number, column))
    return parse_flags(words, places)[0]


def _flag_lines(lines: list[bytes], file: str) -> Iterator[tuple[int, bytes]]:
    if not lines[0].startswith(b"#!"):
        return
    expected = 2
    for number, line in enumerate(lines[1:], 2):
        if not line.startswith(b"#"):
            return
        if not _FLAG_LINE.fullmatch(line.rstrip(b"\r")):
            continue
        if number != expected:
            # Silently ignoring it would be worse: it looks effective.
            raise Place(file, number, 1).error(
                "a `#!eka-run` line must follow the first line or another such line",
                hint=f"move it up to line {expected}",
            )
        if len(line) > BLOCK_LIMIT:
            raise Place(file, number, 1).error(f"line is longer than {BLOCK_LIMIT >> 10} KiB")
        expected += 1
        yield number, line


def _split(line: str, start: Place) -> Iterator[tuple[str, int]]:
    """The words after `eka-run` as a POSIX shell splits them, each with its column."""
    stream = io.StringIO(line)
    begin = line.index("eka-run") + len("eka-run")
    stream.seek(begin)
    lexer = shlex.shlex(stream, posix=True)
    lexer.whitespace_split = True
    lexer.commenters = ""
    while True:
        # shlex tells no positions, but it reads one character past a word and no further.
        blank = _BLANK.match(line, stream.tell())
        column = blank.end() + 1 if blank else 1
        try:
            word = lexer.get_token()
        except ValueError as error:
            message = str(error)
            raise start._replace(column=column).error(message[:1].lower() + message[1:]) from None
        if word is None:
            return
        yield word, column


def find_block(lines: list[bytes], file: str) -> Block | None:
    """The block of a file without its byte order mark; None if there is none."""
    found: Block | None = None
    start, index = 0, 0
    while index < len(lines) and start < START_LIMIT:
        match = _OPENING.fullmatch(lines[index].rstrip(b"\r"))
        size = 1
        if match:
            block, size = _read_block(lines, index, match[1], file)
            if found:
                raise Place(file, index + 1, 1).error(
                    f"second `/// eka` block: the first begins on line {found.first_line}",
                    hint="join the two",
                )
            found = block
        start += sum(len(line) + 1 for line in lines[index : index + size])
        index += size
    return found


def _read_block(lines: list[bytes], opening: int, leader: bytes, file: str) -> tuple[Block, int]:
    """The block and how many lines it has, markers included."""
    place = Place(file, opening + 1, 1)
    shown = leader.decode("ascii")
    content: list[str] = []
    indents: list[int] = []
    size = len(lines[opening])
    for number, raw in enumerate(lines[opening + 1 :], opening + 2):
        size += len(raw) + 1
        if size > BLOCK_LIMIT:
            raise place.error(f"the `/// eka` block is larger than {BLOCK_LIMIT >> 10} KiB")
        line = raw.rstrip(b"\r")
        if not line.startswith(leader):
            raise place.error(
                f"the `/// eka` block is not closed: line {number} does not begin with `{shown}`",
                hint=f"close it with a line `{shown} ///`",
            )
        rest = line[len(leader) :]
        if rest.strip(b" \t") == b"///":
            return Block(file, opening + 1, indents, "\n".join(content)), number - opening
        indent = len(leader) + (rest[:1] in (b" ", b"\t"))
        content.append(_decode(line, place._replace(line=number))[indent:])
        indents.append(indent)
    raise place.error(
        "the `/// eka` block is not closed", hint=f"close it with a line `{shown} ///`"
    )


def _decode(raw: bytes, place: Place) -> str:
    line = raw.rstrip(b"\r")
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        column = len(line[: error.start].decode("utf-8")) + 1
        raise place._replace(column=column).error(
            f"byte 0x{line[error.start]:02x} is not UTF-8", hint="write the header in UTF-8"
        ) from None


def _as_flags(metadata: ScriptMetadata, found: Mapping[str, Located], block: Block) -> Flags:
    def stated(key: str, value: T, offset: int) -> Stated[T]:
        place = block.place(*line_and_column(block.text, offset))
        return Stated(value, f"{key} ({place})", True)

    def listed(key: str, values: tuple[str, ...]) -> tuple[Stated[str], ...]:
        offsets = found[key].elements if key in found else ()
        return tuple(stated(key, *pair) for pair in zip(values, offsets, strict=True))

    interpreter, network = found.get("interpreter"), found.get("network")
    nesting, home = found.get("nesting"), found.get("home")
    return Flags(
        packages=listed("packages", metadata.packages),
        interpreter=stated("interpreter", metadata.interpreter, interpreter.value)
        if interpreter and metadata.interpreter
        else None,
        network=stated("network", metadata.network, network.value) if network else None,
        read=listed("read", metadata.read),
        write=listed("write", metadata.write),
        limits=listed("limits", metadata.limits),
        devices=listed("devices", metadata.devices),
        home=stated("home", metadata.home, home.value) if home else None,
        nesting=stated("nesting", metadata.nesting, nesting.value) if nesting else None,
        env=listed("env", metadata.env),
        locked=metadata.locked,
        lazy=metadata.lazy,
    )
