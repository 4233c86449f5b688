from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eka_runtime.errors import ExportError, NarError
from eka_runtime.nix.export import (
    EXPORT_MAGIC,
    ITEM_OPEN,
    STREAM_END,
    ExportItem,
    item_trailer,
    read_export,
    write_export,
)
from eka_runtime.nix.nar import NarReader, NarWriter, Write
from eka_runtime.nix.path import StorePath, source_path, text_path
from eka_runtime.nix.tokens import token, u64
from tests.unit.nix.conftest import Nix
from tests.unit.nix.trees import (
    COMPLICATED,
    File,
    Link,
    Tree,
    directory,
    emit,
    from_nar,
    in_pieces,
    to_disk,
    to_nar,
    trees,
)

A = StorePath.parse("/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-a")
B = StorePath.parse("/nix/store/vxjiwkjkn7x4079qvh1jkl5pn05j2aw0-b")
C = StorePath.parse("/nix/store/dxwkwjzdaq7ka55pkk252gh32bgpmql4-c.drv")
NAR = to_nar(COMPLICATED)
PLAIN = ExportItem(A, (), None)


def write_tree(tree: Tree, write: Write) -> None:
    emit(tree, NarWriter(write))


def exported(*items: tuple[ExportItem, Tree]) -> bytes:
    out = io.BytesIO()
    writers: list[tuple[ExportItem, Callable[[Write], object]]] = [
        (item, partial(write_tree, tree)) for item, tree in items
    ]
    write_export(writers, out.write)
    return out.getvalue()


def imported(data: bytes, piece: int = 1 << 20) -> list[tuple[ExportItem, Tree]]:
    return list(read_export(in_pieces(data, piece), from_nar))


def item_of(tree: Tree, name: str, *references: StorePath) -> ExportItem:
    path = source_path(name, hashlib.sha256(to_nar(tree)).digest(), references)
    return ExportItem(path, tuple(sorted(references)), None)


references = st.sets(st.sampled_from([A, B, C])).map(lambda found: tuple(sorted(found)))
items = st.builds(
    ExportItem, st.sampled_from([A, B, C]), references, st.none() | st.sampled_from([B, C])
)


@settings(deadline=None)
@given(st.lists(st.tuples(items, trees), max_size=3), st.integers(1, 500))
def test_round_trip(content: list[tuple[ExportItem, Tree]], piece: int) -> None:
    data = exported(*content)
    reader = NarReader(in_pieces(data + b"tail", piece))
    assert list(read_export(reader, from_nar)) == content
    assert reader.offset == len(data)


def test_the_bytes() -> None:
    nar = to_nar(Link(b"x"))
    data = exported((ExportItem(A, (B, C), C), Link(b"x")))
    parts = [u64(1), nar, u64(0x4558494E), token(str(A).encode()), u64(2)]
    parts += [token(str(C).encode()), token(str(B).encode()), token(str(C).encode())]
    assert data == b"".join([*parts, u64(0), u64(0)])
    assert exported() == u64(0)


def test_identical_with_nix_export(nix: Nix, tmp_path: Path) -> None:
    """Nix exports what it was given by hand."""
    content: dict[str, Tree] = {"one": COMPLICATED, "two": File(b"2", True)}
    paths = []
    for name, tree in content.items():
        added = nix("nix-store", "--add", to_disk(tree, tmp_path / name)).decode().strip()
        assert added == str(item_of(tree, name).path)
        paths.append(added)
    stream = nix("nix-store", "--export", *paths)
    found = imported(stream)
    assert {(item.path.name, tree) for item, tree in found} == set(content.items())
    assert exported(*found) == stream
    single = nix("nix-store", "--export", paths[0])
    assert single == exported((item_of(COMPLICATED, "one"), COMPLICATED))


def test_nix_imports_what_is_written(nix: Nix) -> None:
    """With references and a deriver, which Nix then tells and exports in the same bytes."""
    library = item_of(File(b"library"), "library")
    drv = text_path("program.drv", hashlib.sha256(b"Derive").digest())
    tree = directory(bin=directory(program=File(f"uses {library.path}".encode(), True)))
    program = item_of(tree, "program", library.path)._replace(deriver=drv)
    stream = exported((library, File(b"library")), (program, tree))
    assert nix("nix-store", "--import", stdin=stream).decode().split() == [
        str(library.path),
        str(program.path),
    ]
    for question, answer in (("--references", library.path), ("--deriver", drv)):
        asked = nix("nix-store", "--query", question, str(program.path))
        assert asked.decode().split() == [str(answer)]
    assert nix("nix-store", "--export", str(library.path), str(program.path)) == stream
    nix("nix-store", "--verify", "--check-contents")


def test_references_are_read_in_any_order_and_written_in_one() -> None:
    parts = [ITEM_OPEN, NAR, u64(EXPORT_MAGIC), token(str(A).encode()), u64(3)]
    parts += [token(str(path).encode()) for path in (B, C, B)]
    data = b"".join([*parts, token(b""), u64(0), STREAM_END])
    assert imported(data) == [(ExportItem(A, (C, B), None), COMPLICATED)]
    assert item_trailer(ExportItem(A, (B, C, B), None)) == item_trailer(ExportItem(A, (C, B), None))


