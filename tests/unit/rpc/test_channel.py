"""The client's end: what arrives, and how what goes wrong is told."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from eka_runtime.errors import EkaError, FormatError, ServiceError, StoreCorrupt, UsageError
from eka_runtime.rpc.channel import Channel, NotFound
from eka_runtime.rpc.library import MAX_MESSAGE, grpc
from eka_runtime.rpc.server import Refused, Status, answering, collecting, serving, unary
from tests.requirements import require


@contextmanager
def connected(url: str) -> Iterator[Channel]:
    channel = Channel(url)
    try:
        yield channel
    finally:
        channel.close()


def echo(request: bytes) -> bytes:
    return request


def count(request: bytes) -> Iterator[bytes]:
    return (b"%d" % number for number in range(int(request)))


def join(requests: Iterator[bytes]) -> bytes:
    return b"".join(requests)


@pytest.fixture
def channel(place: Path) -> Iterator[Channel]:
    methods = {"Echo": unary(echo), "Count": answering(count), "Join": collecting(join)}
    with serving(f"unix:{place}/s", {"test": methods}) as url, connected(url) as opened:
        yield opened


def letters(text: bytes) -> Generator[bytes, None, None]:
    for number in text:
        yield bytes([number])


def test_messages_arrive(channel: Channel) -> None:
    assert channel.call("/test/Echo", b"a") == b"a"
    assert channel.call("/test/Echo", b"") == b""
    assert list(channel.receive("/test/Count", b"3")) == [b"0", b"1", b"2"]
    assert list(channel.receive("/test/Count", b"0")) == []
    assert channel.send("/test/Join", letters(b"abc")) == b"abc"
    assert channel.send("/test/Join", letters(b"")) == b""


def test_a_channel_serves_many_threads(channel: Channel) -> None:
    with ThreadPoolExecutor(8) as pool:
        sent = [b"%d" % number for number in range(200)]
        assert list(pool.map(lambda data: channel.call("/test/Echo", data), sent)) == sent
        joined = pool.map(lambda data: channel.send("/test/Join", letters(data)), sent)
        assert list(joined) == sent


def test_nobody_is_there(place: Path) -> None:
    for url in (f"grpc+unix:{place}/absent", "grpc+http://127.0.0.1:1"):
        with connected(url) as channel:
            for ask in (
                lambda: channel.call("/test/Echo", b""),
                lambda: next(channel.receive("/test/Count", b"1")),
                lambda: channel.send("/test/Join", letters(b"a")),
            ):
                _unreachable(ask)
        _unreachable(partial(Channel, f"{url}?wait-connect=1"))


def _unreachable(ask: Callable[[], object]) -> None:
    with pytest.raises(ServiceError, match="cannot reach grpc") as raised:
        ask()
    assert "check the URL" in (raised.value.hint or "")


def test_connecting_at_once(place: Path) -> None:
    with (
        serving(f"unix:{place}/s", {"test": {"Echo": unary(echo)}}) as url,
        connected(f"{url}?wait-connect=1") as channel,
    ):
        assert channel.call("/test/Echo", b"a") == b"a"


@pytest.mark.parametrize(
    ("status", "kind", "message"),
    [
        (Status.NOT_FOUND, NotFound, "not found"),
        (Status.DATA_LOSS, StoreCorrupt, "why"),
        (Status.UNAVAILABLE, ServiceError, "cannot reach"),
        (Status.INTERNAL, ServiceError, "INTERNAL: why"),
        (Status.RESOURCE_EXHAUSTED, ServiceError, "RESOURCE_EXHAUSTED"),
    ],
)
def test_statuses(place: Path, status: grpc.StatusCode, kind: type[EkaError], message: str) -> None:
    def refuse(request: object) -> bytes:
        raise Refused(status, "why\n\x1b[31m" + "é" * 1000)

    def refuse_many(request: bytes) -> Iterator[bytes]:
        yield b"first"
        refuse(request)

    methods = {"One": unary(refuse), "Many": answering(refuse_many), "All": collecting(refuse)}
    with serving(f"unix:{place}/s", {"test": methods}) as url, connected(url) as channel:
        for ask in (
            lambda: channel.call("/test/One", b""),
            lambda: channel.send("/test/All", letters(b"abc")),
            lambda: list(channel.receive("/test/Many", b"")),
        ):
            with pytest.raises(kind, match=message) as raised:
                ask()
            assert raised.value.args[0].isprintable()
            assert len(raised.value.args[0]) < 700


def test_an_unknown_method(channel: Channel) -> None:
    with pytest.raises(ServiceError, match="UNIMPLEMENTED"):
        channel.call("/test/Absent", b"")


def test_a_message_that_is_too_large(channel: Channel) -> None:
    large = bytes(MAX_MESSAGE)
    assert channel.call("/test/Echo", large) == large
    asks: list[Callable[[], bytes]] = [
        lambda: channel.call("/test/Echo", large + b"."),
        lambda: channel.send("/test/Join", (message for message in [large + b"."])),
        # Here the answer is what is too large.
        lambda: channel.send("/test/Join", (message for message in [large, b"."])),
    ]
    for ask in asks:
        with pytest.raises(ServiceError, match="RESOURCE_EXHAUSTED") as raised:
            ask()
        assert "4 MiB" in (raised.value.hint or "")


class Broken(Exception):
    pass


def test_a_source_that_breaks_is_not_taken_for_complete(place: Path) -> None:
    outcome: list[object] = []
    over = threading.Event()

    def take(requests: Iterator[bytes]) -> bytes:
        try:
            outcome.append(b"".join(requests))
        except Exception as error:
            outcome.append(type(error))
            raise
        finally:
            over.set()
        return b""

    def breaking() -> Generator[bytes, None, None]:
        yield b"begun"
        raise Broken

    with (
        serving(f"unix:{place}/s", {"test": {"Take": collecting(take)}}) as url,
        connected(url) as channel,
    ):
        with pytest.raises(Broken):
            channel.send("/test/Take", breaking())
        over.wait()
    assert outcome in ([grpc.RpcError], [Refused])


def test_a_source_rests_when_the_service_has_refused(place: Path) -> None:
    used: list[bool] = []
    returned = False

    def endless() -> Generator[bytes, None, None]:
        try:
            while True:
                used.append(returned)
                yield b"more"
        finally:
            used.append(returned)

    def refuse(requests: Iterator[bytes]) -> bytes:
        next(requests)
        raise Refused(Status.INTERNAL, "enough")

    with (
        serving(f"unix:{place}/s", {"test": {"Refuse": collecting(refuse)}}) as url,
        connected(url) as channel,
    ):
        with pytest.raises(ServiceError, match="enough"):
            channel.send("/test/Refuse", endless())
        returned = True
    assert not any(used)


def test_closing_an_answer_ends_it(place: Path) -> None:
    ended = threading.Event()

    def endless(request: bytes) -> Iterator[bytes]:
        try:
            while True:
                yield bytes(1 << 16)
        finally:
            ended.set()

    with (
        serving(f"unix:{place}/s", {"test": {"Endless": answering(endless)}}) as url,
        connected(url) as channel,
    ):
        with channel.receive("/test/Endless", b"") as incoming:
            assert len(next(incoming)) == 1 << 16
        ended.wait()


def test_nonsense_is_the_fault_of_the_service(channel: Channel) -> None:
    def decode() -> None:
        raise FormatError("what")

    with pytest.raises(ServiceError, match="makes no sense: what"):
        channel.understood(decode)


@pytest.fixture
def certificate(place: Path) -> tuple[Path, Path]:
    """For localhost, signed by itself, and its key."""
    cert, key = place / "cert.pem", place / "key.pem"
    command = [require("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run([*command, "-keyout", key, "-out", cert], check=True, capture_output=True)
    return cert, key


def test_certificates(certificate: tuple[Path, Path]) -> None:
    cert, key = certificate
    pair = (key.read_bytes(), cert.read_bytes())
    credentials = grpc.ssl_server_credentials([pair], cert.read_bytes(), True)
    with ThreadPoolExecutor(2) as pool:
        handler = grpc.unary_unary_rpc_method_handler(lambda request, context: request)
        server = grpc.server(
            pool, [grpc.method_handlers_generic_handler("test", {"Echo": handler})]
        )
        port = server.add_secure_port("localhost:0", credentials)
        server.start()
        try:
            base = f"grpc+https://localhost:{port}?tls-ca-cert-path={cert}"
            mine = f"{base}&tls-client-cert-path={cert}&tls-client-key-path={key}"
            with connected(mine) as channel:
                assert channel.call("/test/Echo", b"secret") == b"secret"
            for stranger in (
                base,
                f"grpc+https://localhost:{port}",
                f"grpc+http://localhost:{port}",
            ):
                with connected(stranger) as channel, pytest.raises(ServiceError):
                    channel.call("/test/Echo", b"secret")
        finally:
            server.stop(None).wait()


def test_a_certificate_that_is_not_there(place: Path) -> None:
    with pytest.raises(UsageError, match="cannot read"):
        Channel(f"grpc+https://localhost:1?tls-ca-cert-path={place}/absent")
