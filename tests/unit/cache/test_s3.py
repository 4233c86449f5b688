"""Caches and castore services in buckets of a server that speaks S3."""

from __future__ import annotations

import io
import os
import random
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import pytest

from eka_runtime.cache.answers import Answers
from eka_runtime.cache.client import BinaryCache
from eka_runtime.cache.files import Body
from eka_runtime.cache.s3 import S3Files
from eka_runtime.cache.substituter import Substituter
from eka_runtime.cache.upload import How, missing_in, prepare_cache, upload
from eka_runtime.castore.objects import Objects, from_url
from eka_runtime.errors import ConfigError, ServiceError
from eka_runtime.nix.narinfo import parse_narinfo
from eka_runtime.store.addresses import Addresses
from eka_runtime.store.composition import open_services
from eka_runtime.store.copying import missing_here, missing_there
from eka_runtime.store.incoming import copy_from
from eka_runtime.store.outgoing import copy_to
from eka_runtime.store.store import Store
from tests.caches import Request, Server, serving
from tests.s3 import PAGE, PUBLIC, S3, WHO, serve_s3
from tests.unit.cache.world import KEY, TRUST, A, B, C, bring, fill

LARGE = random.Random(7).randbytes(12 << 20)
"""Goes in parts: a part has at least 5 MiB."""


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    with serve_s3() as server:
        yield server


@pytest.fixture
def bucket(s3: S3, request: pytest.FixtureRequest) -> str:
    name = "".join(c if c.isalnum() else "-" for c in request.node.name).lower()
    return s3.make_bucket(name.replace("test-", "")[:60].strip("-"))