def test_a_legacy_signature_is_skipped() -> None:
    unsigned = item_trailer(PLAIN)[:-8]
    data = ITEM_OPEN + NAR + unsigned + u64(1) + token(b"signature") + STREAM_END
    assert imported(data) == [(PLAIN, COMPLICATED)]


BEFORE = len(ITEM_OPEN + NAR)
PATH = BEFORE + 8
COUNT = PATH + len(token(str(A).encode()))
TRAILER = item_trailer(PLAIN)
HEAD = ITEM_OPEN + NAR + u64(EXPORT_MAGIC) + token(str(A).encode())

REFUSED = {
    "empty": (b"", 0, "the input ends inside the mark before an item"),
    "a lone NAR": (NAR, 0, "mark 13 is neither 1 (an item) nor 0 (the end)"),
    "no end": (ITEM_OPEN + NAR + TRAILER, BEFORE + len(TRAILER), "the input ends inside the mark"),
    "magic": (
        ITEM_OPEN + NAR + u64(0x4558494F),
        BEFORE,
        "no export magic after a NAR, but 0x4558494f",
    ),
    "magic cut": (ITEM_OPEN + NAR + b"NI", BEFORE + 2, "the input ends inside the magic number"),
    "long path": (
        ITEM_OPEN + NAR + u64(EXPORT_MAGIC) + token(b"x" * 300),
        PATH,
        "a store path has 300 bytes, at most 255 are allowed",
    ),
    "no store path": (
        ITEM_OPEN + NAR + u64(EXPORT_MAGIC) + token(b"/etc/passwd"),
        PATH,
        "a store path: '/etc/passwd' is not below /nix/store",
    ),
    "path that is not text": (
        ITEM_OPEN + NAR + u64(EXPORT_MAGIC) + token(str(A).encode() + b"\xff"),
        PATH,
        "contains 'ÿ'",
    ),
    "path that leaves the store": (
        ITEM_OPEN + NAR + u64(EXPORT_MAGIC) + token(str(A).encode() + b"/../../x"),
        PATH,
        "contains '/'",
    ),
    "references": (
        HEAD + u64(100_001),
        COUNT,
        "100001 references, at most 100000 allowed",
    ),
    "endless references": (
        HEAD + u64((1 << 64) - 1),
        COUNT,
        f"{(1 << 64) - 1} references, at most 100000 allowed",
    ),
    "empty reference": (
        HEAD + u64(1) + token(b""),
        COUNT + 8,
        "a reference: '' is not below /nix/store",
    ),
    "references cut": (HEAD + u64(9), COUNT + 8, "the input ends inside a reference"),
    "deriver": (
        HEAD + u64(0) + token(b"unknown"),
        COUNT + 8,
        "a deriver: 'unknown' is not below /nix/store",
    ),
    "signature mark": (
        HEAD + u64(0) + token(b"") + u64(2),
        COUNT + 16,
        "signature mark 2 is neither 0 nor 1",
    ),
    "long signature": (
        HEAD + u64(0) + token(b"") + u64(1) + u64(1 << 30),
        COUNT + 24,
        "a legacy signature has 1073741824 bytes, at most 65536 are allowed",
    ),
}


@pytest.mark.parametrize(("data", "offset", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(data: bytes, offset: int, message: str) -> None:
    for piece in (1, 1 << 20):
        with pytest.raises(
            ExportError, match=f"^export stream, byte {offset}: .*{re.escape(message)}"
        ):
            imported(data, piece)


def test_items_before_a_broken_one_are_given_out() -> None:
    stream = exported((PLAIN, COMPLICATED))[: -len(STREAM_END)] + ITEM_OPEN + b"garbage."
    reading = read_export(io.BytesIO(stream).read, from_nar)
    assert next(reading) == (PLAIN, COMPLICATED)
    with pytest.raises(NarError, match=f"^export stream, byte {BEFORE + len(TRAILER) + 8}: "):
        next(reading)


def test_a_taker_that_leaves_something_of_the_nar() -> None:
    reading = read_export(io.BytesIO(exported((PLAIN, COMPLICATED))).read, lambda reader: None)
    with pytest.raises(ExportError, match="no export magic after a NAR, but 0xd"):
        next(reading)


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_mutations_raise_nothing_else(draw: st.DataObject) -> None:
    data = bytearray(exported((ExportItem(A, (B,), C), Link(b"x")), (PLAIN, File(b"y"))))
    begin = draw.draw(st.integers(0, len(data)))
    end = begin + draw.draw(st.sampled_from([0, 1, 8, 100]))
    data[begin:end] = draw.draw(st.binary(max_size=16) | st.integers(0, 2).map(u64))
    with suppress(ExportError, NarError):
        imported(bytes(data), draw.draw(st.integers(1, 400)))
