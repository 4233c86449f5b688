"""Tar streams of store paths: read back by Python's and GNU's tar, equal for equal trees."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eka_runtime.errors import StoreCorrupt
from eka_runtime.oci.image_tar import TarWriter, header_of, write_store_paths
from eka_runtime.store.store import Store

# Surrogates come from bytes that are not UTF-8; pax records keep those as they are.
part = st.text(
    st.characters(codec="utf-8", exclude_characters="/\0", exclude_categories=("Cc",)),
    min_size=1,
    max_size=80,
).filter(lambda name: name not in (".", "..") and len(name.encode()) < 250)
names = st.lists(part, min_size=1, max_size=5).map("/".join)


def members(data: bytes) -> list[tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return archive.getmembers()


@given(names, names, st.binary(max_size=2000), st.sampled_from([0o444, 0o555, 0o644]))
def test_members_come_back_as_they_were(name: str, target: str, data: bytes, mode: int) -> None:
    out = io.BytesIO()
    tar = TarWriter(out.write)
    tar.directory(b"directory")
    tar.symlink(b"directory/" + name.encode(), target.encode())
    tar.file(name.encode(), mode, data)
    tar.end()
    assert tar.size == len(out.getvalue()) == -(-tar.size // 10240) * 10240
    with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as archive:
        directory, link, file = archive.getmembers()
        assert (directory.name, directory.type, directory.mode) == ("directory", b"5", 0o755)
        assert (link.name, link.linkname, link.type) == (f"directory/{name}", target, b"2")
        assert (file.name, file.mode, file.size) == (name, mode, len(data))
        assert {(m.uid, m.gid, m.mtime, m.uname, m.gname) for m in (directory, link, file)} == {
            (0, 0, 1, "", "")
        }
        reader = archive.extractfile(file)
        assert reader is not None
        assert reader.read() == data


@pytest.mark.parametrize("length", [99, 100, 101, 155, 156, 157, 255, 256, 257, 300])
def test_every_length_of_name_is_read_by_gnu_tar(tmp_path: Path, length: int) -> None:
    for name in (b"n" * length, (b"d" * 90 + b"/") * (length // 91) + b"n" * (length % 91 or 1)):
        out = io.BytesIO()
        tar = TarWriter(out.write)
        tar.file(name, 0o444, b"contents")
        tar.end()
        listed = subprocess.run(["tar", "t"], input=out.getvalue(), capture_output=True, check=True)
        assert listed.stdout.rstrip(b"\n") == name


def test_names_that_are_not_utf_8_are_read_by_gnu_tar() -> None:
    out = io.BytesIO()
    tar = TarWriter(out.write)
    tar.file(b"\xff\xfe name", 0o444, b"")
    tar.end()
    listed = subprocess.run(
        ["tar", "t", "--quoting-style=literal"],
        input=out.getvalue(),
        capture_output=True,
        check=True,
    )
    assert listed.stdout == b"\xff\xfe name\n"


def test_sizes_beyond_eight_gigabytes_are_stated() -> None:
    size = (8 << 30) + 5
    info = tarfile.TarInfo.frombuf(header_of(b"big", 0o444, 5)[:512], "utf-8", "strict")
    assert info.size == 5
    head = header_of(b"big", 0o444, size)
    assert b" size=%d\n" % size in head
    assert len(head) == 3 * 512


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    place = tmp_path / "tree"
    (place / "sub" / "empty").mkdir(parents=True)
    (place / "small").write_bytes(b"small")
    (place / "program").write_bytes(b"#!/bin/sh\n")
    (place / "program").chmod(0o755)
    (place / "sub" / "large").write_bytes(bytes(range(256)) * 3000)
    (place / "sub" / "link").symlink_to("../small")
    (place / "sub" / os.fsdecode(b"\xc3\xbc")).write_bytes(b"")
    return place


def layer(store: Store, *bases: str) -> bytes:
    out = io.BytesIO()
    tar = TarWriter(out.write)
    infos = [info for info in store.paths.all() if not bases or info.path.name in bases]
    nodes = [(str(info.path)[1:].encode(), info.node) for info in infos]
    write_store_paths(tar, nodes, store.blobs, store.directories)
    tar.end()
    return out.getvalue()


def test_a_tree_has_the_metadata_of_a_view(store: Store, tree: Path, tmp_path: Path) -> None:
    info = store.add_tree(tree)
    found = {m.name.removeprefix(str(info.path)[1:]): m for m in members(layer(store))}
    assert list(found) == [
        "", "/program", "/small", "/sub", "/sub/empty", "/sub/large", "/sub/link", "/sub/ü",
    ]  # fmt: skip
    modes = {name: member.mode for name, member in found.items()}
    assert modes["/program"] == modes[""] == modes["/sub/empty"] == 0o555
    assert modes["/small"] == modes["/sub/large"] == 0o444
    assert {member.mtime for member in found.values()} == {1}
    data = layer(store)
    subprocess.run(["tar", "x", "-C", tmp_path], input=data, check=True)
    unpacked = tmp_path / str(info.path)[1:]
    with Store.open(tmp_path / "again") as again:
        assert again.add_tree(unpacked, name="tree").nar_hash == info.nar_hash


def test_paths_that_are_files_or_links(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"contents")
    (tmp_path / "link").symlink_to("/nowhere")
    file, link = store.add_tree(tmp_path / "file"), store.add_tree(tmp_path / "link")
    by_name = {member.name: member for member in members(layer(store))}
    assert by_name[str(file.path)[1:]].size == 8
    assert by_name[str(link.path)[1:]].linkname == "/nowhere"


@pytest.mark.parametrize("what", ["small", "large"])
def test_a_damaged_blob_is_noticed(damaged: Store, what: str) -> None:
    for file in (*damaged.layout.blobs.rglob("*"), *damaged.layout.packs.rglob("*")):
        if file.is_file() and (what == "small") == (damaged.layout.packs in file.parents):
            file.chmod(0o644)
            data = bytearray(file.read_bytes())
            where = data.index(b"small" if what == "small" else b"large")
            data[where] ^= 1
            file.write_bytes(data)
    with pytest.raises(StoreCorrupt, match="is not what its digest says"):
        layer(damaged)
