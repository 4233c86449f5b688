"""Unpacking archives: the same hash as Nix has, and nothing that leads out."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from eka.atom.archive import hash_unpacked
from eka_runtime.errors import FormatError
from tests.archives import greedy_xz
from tests.requirements import require

COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "none": lambda data: data,
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": lambda data: zstandard.ZstdCompressor().compress(data),
}


def tree(directory: Path) -> Path:
    root = directory / "top-1.0"
    (root / "sub").mkdir(parents=True)
    (root / "file").write_text("hello\n")
    (root / "sub/tool").write_text("#!/bin/sh\n")
    (root / "sub/tool").chmod(0o755)
    (root / "link").symlink_to("sub/tool")
    (root / "hard").hardlink_to(root / "file")
    (root / "sub/ünïcode").write_bytes(b"\0" * 10000)
    return root


def packed(root: Path, format_: int) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format_) as tar:
        tar.add(root, root.name)
    return out.getvalue()


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_the_hash_is_that_of_the_tree_in_nix(tmp_path: Path, compression: str) -> None:
    nix_hash = require("nix-hash")
    root = tree(tmp_path)
    command = [nix_hash, "--type", "sha256", "--base32", root]
    expected = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    for format_ in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        archive = tmp_path / "archive"
        archive.write_bytes(COMPRESSIONS[compression](packed(root, format_)))
        assert hash_unpacked(archive).nix32() == f"sha256:{expected}"


def test_a_decoder_that_wants_much_memory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "archive").write_bytes(greedy_xz())
    with pytest.raises(FormatError, match=r"(?i)memory"):
        hash_unpacked(tmp_path / "archive")


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def archive_of(place: Path, *members: tarfile.TarInfo) -> Path:
    archive = place / "archive.tar"
    with tarfile.open(archive, "w") as tar:
        for info in members:
            tar.addfile(info)
    return archive


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([member("a"), member("b")], "has 2 things at its top"),
        ([], "has 0 things at its top"),
        ([member("a/../../b")], "leads out"),
        ([member("/etc/passwd")], "leads out"),
        ([member("a", tarfile.SYMTYPE, "/etc"), member("a/b")], "no directory"),
        ([member("a/f"), member("a/f/g")], "no directory"),
        ([member("a/l", tarfile.LNKTYPE, "a/none")], "link to no file"),
        ([member("a/l", tarfile.LNKTYPE, "../x")], "leads out"),
        ([member("a/dev", tarfile.CHRTYPE)], "neither file, directory nor link"),
    ],
)
def test_hostile_archives(tmp_path: Path, members: list[tarfile.TarInfo], message: str) -> None:
    with pytest.raises(FormatError, match=message):
        hash_unpacked(archive_of(tmp_path, *members))


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_damaged_archives(tmp_path: Path, compression: str) -> None:
    whole = COMPRESSIONS[compression](packed(tree(tmp_path), tarfile.GNU_FORMAT))
    archive = tmp_path / "archive"
    for cut in (len(whole) // 2, 20):
        archive.write_bytes(whole[:cut])
        with pytest.raises(FormatError):
            hash_unpacked(archive)


def test_what_is_no_archive(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("<html>not found</html>" * 100)
    with pytest.raises(FormatError, match="not a readable tar archive"):
        hash_unpacked(tmp_path / "page.html")