@pytest.fixture(autouse=True)
def somebody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Credentials, and no others; the library reads variables by itself."""
    for variable in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(variable)
    for name, value in WHO.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def origin(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "origin") as made:
        fill(made)
        yield made


def files_in(s3: S3, bucket: str, **more: str) -> S3Files:
    return S3Files(f"s3://{bucket}/some/place", s3.parameters | more)


@contextmanager
def caches_in(files: S3Files) -> Iterator[Substituter]:
    answers = Answers(None)
    yield Substituter([BinaryCache(files.name, files, TRUST)], answers, lambda text: None)
    answers.close()


def send(origin: Store, files: S3Files) -> None:
    prepare_cache(files)
    upload(origin, files, missing_in(files, origin, [A, B, C]), How("zstd", keys=(KEY,)))


class Ordered(S3Files):
    """Checks at every narinfo what must be there before it."""

    def write(self, name: str, data: BinaryIO, size: int, mime: str) -> None:
        if name.endswith(".narinfo"):
            info = parse_narinfo(data.read())
            assert self.has(info.url)
            assert all(self.has(f"{p.hash}.narinfo") for p in info.references if p != info.path)
        super().write(name, data, size, mime)


def test_there_and_back(s3: S3, bucket: str, origin: Store, store: Store) -> None:
    files = Ordered(f"s3://{bucket}/some/place", s3.parameters)
    send(origin, files)
    assert missing_in(files, origin, [A, B, C]) == []
    with caches_in(files) as caches:
        assert bring(store, caches, C).valid == [A, B, C]
    assert {key.partition("/")[0] for key in objects_in(s3, bucket).list("")} == {"some"}


def objects_in(s3: S3, bucket: str) -> Objects:
    return from_url(f"objectstore+s3://{bucket}?aws_endpoint=http://{s3.host}")


def test_a_large_file_goes_in_parts_and_comes_in_spite_of_cuts(s3: S3, bucket: str) -> None:
    files_in(s3, bucket).write("nar/large", io.BytesIO(LARGE), len(LARGE), "application/x-nix-nar")
    with cutting(s3.host, 2 << 20) as (host, cuts):
        files = S3Files(f"s3://{bucket}/some/place", s3.parameters | {"endpoint": host})
        body = files.open("nar/large")
        assert body is not None
        assert whole(body) == LARGE
        assert cuts


def test_a_file_that_is_replaced_meanwhile_is_not_mixed(s3: S3, bucket: str) -> None:
    direct = files_in(s3, bucket)
    direct.write("nar/large", io.BytesIO(LARGE), len(LARGE), "")
    with cutting(s3.host, 2 << 20) as (host, _):
        files = S3Files(f"s3://{bucket}/some/place", s3.parameters | {"endpoint": host})
        body = files.open("nar/large")
        assert body is not None
        direct.write("nar/large", io.BytesIO(bytes(len(LARGE))), len(LARGE), "")
        with pytest.raises(ServiceError):
            whole(body)


def whole(body: Body) -> bytes:
    return b"".join(iter(lambda: body.read(1 << 18), b""))


@contextmanager
def cutting(host: str, after: int) -> Iterator[tuple[str, list[int]]]:
    """Passes connections on, and ends each when so many bytes came back."""
    cuts: list[int] = []
    listening = socket.create_server(("127.0.0.1", 0))
    name, _, port = host.partition(":")

    def back(far: socket.socket, near: socket.socket) -> None:
        left = after
        while left > 0 and (data := far.recv(min(left, 1 << 16))):
            near.sendall(data)
            left -= len(data)
        if left <= 0:
            cuts.append(after)
        for line in (near, far):
            line.shutdown(socket.SHUT_RDWR)

    def forward(near: socket.socket) -> None:
        with near, socket.create_connection((name, int(port))) as far:
            thread = threading.Thread(target=quiet, args=(back, far, near))
            thread.start()
            quiet(copy, near, far)
            thread.join()

    def accept() -> None:
        while True:
            near, _ = listening.accept()
            threading.Thread(target=quiet, args=(forward, near), daemon=True).start()

    threading.Thread(target=quiet, args=(accept,), daemon=True).start()
    yield f"127.0.0.1:{listening.getsockname()[1]}", cuts
    listening.shutdown(socket.SHUT_RDWR)
    listening.close()


def copy(source: socket.socket, target: socket.socket) -> None:
    while data := source.recv(1 << 16):
        target.sendall(data)


def quiet(job: Callable[..., object], *arguments: object) -> None:
    """Connections that are cut are what this is about."""
    with suppress(OSError):
        job(*arguments)


def test_a_bucket_that_is_not_there(s3: S3, origin: Store) -> None:
    files = files_in(s3, "nobody-made-it")
    for job in (lambda: files.read("nix-cache-info", 100), lambda: prepare_cache(files)):
        with pytest.raises(ServiceError, match=r"bucket does not exist \(NoSuchBucket\)") as raised:
            job()
        assert "name of the bucket" in (raised.value.hint or "")
    for job in (
        lambda: objects_in(s3, "nobody-made-it").put("a/b", b""),
        lambda: objects_in(s3, "nobody-made-it").get("a/b"),
        lambda: list(objects_in(s3, "nobody-made-it").list("a")),
    ):
        with pytest.raises(ServiceError, match=r"bucket does not exist \(NoSuchBucket\)"):
            job()


def test_whoever_is_not_known_is_told(s3: S3, bucket: str) -> None:
    files = files_in(s3, bucket)
    prepare_cache(files)
    with s3.strict():
        for job in (
            lambda: files.read("nix-cache-info", 100),
            lambda: files.write("x", io.BytesIO(b""), 0, ""),
            lambda: objects_in(s3, bucket).get("a/b"),
        ):
            with pytest.raises(ServiceError, match="InvalidAccessKeyId") as raised:
                job()
            assert "AWS_SKIP_SIGNATURE=true" in (raised.value.hint or "")
        # Of others it may be said instead of that they are not there.
        assert files.read("0.narinfo", 100) is None
        assert not files.has("0.narinfo")


def test_a_public_bucket_needs_nobody(
    s3: S3, origin: Store, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = s3.make_bucket("for-everybody", PUBLIC.replace("NAME", "for-everybody"))
    send(origin, files_in(s3, bucket))
    for name in WHO:
        monkeypatch.delenv(name)
    # An endpoint of one's own is no machine of Amazon's that would have a role.
    with caches_in(files_in(s3, bucket)) as caches:
        assert bring(store, caches, A).valid == [A]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{s3.host}")
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    with caches_in(S3Files(f"s3://{bucket}/some/place", {})) as caches:
        assert bring(store, caches, C).valid == [B, C]


def test_another_region(tmp_path: Path) -> None:
    """As Amazon answers."""

    def elsewhere(request: Request) -> bool:
        text = b"<Error><Code>PermanentRedirect</Code><Message>Use that endpoint.</Message></Error>"
        request.answer(301, text, x_amz_bucket_region="eu-west-3")
        return True

    with serving(tmp_path) as server:
        server.instead = elsewhere
        host = server.url.removeprefix("http://")
        files = S3Files("s3://bucket", {"endpoint": host, "scheme": "http"})
        with pytest.raises(ServiceError) as raised:
            files.read("nix-cache-info", 100)
        assert raised.value.hint == "name the region of the bucket, in its URL or as AWS_REGION"


def test_profiles(s3: S3, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asks, and from which region, can be seen in what he sends."""
    (tmp_path / ".aws").mkdir()
    keys = "aws_access_key_id = {0}\naws_secret_access_key = {0}\n"
    text = f"[default]\n{keys.format('usual')}\n[work]\n{keys.format('worker')}\n"
    (tmp_path / ".aws" / "credentials").write_text(text)
    config = "[profile work]\nregion = eu-west-3\n[profile none]\nregion = eu-west-3\n"
    (tmp_path / ".aws" / "config").write_text(config)
    with serving(tmp_path) as server:
        who = [signer(server, profile="work"), signer(server), signer(server, region="us-west-1")]
        for name in WHO:
            monkeypatch.delenv(name)
        who.append(signer(server))
        monkeypatch.setenv("AWS_PROFILE", "work")
        who.append(signer(server))
        with pytest.raises(ConfigError, match="profile `none` has no"):
            signer(server, profile="none")
    assert who == [
        "worker eu-west-3",
        "somebody us-east-1",
        "somebody us-west-1",
        "usual us-east-1",
        "worker eu-west-3",
    ]


