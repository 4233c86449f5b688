"""Caches that lie: each lie is refused, nothing is registered, and the next cache is tried."""

from __future__ import annotations

import hashlib
import lzma
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from eka_runtime.cache.trust import Trust
from eka_runtime.errors import (
    EkaError,
    FormatError,
    HashMismatch,
    ServiceError,
    UntrustedError,
)
from eka_runtime.nix.hashes import NixHash
from eka_runtime.nix.nar import ENTRY_CLOSE, MAGIC, NODE_CLOSE, file_header
from eka_runtime.nix.path import ContentAddress, StorePath, path_for_ca
from eka_runtime.nix.tokens import token
from eka_runtime.store.store import Store
from tests.caches import Request, Server
from tests.unit.cache.conftest import other_key
from tests.unit.cache.world import (
    A,
    B,
    C,
    bring,
    falsify,
    nar_file,
    narinfo,
    recompress,
    substituter,
)

Lie = Callable[[Path], object]
OTHER = StorePath("d" * 32, "d")


def bad_nar(cache: Path, entry: bytes) -> None:
    """A NAR with a directory of one entry, with all hashes and sizes right."""
    names = b"".join(map(token, (b"entry", b"(", b"name", entry, b"node")))
    head = MAGIC + b"".join(map(token, (b"(", b"type", b"directory")))
    nar = head + names + file_header(False, 0) + NODE_CLOSE + ENTRY_CLOSE + NODE_CLOSE
    nar_file(cache, A).write_bytes(nar)
    digest = hashlib.sha256(nar).digest()
    falsify(cache, A, nar_hash=digest, nar_size=len(nar), file_size=None, file_hash=None)


