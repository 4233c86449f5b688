"""A store served as a binary cache: to plain HTTP clients, to eka, and to real Nix."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import urllib3

from eka_runtime.cache.decompress import EXTENSIONS
from eka_runtime.cache.server import Address, serving
from eka_runtime.cache.serving import Cache, Policy
from eka_runtime.castore.nar_source import nar_pieces, nar_size
from eka_runtime.errors import HashMismatch, ServiceError, UsageError
from eka_runtime.nix.narinfo import parse_narinfo
from eka_runtime.nix.path import StorePath
from eka_runtime.store.store import Store
from tests.caches import FEATURES
from tests.requirements import require
from tests.seed import NixStore
from tests.stores import assert_clean, problems
from tests.unit.cache.world import KEY, A, B, C, bring, fill, substituter

TOKEN = "a token that is long enough"


@pytest.fixture
def origin(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "origin") as made:
        fill(made)
        yield made
    assert_clean(tmp_path / "origin")


@contextmanager
def served(store: Store, policy: Policy | None = None, log: bytes | None = None) -> Iterator[str]:
    reports: list[str] = []
    cache = Cache(store, policy or Policy(keys=(KEY,)), find_log=lambda name: log)
    with serving(cache, Address("127.0.0.1", 0), reports.append) as url:
        yield url
    assert not reports


@pytest.fixture
def http() -> Iterator[urllib3.PoolManager]:
    with urllib3.PoolManager(retries=False) as pool:
        yield pool


def nar_of(store: Store, path: StorePath) -> bytes:
    parts: list[bytes] = []
    store.write_nar(path, parts.append)
    return b"".join(parts)


def test_what_it_says_of_itself(origin: Store, http: urllib3.PoolManager) -> None:
    with served(origin, Policy(priority=7)) as url:
        answer = http.request("GET", f"{url}/nix-cache-info")
        assert answer.data == b"StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 7\n"
        for name in (f"{'0' * 32}.narinfo", "x", "../etc/passwd", "nar/x.nar", f"{A.hash}.ls/x"):
            assert http.request("GET", f"{url}/{name}").status == 404
        assert http.request("POST", f"{url}/nix-cache-info").status == 405
        assert http.request("GET", url).status == 200


def test_head_says_what_get_would(origin: Store, http: urllib3.PoolManager) -> None:
    with served(origin, Policy("none")) as url:
        nar = parse_narinfo(http.request("GET", f"{url}/{A.hash}.narinfo").data).url
        for name in (f"{A.hash}.narinfo", f"{A.hash}.ls", "nix-cache-info", nar):
            head, get = (http.request(method, f"{url}/{name}") for method in ("HEAD", "GET"))
            assert (head.status, head.data) == (200, b"")
            assert head.headers["Content-Length"] == str(len(get.data))
            assert head.headers["Content-Type"] == get.headers["Content-Type"]


@pytest.mark.parametrize("compression", EXTENSIONS)
def test_eka_takes_all_of_it(origin: Store, store: Store, compression: str) -> None:
    with served(origin, Policy(compression, keys=(KEY,))) as url, substituter(url) as caches:
        assert bring(store, caches, C).valid == [A, B, C]
    for path in (A, B, C):
        assert nar_of(store, path) == nar_of(origin, path)
        assert store.info(path).signatures[0].startswith("test-1:")


def test_ranges_of_a_nar(origin: Store, http: urllib3.PoolManager) -> None:
    nar = nar_of(origin, A)
    with served(origin, Policy("none")) as url:
        narinfo = parse_narinfo(http.request("GET", f"{url}/{A.hash}.narinfo").data)
        place = f"{url}/{narinfo.url}"
        assert narinfo.file_size == len(nar)
        assert http.request("GET", place).data == nar
        for first, last in ((0, 0), (5, 99), (200_000, len(nar) - 1), (3, 10**15)):
            answer = http.request("GET", place, headers={"Range": f"bytes={first}-{last}"})
            assert (answer.status, answer.data) == (206, nar[first : last + 1])
            end = min(last, len(nar) - 1)
            assert answer.headers["Content-Range"] == f"bytes {first}-{end}/{len(nar)}"
        open_end = http.request("GET", place, headers={"Range": "bytes=1000-"})
        assert open_end.data == nar[1000:]
        tag = open_end.headers["ETag"]
        for condition, status in ((tag, 206), ('"other"', 200)):
            headers = {"Range": "bytes=1000-", "If-Range": condition}
            assert http.request("GET", place, headers=headers).status == status
        for wrong in (f"bytes={len(nar)}-", "bytes=9-3"):
            assert http.request("GET", place, headers={"Range": wrong}).status == 416
        # What is no range that we understand is none.
        assert http.request("GET", place, headers={"Range": "bytes=1-2,5-6"}).status == 200
        assert http.request("GET", place.replace("narsize=", "narsize=1")).status == 400
        assert http.request("GET", place.partition("?")[0]).status == 400
        forged = base64.urlsafe_b64encode(b"\x0a\x22\x12\x20" + bytes(32)).decode().rstrip("=")
        assert http.request("GET", f"{url}/nar/snix-castore/{forged}?narsize=1").status == 404


def test_every_part_of_a_nar_is_had_from_any_byte(origin: Store) -> None:
    for path in (A, B, C):
        node, nar = origin.info(path).node, nar_of(origin, path)
        assert nar_size(node, origin.directories) == len(nar)
        for start in [*range(0, 700, 7), 1000, len(nar) - 9, len(nar) - 1, len(nar)]:
            pieces = nar_pieces(node, origin.blobs, origin.directories, start)
            assert b"".join(pieces) == nar[start:]


def test_logs_and_listings(origin: Store, http: urllib3.PoolManager) -> None:
    with served(origin, log=b"it was built\n") as url:
        assert http.request("GET", f"{url}/log/x.drv").data == b"it was built\n"
        found = json.loads(http.request("GET", f"{url}/{A.hash}.ls").data)
        entry = found["root"]["entries"]["run"]
        begin = entry["narOffset"]
        assert nar_of(origin, A)[begin : begin + entry["size"]] == b"#!/bin/sh\n"
        assert entry["executable"]


def test_what_is_damaged_does_not_go_out_whole(origin: Store, http: urllib3.PoolManager) -> None:
    """Nor does a client that trusts us make a path of it."""
    row = next(row for row in map(origin.blobs.row, _large(origin)) if row)
    blob = Path(origin.blobs.place(row))
    good = blob.read_bytes()
    os.chmod(blob, 0o644)
    blob.write_bytes(good[:-1] + b"!")
    try:
        assert problems(origin)
        reports: list[str] = []
        for compression in ("zstd", "none"):
            cache = Cache(origin, Policy(compression, keys=(KEY,)))
            with (
                serving(cache, Address("127.0.0.1", 0), reports.append) as url,
                Store.open(origin.root.with_name(f"other-{compression}")) as other,
                substituter(url) as caches,
            ):
                with pytest.raises((ServiceError, HashMismatch)):
                    bring(other, caches, A)
                assert not other.paths.count()
        assert "has changed since it was added" in reports[0]
    finally:
        blob.write_bytes(good)
        os.chmod(blob, 0o444)
        os.utime(blob, (1, 1))


def _large(store: Store) -> Iterator[bytes]:
    from eka_runtime.castore.directories import walk

    for _, directory in walk(store.info(A).node, store.directories):
        for name, node in directory.entries:
            if name == b"noise":
                yield node.digest  # type: ignore[union-attr]


def nix_config(tmp_path: Path, url: str) -> tuple[str, ...]:
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine 127.0.0.1 login anybody password {TOKEN.replace(' ', '_')}\n")
    return (
        *("--option", "trusted-public-keys", str(KEY.public)),
        *("--option", "netrc-file", str(netrc)),
        *("--option", "substituters", url),
    )


@pytest.mark.parametrize("compression", ["zstd", "xz", "none"])
def test_nix_takes_all_of_it(origin: Store, tmp_path: Path, compression: str) -> None:
    require("nix-store")
    nix = NixStore(tmp_path / "nix")
    with served(origin, Policy(compression, keys=(KEY,))) as url:
        options = nix_config(tmp_path, url)
        nix.run("nix-store", "-r", str(B), *options)
        nix.run("nix", *FEATURES, *options, "copy", "--from", url, str(C))
    for path in (A, B, C):
        assert nix.output("nix-store", "--dump", nix.directory / str(path)[1:]) == nar_of(
            origin, path
        )
    nix.run("nix-store", "--verify", "--check-contents")


def test_nix_refuses_what_is_signed_by_nobody(origin: Store, tmp_path: Path) -> None:
    require("nix-store")
    nix = NixStore(tmp_path / "nix")
    with served(origin, Policy()) as url, pytest.raises(RuntimeError, match="signature"):
        nix.run("nix", *FEATURES, *nix_config(tmp_path, url), "copy", "--from", url, str(A))


@pytest.mark.parametrize("compression", ["zstd", "none", "xz"])
def test_nix_uploads(origin: Store, store: Store, tmp_path: Path, compression: str) -> None:
    require("nix-store")
    nix = NixStore(tmp_path / "nix")
    with served(origin) as url:
        options = nix_config(tmp_path, url)
        nix.run("nix", *FEATURES, *options, "copy", "--from", url, str(C))
    policy = Policy(token=TOKEN.replace(" ", "_"))
    with served(store, policy) as url:
        options = nix_config(tmp_path, url)
        target = f"{url}?compression={compression}"
        nix.run("nix", *FEATURES, *options, "copy", "--to", target, str(C))
        nix.run("nix", *FEATURES, *options, "copy", "--to", target, str(C))
    for path in (A, B, C):
        assert nar_of(store, path) == nar_of(origin, path)
        info, before = store.info(path), origin.info(path)
        assert info.references == before.references
        assert info.signatures[0].startswith("test-1:")


def put(
    http: urllib3.PoolManager, url: str, name: str, data: bytes, token: str | None = TOKEN
) -> tuple[int, str]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    answer = http.request("PUT", f"{url}/{name}", body=data, headers=headers)
    return answer.status, answer.data.decode()


def test_uploads_are_checked(store: Store, pristine: Path, http: urllib3.PoolManager) -> None:
    narinfo = (pristine / f"{A.hash}.narinfo").read_bytes()
    name = parse_narinfo(narinfo).url
    nar = (pristine / name).read_bytes()
    with served(store, Policy(token=TOKEN)) as url:
        for token in (None, "", TOKEN[:-1], TOKEN + "x"):
            assert put(http, url, name, nar, token)[0] == 401
            assert put(http, url, f"{A.hash}.narinfo", narinfo, token)[0] == 401
        assert put(http, url, f"{A.hash}.narinfo", narinfo) == (
            400,
            f"`{name}` was not uploaded\n",
        )
        assert "does not have the hash" in put(http, url, name, nar_of_other(nar))[1]
        assert put(http, url, name, nar[:-8])[0] == 400
        assert put(http, url, name, nar + b"x")[0] == 400
        assert http.request("HEAD", f"{url}/{name}").status == 404
        assert put(http, url, name, nar)[0] == 201
        assert http.request("HEAD", f"{url}/{name}").status == 200
        wrong = narinfo.replace(b"NarSize: ", b"NarSize: 1")
        assert "is not the NAR" in put(http, url, f"{A.hash}.narinfo", wrong)[1]
        assert "is that of" in put(http, url, f"{B.hash}.narinfo", narinfo)[1]
        dangling = narinfo.replace(b"References: ", b"References: " + str(B.base).encode())
        assert "which is not in the store" in put(http, url, f"{A.hash}.narinfo", dangling)[1]
        assert not store.paths.count()
        assert put(http, url, f"{A.hash}.narinfo", narinfo)[0] == 201
    with served(store, Policy()) as url:
        assert put(http, url, name, nar)[0] == 403
    assert store.info(A).path == A


def nar_of_other(nar: bytes) -> bytes:
    return nar[:5000] + bytes([nar[5000] ^ 1]) + nar[5001:]


def test_addresses() -> None:
    assert Address.parse("127.0.0.1:80") == ("127.0.0.1", 80)
    assert Address.parse("[::1]:8080").url(8080) == "http://[::1]:8080"
    assert not Address.parse(":80").local
    for wrong in ("x", "x:", "x:99999", "80"):
        with pytest.raises(UsageError, match="HOST:PORT"):
            Address.parse(wrong)