def signer(server: Server, **parameters: str) -> str:
    seen: list[str] = []

    def look(request: Request) -> bool:
        seen.append(request.handler.headers["Authorization"])
        request.answer(404)
        return True

    server.instead = look
    host = server.url.removeprefix("http://")
    files = S3Files("s3://bucket", {"endpoint": host, "scheme": "http"} | parameters)
    assert files.read("nix-cache-info", 100) is None
    key, _, region, *_ = seen[0].partition("Credential=")[2].split("/")
    return f"{key} {region}"


def test_services_in_a_bucket(s3: S3, bucket: str, origin: Store, store: Store) -> None:
    query = f"aws_endpoint=http://{s3.host}&aws_region=us-east-1"
    url = f"objectstore+s3://{bucket}/castore?{query}"
    with open_services(Addresses(url, url, url)) as far:
        copy_to(origin, far, missing_there(origin, far, [C]))
        assert missing_there(origin, far, [C]) == []
        assert sorted(info.path for info in far.paths.all()) == [A, B, C]
        copy_from(store, far, missing_here(store, far, [C]))


def test_more_than_one_page_of_a_listing(s3: S3, bucket: str) -> None:
    objects = objects_in(s3, bucket)
    names = [f"many/{number}" for number in range(2 * PAGE + 5)]
    for name in names:
        objects.put(name, b"", replace=True)
    assert sorted(objects.list("many")) == sorted(names)