def flip(cache: Path) -> None:
    data = bytearray(nar_file(cache, A).read_bytes())
    data[len(data) // 2] ^= 1
    nar_file(cache, A).write_bytes(data)


def cut(cache: Path) -> None:
    data = nar_file(cache, A).read_bytes()
    nar_file(cache, A).write_bytes(data[:-100])


def cut_packed(cache: Path) -> None:
    data = recompress(cache, A).read_bytes()
    (cache / "nar" / "packed.xz").write_bytes(data[:-40])


def append(cache: Path) -> None:
    with nar_file(cache, A).open("ab") as nar:
        nar.write(bytes(8))


def endless(cache: Path) -> None:
    """Its file grows far beyond what is said, which is the size of the honest NAR."""
    with nar_file(cache, A).open("ab") as nar:
        nar.truncate(1 << 34)
    falsify(cache, A, file_size=None)


def bomb(cache: Path) -> None:
    """Some kilobytes that unpack to a hundred times what is said."""
    size = 32 << 20
    packed = lzma.compress(MAGIC + file_header(False, size) + bytes(size), preset=0)
    recompress(cache, A).write_bytes(packed)
    falsify(cache, A, file_size=None)


def swap(cache: Path) -> None:
    shutil.copy(cache / f"{B.hash}.narinfo", cache / f"{A.hash}.narinfo")


def steal_signature(cache: Path) -> None:
    """b's contents under a's name, with a's own signature of something else."""
    theirs = narinfo(cache, B)
    falsify(
        cache,
        A,
        sign=False,
        nar_hash=theirs.nar_hash,
        nar_size=theirs.nar_size,
        url=theirs.url,
        file_hash=theirs.file_hash,
        file_size=theirs.file_size,
    )


def text(cache: Path, old: str, new: str) -> None:
    place = cache / f"{A.hash}.narinfo"
    changed = place.read_text().replace(old, new)
    assert changed != place.read_text()
    place.write_text(changed)


LIES: dict[str, tuple[Lie, type[EkaError], str]] = {
    "wrong hash": (flip, HashMismatch, "has NAR hash sha256-"),
    "wrong size": (lambda c: falsify(c, A, nar_size=99_999), HashMismatch, "more than the 99999"),
    "wrong size, too much": (
        lambda c: falsify(c, A, nar_size=9_999_999),
        HashMismatch,
        r"says .* \(9999999 bytes\)",
    ),
    "truncated": (cut, FormatError, "the input ends"),
    "longer": (append, EkaError, "more than the"),
    "endless": (endless, HashMismatch, "more than the"),
    "bomb": (bomb, EkaError, "more than the"),
    "truncated xz": (cut_packed, ServiceError, "ends early"),
    "damaged xz": (
        lambda c: recompress(c, A).write_bytes(b"\xfd7zXZ\0" + bytes(1000)),
        ServiceError,
        "damaged",
    ),
    "not zstd": (lambda c: falsify(c, A, compression="zstd"), ServiceError, "damaged"),
    "another path": (swap, ServiceError, f"is that of `{B}`"),
    "not signed": (
        lambda c: falsify(c, A, sign=False, signatures=()),
        UntrustedError,
        "not signed",
    ),
    "signed by a stranger": (
        lambda c: falsify(c, A, sign=False, signatures=(other_key().sign(b""),)),
        UntrustedError,
        "signed only by other-1",
    ),
    "signature of something else": (steal_signature, UntrustedError, "no valid signature"),
    "references added": (
        lambda c: falsify(c, A, sign=False, references=(OTHER,)),
        UntrustedError,
        "no valid signature",
    ),
    "reference outside the store": (
        lambda c: text(c, "References: ", "References: ../../etc/passwd"),
        ServiceError,
        "does not begin with 32",
    ),
    "path outside the store": (
        lambda c: text(c, "StorePath: /nix/store/", "StorePath: /etc/"),
        ServiceError,
        "not below /nix/store",
    ),
    "traversal in the NAR": (lambda c: bad_nar(c, b".."), FormatError, "not a valid name"),
    "slash in the NAR": (lambda c: bad_nar(c, b"a/b"), FormatError, "not a valid name"),
    "file outside the cache": (
        lambda c: falsify(c, A, url="../../../../etc/passwd"),
        ServiceError,
        "refused",
    ),
    "file by a URL": (lambda c: falsify(c, A, url="file:///etc/passwd"), ServiceError, "refused"),
    "unknown compression": (
        lambda c: falsify(c, A, compression="rot13"),
        ServiceError,
        "the compression 'rot13'",
    ),
    "no NAR": (lambda c: nar_file(c, A).unlink(), ServiceError, "has the narinfo of"),
    "nonsense": (lambda c: (c / f"{A.hash}.narinfo").write_bytes(b"\0"), ServiceError, "no colon"),
}


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("way", ["http", "file"])
def test_a_lie_is_refused_and_the_next_cache_is_tried(
    store: Store, server: Server, cache: Path, pristine: Path, lie: str, way: str
) -> None:
    tell, kind, problem = LIES[lie]
    tell(cache)
    place = server.url if way == "http" else cache
    with substituter(place) as caches, pytest.raises(kind, match=problem):
        bring(store, caches, A)
    assert not store.paths.count()
    with substituter(place, pristine) as caches:
        assert bring(store, caches, C).valid == [A, B, C]


def test_the_right_signature_among_strange_ones(store: Store, cache: Path) -> None:
    good = narinfo(cache, A).signatures
    falsify(cache, A, sign=False, signatures=tuple(sorted((*good, "x:y", other_key().sign(b"")))))
    with substituter(cache) as caches:
        assert bring(store, caches, A).valid == [A]


def addressed_by(cache: Path, method: str, digest: NixHash) -> StorePath:
    """a's contents under a path that follows from this address, without a signature."""
    address = ContentAddress(method, digest)
    path = path_for_ca("x", address)
    shutil.copy(cache / f"{A.hash}.narinfo", cache / f"{path.hash}.narinfo")
    place = cache / f"{path.hash}.narinfo"
    lines = [
        line for line in place.read_text().splitlines() if not line.startswith(("Sig", "StorePath"))
    ]
    place.write_text("\n".join([f"StorePath: {path}", *lines, f"CA: {address}"]) + "\n")
    return path


def test_what_is_content_addressed_needs_no_signature(store: Store, cache: Path) -> None:
    nar = nar_file(cache, A).read_bytes()
    flat = nar_file(cache, B).read_bytes()
    assert b"b" * 5_000 in flat
    good = [
        addressed_by(cache, "recursive", NixHash("sha256", hashlib.sha256(nar).digest())),
        addressed_by(cache, "recursive", NixHash("sha1", hashlib.sha1(nar).digest())),
    ]
    theirs = narinfo(cache, B)
    same = {"nar_hash": theirs.nar_hash, "nar_size": theirs.nar_size, "url": theirs.url}
    falsify(cache, A, **same, file_hash=None, file_size=None)
    for method, algo in (("flat", "sha256"), ("flat", "md5"), ("text", "sha256")):
        digest = hashlib.new(algo, b"b" * 5_000).digest()
        good.append(addressed_by(cache, method, NixHash(algo, digest)))
    with substituter(cache, trust=Trust()) as caches:
        assert sorted(bring(store, caches, *good).valid) == sorted(good)
    assert all(store.info(path).ca for path in good)


@pytest.mark.parametrize(
    ("method", "algo"), [("recursive", "sha1"), ("flat", "sha256"), ("text", "sha256")]
)
def test_a_content_address_must_be_true(store: Store, cache: Path, method: str, algo: str) -> None:
    lie = addressed_by(cache, method, NixHash(algo, hashlib.new(algo, b"other").digest()))
    with (
        substituter(cache, trust=Trust()) as caches,
        pytest.raises(HashMismatch, match="does not have the contents of its address"),
    ):
        bring(store, caches, lie)
    assert not store.paths.count()


def test_an_address_of_another_path_is_no_excuse(store: Store, cache: Path) -> None:
    digest = NixHash("sha256", narinfo(cache, A).nar_hash)
    address = str(ContentAddress("recursive", digest))
    falsify(cache, A, sign=False, signatures=(), ca=address)
    with substituter(cache) as caches, pytest.raises(UntrustedError):
        bring(store, caches, A)
    # Signed it counts, but the address is not kept.
    falsify(cache, A, ca=address)
    with substituter(cache) as caches:
        bring(store, caches, A)
    assert store.info(A).ca is None


@pytest.mark.parametrize(
    "target", ["file:///etc/passwd", "ftp://x/y", "http://[x", "gopher://127.0.0.1:1/"]
)
def test_redirects_to_elsewhere_are_refused(store: Store, server: Server, target: str) -> None:
    def redirect(request: Request) -> bool:
        if request.name.startswith("nar/"):
            request.answer(302, Location=target)
        return request.name.startswith("nar/")

    server.instead = redirect
    with substituter(server.url) as caches, pytest.raises(ServiceError, match="redirects to"):
        bring(store, caches, A)
    assert not store.paths.count()


def test_redirects_over_http_are_followed_but_not_for_ever(store: Store, server: Server) -> None:
    def once(request: Request) -> bool:
        if request.name.startswith("nar/"):
            request.answer(307, Location=f"/moved/{request.name}")
            return True
        if request.name.startswith("moved/"):
            server.answer(request._replace(name=request.name.removeprefix("moved/")))
            return True
        return False

    server.instead = once
    with substituter(server.url) as caches:
        assert bring(store, caches, A).valid == [A]

    def again(request: Request) -> bool:
        if request.name.startswith("nar/"):
            request.answer(307, Location=f"/{request.name}")
        return request.name.startswith("nar/")

    server.instead = again
    with substituter(server.url) as caches, pytest.raises(ServiceError, match="more than 5 times"):
        bring(store, caches, B)


def test_a_cache_of_another_store_is_no_cache(store: Store, cache: Path, server: Server) -> None:
    (cache / "nix-cache-info").write_text("StoreDir: /gnu/store\n")
    with substituter(server.url) as caches, pytest.raises(ServiceError, match="/gnu/store"):
        bring(store, caches, A)


def test_a_narinfo_without_end_is_not_read(store: Store, cache: Path, server: Server) -> None:
    with (cache / f"{A.hash}.narinfo").open("ab") as file:
        file.truncate(64 << 20)
    for place in (server.url, cache):
        with substituter(place) as caches, pytest.raises(ServiceError, match="more than the 4194"):
            bring(store, caches, A)
