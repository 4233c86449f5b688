"""Entries that are buffered whole take another way through the parser: with the same outcome."""

from __future__ import annotations

import io
import random
from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from eka_runtime.errors import NarError
from eka_runtime.nix import nar
from eka_runtime.nix.nar import FILE_DATA_MAX, NarReader, NarSink, NarWriter, Read, parse_nar
from eka_runtime.nix.tokens import BUFFER_SIZE
from tests.unit.nix.trees import (
    File,
    Link,
    Tree,
    directory,
    in_pieces,
    mutations,
    to_nar,
    trees,
)

Event = tuple[object, ...]


class Recorder:
    """Every call with its arguments; of contents `step` bytes are read, and the rest is left."""

    def __init__(self, reader: NarReader, step: int) -> None:
        self.events: list[Event] = []
        self._reader = reader
        self._step = step

    def directory(self, name: bytes) -> None:
        self.events.append(("directory", name))

    def end_directory(self) -> None:
        self.events.append(("end",))

    def symlink(self, name: bytes, target: bytes) -> None:
        self.events.append(("symlink", name, target))

    def file(self, name: bytes, executable: bool, size: int, read: Read) -> None:
        at, contents = self._reader.offset, b""
        # A read may give less than it was asked for, where the input came in pieces.
        while len(contents) < self._step and (piece := read(self._step - len(contents))):
            contents += piece
        self.events.append(("file", name, executable, size, at, contents))


class DataRecorder(Recorder):
    def file_data(self, name: bytes, executable: bool, data: bytes) -> None:
        self.events.append(("data", name, executable, data))


class Outcome:
    """What a parse told its sink, how it ended, and what it consumed till then."""

    def __init__(self, read: Read, kind: type[Recorder] = Recorder, step: int = 1 << 20) -> None:
        reader = NarReader(read)
        sink, seen, self.problem = kind(reader, step), bytearray(), ""
        try:
            with reader.tee(seen.extend):
                parse_nar(reader, sink)
        except NarError as error:
            self.problem = str(error)
        self.events, self.end = sink.events, reader.offset
        self.seen = bytes(seen) if not self.problem else b""

    @property
    def place(self) -> str:
        return self.problem.partition(":")[0]


