"""Trees in memory for the NAR tests: a model, strategies, and ways into and out of NARs."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from hypothesis import strategies as st

from eka_runtime.nix.nar import NarReader, NarSink, NarWriter, Read, parse_nar
from eka_runtime.nix.tokens import token, u64


class File(NamedTuple):
    contents: bytes
    executable: bool = False


class Link(NamedTuple):
    target: bytes


class Dir(NamedTuple):
    entries: tuple[tuple[bytes, Tree], ...]  # ascending


Tree = File | Link | Dir

# The tree of the vectors called "complicated".
COMPLICATED = Dir(
    (
        (b".keep", File(b"")),
        (b"aa", Link(b"/nix/store/somewhereelse")),
        (b"keep", Dir(((b".keep", File(b"")),))),
    )
)


def directory(**entries: Tree) -> Dir:
    return Dir(tuple(sorted((name.encode(), tree) for name, tree in entries.items())))


def emit(tree: Tree, sink: NarSink, name: bytes = b"") -> None:
    if isinstance(tree, File):
        read = io.BytesIO(tree.contents).read
        sink.file(name, tree.executable, len(tree.contents), read)
    elif isinstance(tree, Link):
        sink.symlink(name, tree.target)
    else:
        sink.directory(name)
        for child, subtree in tree.entries:
            emit(subtree, sink, child)
        sink.end_directory()


def to_nar(tree: Tree) -> bytes:
    out = io.BytesIO()
    emit(tree, NarWriter(out.write))
    return out.getvalue()


def to_disk(tree: Tree, path: Path) -> Path:
    if isinstance(tree, File):
        path.write_bytes(tree.contents)
        path.chmod(0o755 if tree.executable else 0o644)
    elif isinstance(tree, Link):
        path.symlink_to(tree.target.decode("utf-8", "surrogateescape"))
    else:
        path.mkdir()
        for name, subtree in tree.entries:
            to_disk(subtree, path / name.decode("utf-8", "surrogateescape"))
    return path


class TreeSink:
    """Builds the model from a parse; `step` bytes of contents per read."""

    def __init__(self, step: int = 1 << 20) -> None:
        self.step = step
        self.root: Tree | None = None
        self._open: list[tuple[bytes, list[tuple[bytes, Tree]]]] = []

    def _add(self, name: bytes, tree: Tree) -> None:
        if self._open:
            self._open[-1][1].append((name, tree))
        else:
            assert name == b""
            assert self.root is None
            self.root = tree

    def directory(self, name: bytes) -> None:
        self._open.append((name, []))

    def end_directory(self) -> None:
        name, entries = self._open.pop()
        self._add(name, Dir(tuple(entries)))

    def symlink(self, name: bytes, target: bytes) -> None:
        self._add(name, Link(target))

    def file(self, name: bytes, executable: bool, size: int, read: Read) -> None:
        contents = b"".join(iter(lambda: read(self.step), b""))
        assert len(contents) == size
        self._add(name, File(contents, executable))


def from_nar(source: bytes | Callable[[int], bytes] | NarReader, step: int = 1 << 20) -> Tree:
    sink = TreeSink(step)
    parse_nar(io.BytesIO(source).read if isinstance(source, bytes) else source, sink)
    assert sink.root is not None
    return sink.root


def in_pieces(data: bytes, size: int) -> Callable[[int], bytes]:
    """A source that gives at most `size` bytes at a time."""
    stream = io.BytesIO(data)
    return lambda wanted: stream.read(min(size, wanted))


names = (
    st.binary(min_size=1, max_size=12) | st.sampled_from([b"-", b"...", b"a" * 255, b"\xff", b" "])
).filter(lambda name: name not in (b".", b"..") and not {0, 47} & set(name))
targets = st.binary(min_size=1, max_size=40).filter(lambda target: 0 not in target)
files = st.builds(File, st.binary(max_size=64), st.booleans())
links = st.builds(Link, targets)


def _directories(children: st.SearchStrategy[Tree]) -> st.SearchStrategy[Dir]:
    entries = st.dictionaries(names, children, max_size=4)
    return entries.map(lambda found: Dir(tuple(sorted(found.items(), key=lambda item: item[0]))))


trees: st.SearchStrategy[Tree] = st.recursive(files | links, _directories, max_leaves=12)


def words(*texts: str | bytes) -> bytes:
    return b"".join(token(text.encode() if isinstance(text, str) else text) for text in texts)


@st.composite
def mutations(draw: st.DrawFn) -> bytes:
    """A NAR with some bytes overwritten, cut out, repeated, or exchanged for a token."""
    data = bytearray(to_nar(draw(trees)))
    for _ in range(draw(st.integers(1, 3))):
        begin = draw(st.integers(0, len(data)))
        end = min(len(data), begin + draw(st.sampled_from([0, 1, 2, 8, 16, 24, 48])))
        data[begin:end] = draw(
            st.binary(max_size=9)
            | st.sampled_from([words(w) for w in ("(", ")", "entry", "contents", "executable", "")])
            | st.just(bytes(data[begin:end]) * 2)
            | st.integers(0, (1 << 64) - 1).map(u64)
        )
    return bytes(data)
