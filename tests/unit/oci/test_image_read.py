"""Images that others made, as store paths: what a container sees, and hostile ones refused."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import subprocess
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import zstandard

from eka_runtime.castore.node import DirectoryNode
from eka_runtime.errors import EkaError, ImageError, UsageError
from eka_runtime.oci.image_add import add_image
from eka_runtime.oci.image_write import ArchiveSink, DockerSink, LayoutSink, write_image
from eka_runtime.store.store import Store
from tests.unit.oci.test_image import fill, image

Member = tuple[str, bytes, bytes]  # name, type, contents or target


def layer(*members: Member, mode: int = 0o644) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, kind, data in members:
            info = tarfile.TarInfo(name)
            info.type, info.mode = kind, mode
            if kind == tarfile.REGTYPE:
                info.size = len(data)
            else:
                info.linkname = data.decode()
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def file(name: str, text: str = "") -> Member:
    return name, tarfile.REGTYPE, text.encode()


def link(name: str, target: str) -> Member:
    return name, tarfile.SYMTYPE, target.encode()


def hard(name: str, target: str) -> Member:
    return name, tarfile.LNKTYPE, target.encode()


def directory(name: str) -> Member:
    return name, tarfile.DIRTYPE, b""


def layout(place: Path, layers: Iterable[bytes], /, **broken: Any) -> Path:
    """`broken` replaces keys of the manifest."""
    blobs = place / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def put(data: bytes) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {"digest": f"sha256:{digest}", "size": len(data)}

    manifest = {"config": put(b"{}"), "layers": [put(data) for data in layers]} | broken
    index = {"manifests": [put(json.dumps(manifest).encode())]}
    (place / "index.json").write_text(json.dumps(index))
    return place


def tree_of(store: Store, source: Path, name: str = "image") -> dict[str, str]:
    """The files by their contents, links by `-> target`, directories by `/`."""
    info, _ = add_image(store, source, name, None)
    found: dict[str, str] = {}
    out = store.root.parent / f"out-{os.urandom(4).hex()}"
    store.restore(info.path, out)
    for place in sorted(out.rglob("*")):
        key = str(place.relative_to(out))
        if place.is_symlink():
            found[key] = f"-> {os.readlink(place)}"
        else:
            found[key] = "/" if place.is_dir() else place.read_text()
    return found


def test_later_layers_replace_and_remove(store: Store, tmp_path: Path) -> None:
    first = layer(
        file("a", "1"), file("d/x", "1"), file("d/y", "1"), file("o/old", "1"), file("k", "1")
    )
    second = layer(file("./a", "2"), file("d/.wh.x"), file("o/new", "2"), file("o/.wh..wh..opq"))
    third = layer(file(".wh.k"), link("d/l", "../a"), hard("h", "a"))
    found = tree_of(store, layout(tmp_path / "in", [first, second, third]))
    assert found == {
        "a": "2", "d": "/", "d/l": "-> ../a", "d/y": "1", "h": "2", "o": "/", "o/new": "2",
    }  # fmt: skip


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.ZstdCompressor().compress])
def test_layers_may_be_compressed(
    store: Store, tmp_path: Path, pack: Callable[[bytes], bytes]
) -> None:
    assert tree_of(store, layout(tmp_path / "in", [pack(layer(file("a", "1")))])) == {"a": "1"}


def test_links_lead_inside_the_tree_only(store: Store, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    members = layer(
        link("bin", "usr/bin"),
        file("bin/sh", "shell"),
        link("up", "../../../../../.."),
        file("up/escaped", "x"),
        link("abs", str(tmp_path / "outside")),
        file("abs/escaped", "y"),
    )
    found = tree_of(store, layout(tmp_path / "in", [members]))
    assert found["usr/bin/sh"] == "shell"
    assert found["escaped"] == "x"
    assert found[f"{str(tmp_path)[1:]}/outside/escaped"] == "y"
    assert os.listdir(tmp_path / "outside") == []


def test_modes_are_those_of_a_store_and_devices_are_dropped(store: Store, tmp_path: Path) -> None:
    program = layer(file("p", "#!"), mode=0o4711)
    rest = layer(("null", tarfile.CHRTYPE, b""), ("pipe", tarfile.FIFOTYPE, b""), directory("e"))
    info, unpacked = add_image(store, layout(tmp_path / "in", [program, rest]), "x", None)
    assert (unpacked.files, unpacked.dropped) == (1, 2)
    assert isinstance(info.node, DirectoryNode)
    found = store.directories.get(info.node.digest)
    assert found is not None
    assert [(name, getattr(node, "executable", None)) for name, node in found.entries] == [
        (b"e", None),
        (b"p", True),
    ]


@pytest.mark.parametrize("kind", ["oci-dir", "oci-archive", "docker-archive"])
def test_what_we_export_comes_back(store: Store, tmp_path: Path, kind: str) -> None:
    fill(store, tmp_path / "trees")
    paths = [info.path for info in store.paths.all()]
    place = tmp_path / kind
    if kind == "oci-dir":
        sink: Any = LayoutSink(place)
        sink.finish([write_image(store, image(store), sink, "zstd")], "localhost/x:1")
    else:
        with place.open("wb") as stream:
            sink = (ArchiveSink if kind == "oci-archive" else DockerSink)(stream)
            sink.finish([write_image(store, image(store), sink, "none")], "localhost/x:1")
    found = tree_of(store, place)
    for path in paths:
        name = path.name
        assert found[f"{str(path)[1:]}/text"] == name
        assert found[f"{str(path)[1:]}/bin/{name}"] == name * 40_000
    assert found["bin/sh"] == "-> /nix/store/x"


BAD: dict[str, Callable[[Path], Path]] = {
    "names ..": lambda at: layout(at, [layer(file("a/../../b"))]),
    "link to nothing": lambda at: layout(at, [layer(hard("a", "b"))]),
    "links in a circle": lambda at: layout(
        at, [layer(link("a", "b"), link("b", "a"), file("a/x"))]
    ),
    "no tar": lambda at: layout(at, [b"x" * 5000]),
    "cut off": lambda at: layout(at, [gzip.compress(layer(file("a", "x" * 9999)))[:-50]]),
    "too deep": lambda at: layout(at, [layer(file("a/" * 300 + "x"))]),
    "name too long": lambda at: layout(at, [layer(file("a" * 256))]),
    "layers no list": lambda at: layout(at, [], layers="x"),
    "digest of another kind": lambda at: layout(at, [], layers=[{"digest": "md5:0"}]),
    "digest with a path": lambda at: layout(at, [], layers=[{"digest": "sha256:../../x"}]),
    "no config": lambda at: layout(at, [], config=None),
}


@pytest.mark.parametrize("what", BAD)
def test_what_is_broken_is_refused_and_leaves_nothing(
    store: Store, tmp_path: Path, what: str
) -> None:
    source = BAD[what](tmp_path / "in")
    with pytest.raises(ImageError):
        add_image(store, source, "x", None)
    assert store.paths.count() == 0


def test_a_layer_is_compared_with_its_digest(store: Store, tmp_path: Path) -> None:
    source = layout(tmp_path / "in", [layer(file("a", "1"))])
    [blob] = [one for one in (source / "blobs" / "sha256").iterdir() if one.stat().st_size > 5000]
    blob.write_bytes(blob.read_bytes().replace(b"1", b"2", 1))
    with pytest.raises(ImageError):
        add_image(store, source, "x", None)


def test_other_files_are_not_images(store: Store, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("text")
    (tmp_path / "empty").mkdir()
    subprocess.run(["tar", "-C", tmp_path, "-cf", tmp_path / "t.tar", "text"], check=True)
    for name in ("text", "empty", "t.tar"):
        with pytest.raises(ImageError):
            add_image(store, tmp_path / name, "x", None)
    with pytest.raises(UsageError):
        add_image(store, tmp_path / "absent", "x", None)
    with pytest.raises(EkaError):
        add_image(store, tmp_path / "text", "bad name", None)