def entry_by_entry(read: Read, kind: type[Recorder], step: int) -> Outcome:
    """Parsed by the functions that take a token after the other, whatever is buffered."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nar._Parser, "_buffered_entries", lambda *_: nar._AT_NAME)
        return Outcome(read, kind, step)


kinds = st.sampled_from([Recorder, DataRecorder])


_CUT = to_nar(File(b"x" * (1 << 21)))[: -(1 << 20)]


@settings(deadline=None, max_examples=500)
@given(mutations(), kinds, st.sampled_from([0, 1, 5, 1 << 20]), st.integers(1, 300))
@example(_CUT, Recorder, 1 << 22, 300)
def test_the_outcome_is_that_of_the_longer_way(
    data: bytes, kind: type[Recorder], step: int, piece: int
) -> None:
    fast = Outcome(io.BytesIO(data).read, kind, step)
    assert vars(fast) == vars(entry_by_entry(io.BytesIO(data).read, kind, step))
    # In pieces less may be known of what was found, but not of where.
    for size in (1, piece):
        pieces = Outcome(in_pieces(data, size), kind, step)
        assert (pieces.events, pieces.end, pieces.place) == (fast.events, fast.end, fast.place)
        assert pieces.seen == fast.seen


def varied(seed: int, entries: int) -> Tree:
    """Enough entries, of enough sizes, for any boundary to fall anywhere in one."""
    rng = random.Random(seed)

    def node(depth: int) -> Tree:
        if depth and rng.random() < 0.4:
            names = {rng.randbytes(rng.randint(1, 20)).hex() for _ in range(rng.randint(0, 6))}
            return directory(**{name: node(depth - 1) for name in names})
        if rng.random() < 0.2:
            return Link(b"t" * rng.randint(1, 30))
        return File(rng.randbytes(rng.randint(0, 40)), rng.random() < 0.3)

    return directory(**{f"{index:02}": node(2) for index in range(entries)})


@pytest.mark.parametrize("kind", [Recorder, DataRecorder])
def test_every_boundary_of_buffers(kind: type[Recorder]) -> None:
    """The first read ends anywhere, the second brings the rest."""
    data = to_nar(varied(1, 4))
    whole = Outcome(io.BytesIO(data).read, kind)
    assert (whole.end, whole.seen) == (len(data), data)
    for size in range(1, len(data)):
        parts = [data[:size], data[size:]]
        outcome = Outcome(lambda _, parts=parts: parts.pop(0) if parts else b"", kind)  # type: ignore[misc]
        assert vars(outcome) == vars(whole)


def test_every_byte_changed() -> None:
    data = to_nar(varied(2, 12))[:1500]
    for index in range(len(data)):
        for flip in (0x01, 0x20, 0x80):
            changed = bytearray(data)
            changed[index] ^= flip
            read: Callable[[], Read] = lambda: io.BytesIO(changed).read  # noqa: B023, E731
            slow = entry_by_entry(read(), DataRecorder, 0)
            assert vars(Outcome(read(), DataRecorder, 0)) == vars(slow)


LINK, EMPTY = nar.symlink(b"t"), nar.DIRECTORY_OPEN + nar.NODE_CLOSE
WRONG = {
    "empty target": ((b"a", LINK), (b"b", nar.symlink(b""))),
    "long target": ((b"a", LINK), (b"b", nar.symlink(b"t" * 4096))),
    "NUL in a target": ((b"a", LINK), (b"b", nar.symlink(b"t\0"))),
    "long name": ((b"a", LINK), (b"b" * 256, LINK)),
    "slash": ((b"a", LINK), (b"b/c", LINK)),
    "NUL in a name": ((b"a", LINK), (b"b\0", LINK)),
    "no name": ((b"", LINK),),
    "dot": ((b".", EMPTY),),
    "dot dot": ((b"..", LINK),),
    "a file before a directory": ((b"b", LINK), (b"a", EMPTY)),
    "a directory before a file": ((b"b", EMPTY), (b"a", LINK)),
    "two directories": ((b"a", EMPTY), (b"a", EMPTY)),
    "two links": ((b"a", LINK), (b"a", LINK)),
}


@pytest.mark.parametrize("entries", WRONG.values(), ids=WRONG)
def test_a_wrong_entry_is_refused_among_right_ones(
    entries: tuple[tuple[bytes, bytes], ...],
) -> None:
    inside = [nar.entry_open(name) + node + nar.ENTRY_CLOSE for name, node in entries]
    whole = nar.DIRECTORY_OPEN + b"".join(inside) + nar.NODE_CLOSE
    inner = nar.entry_open(b"+") + LINK + nar.ENTRY_CLOSE + nar.entry_open(b"-") + whole
    outer = nar.DIRECTORY_OPEN + inner + nar.ENTRY_CLOSE + nar.NODE_CLOSE
    for node in (whole, outer):
        outcome = Outcome(io.BytesIO(nar.MAGIC + node).read, DataRecorder)
        slow = entry_by_entry(io.BytesIO(nar.MAGIC + node).read, DataRecorder, 0)
        assert vars(outcome) == vars(slow)
        assert outcome.problem


@pytest.mark.parametrize("piece", [1000, 1 << 16, 1 << 30])
def test_contents_come_whole_up_to_a_size(piece: int) -> None:
    sizes = [0, 1, FILE_DATA_MAX - 1, FILE_DATA_MAX, FILE_DATA_MAX + 1, BUFFER_SIZE]
    tree = directory(**{f"f{n}": File(bytes([n]) * size) for n, size in enumerate(sizes)})
    for node in (tree, File(b"root"), File(bytes(FILE_DATA_MAX + 1))):
        outcome = Outcome(in_pieces(to_nar(node), piece), DataRecorder)
        found = [event for event in outcome.events if event[0] in ("file", "data")]
        for event in found:
            contents = event[-1]
            assert isinstance(contents, bytes)
            assert (event[0] == "data") == (len(contents) <= FILE_DATA_MAX)
        if node is tree:
            assert [len(bytes(event[-1])) for event in found] == sizes  # type: ignore[call-overload]


@settings(deadline=None)
@given(trees)
def test_writer_takes_contents_at_once(tree: Tree) -> None:
    data = to_nar(tree)
    outcome, out = Outcome(io.BytesIO(data).read, DataRecorder), io.BytesIO()
    writer = NarWriter(out.write)
    calls: dict[object, Callable[..., None]] = {
        "directory": writer.directory,
        "end": writer.end_directory,
        "symlink": writer.symlink,
        "data": writer.file_data,
    }
    for call, *arguments in outcome.events:
        calls[call](*arguments)
    assert out.getvalue() == data


def test_buffered_entries_need_no_token_by_token_parsing() -> None:
    """The speed of imports, as something that can be counted."""

    class Counting(NarReader):
        matches = 0

        def match(self, alternatives: tuple[bytes, ...]) -> int:
            self.matches += 1
            return super().match(alternatives)

    class Ignore:
        def directory(self, name: bytes) -> None: ...

        def end_directory(self) -> None: ...

        def symlink(self, name: bytes, target: bytes) -> None: ...

        def file(self, name: bytes, executable: bool, size: int, read: Read) -> None: ...

    files: dict[str, Tree] = {f"{n:03}": File(b"x" * n, n % 3 == 0) for n in range(100)}
    data = to_nar(directory(a=directory(**files), b=Link(b"a"), c=directory(d=directory())))
    sink: NarSink = Ignore()
    for read, most in ((io.BytesIO(data).read, 5), (in_pieces(data, 4096), 30)):
        reader = Counting(read)
        parse_nar(reader, sink)
        assert reader.matches <= most
