"""The server's end: where it listens, what it bounds, how it ends."""

from __future__ import annotations

import os
import socket
import stat
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from eka_runtime.errors import CastoreError, ServiceError, StoreCorrupt, UsageError
from eka_runtime.rpc.address import ServiceUrl
from eka_runtime.rpc.channel import Channel, NotFound
from eka_runtime.rpc.library import grpc
from eka_runtime.rpc.server import Methods, Status, answering, collecting, serving, unary

ECHO: dict[str, Methods] = {"test": {"Echo": unary(lambda request: request)}}


def ask(url: str, method: str = "/test/Echo", request: bytes = b"a") -> bytes:
    channel = Channel(url)
    try:
        return channel.call(method, request)
    finally:
        channel.close()


def test_a_socket_is_its_owners_and_goes_away(place: Path) -> None:
    with serving(f"unix:{place}/s", ECHO) as url:
        assert url == f"grpc+unix:{place}/s"
        status = os.lstat(place / "s")
        assert stat.S_ISSOCK(status.st_mode)
        assert stat.S_IMODE(status.st_mode) == 0o600
        assert os.listdir(place) == ["s"]
        assert ask(url) == b"a"
    assert os.listdir(place) == []


def test_a_strange_name(place: Path) -> None:
    with serving(f"unix:{place}/a b?%41#", ECHO) as url:
        assert ask(url) == b"a"
        assert os.listdir(place) == ["a b?%41#"]


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "localhost"])
def test_a_port(host: str) -> None:
    with serving(f"{host}:0", ECHO) as url:
        address = ServiceUrl.parse(url).address
        assert url.startswith(f"grpc+http://{host}:")
        assert not url.endswith(":0")
        assert ask(url) == b"a"
        with pytest.raises(UsageError, match="in use"), serving(str(address)[12:], ECHO):
            pytest.fail("two servers share a port")


def test_a_socket_of_another_server_is_left_alone(place: Path) -> None:
    with serving(f"unix:{place}/s", ECHO) as url:
        with pytest.raises(UsageError, match="another server"), serving(f"unix:{place}/s", ECHO):
            pytest.fail("two servers share a socket")
        assert ask(url) == b"a"


def test_a_socket_left_behind_is_replaced(place: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(f"{place}/s")
    with serving(f"unix:{place}/s", ECHO) as url:
        assert ask(url) == b"a"


def test_a_socket_that_has_become_anothers_stays(place: Path) -> None:
    with serving(f"unix:{place}/s", ECHO):
        os.rename(place / "s", place / "first")
        with serving(f"unix:{place}/s", ECHO) as url:
            os.rename(place / "s", place / "kept")
            os.rename(place / "first", place / "s")
            assert ask(url) == b"a"
        assert sorted(os.listdir(place)) == ["kept", "s"]
        os.unlink(place / "s")


def test_places_that_cannot_be(place: Path) -> None:
    (place / "file").write_text("precious")
    long = place / ("d" * (100 - len(str(place))))
    long.mkdir()
    for name, problem in [
        (place / "file", "not a socket"),
        (place / "file" / "s", "Not a directory"),
        (place / "absent" / "s", "No such file"),
        (long / "s", "long a name"),
        (place, "not a socket"),
    ]:
        with pytest.raises(UsageError, match=problem), serving(f"unix:{name}", ECHO):
            pytest.fail("listens where it cannot")
    for text in ("192.0.2.1:0", "host.invalid:0"):
        with pytest.raises(UsageError, match="not an address"), serving(text, ECHO):
            pytest.fail("listens where it cannot")
    assert (place / "file").read_text() == "precious"
    assert sorted(os.listdir(place)) == sorted(["file", long.name])


def test_health(place: Path) -> None:
    check = "/grpc.health.v1.Health/Check"
    with serving(f"unix:{place}/s", ECHO) as url:
        assert ask(url, check, b"") == b"\x08\x01"
        assert ask(url, check, b"\x0a\x04test") == b"\x08\x01"
        with pytest.raises(NotFound):
            ask(url, check, b"\x0a\x05other")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (StoreCorrupt("lost"), "lost"),
        (CastoreError("wrong"), "ABORTED: wrong"),
    ],
)
def test_errors_become_statuses(place: Path, error: Exception, message: str) -> None:
    def fail(request: object) -> bytes:
        raise error

    def fail_many(request: bytes) -> Iterator[bytes]:
        yield fail(request)

    methods = {
        "One": unary(fail, Status.ABORTED),
        "Many": answering(fail_many, Status.ABORTED),
        "All": collecting(fail, Status.ABORTED),
    }
    expected = StoreCorrupt if isinstance(error, StoreCorrupt) else ServiceError
    with serving(f"unix:{place}/s", {"test": methods}) as url:
        for name in methods:
            with pytest.raises(expected, match=message):
                ask(url, f"/test/{name}")


def test_a_bug_is_told_to_both_sides(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    def fail(request: bytes) -> bytes:
        raise ZeroDivisionError

    with (
        serving(f"unix:{place}/s", {"test": {"Fail": unary(fail)}}) as url,
        pytest.raises(ServiceError, match="UNKNOWN"),
    ):
        ask(url, "/test/Fail")
    assert "ZeroDivisionError" in caplog.text


class Gate:
    """A method that waits, and tells that it does."""

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self.open = threading.Event()

    def wait(self, request: bytes) -> bytes:
        self.entered.release()
        self.open.wait()
        return request


def test_calls_beyond_measure_are_refused(place: Path) -> None:
    gate = Gate()
    with (
        serving(f"unix:{place}/s", {"test": {"Wait": unary(gate.wait)}}, threads=1) as url,
        grpc.insecure_channel(ServiceUrl.parse(url).address.target) as channel,
    ):
        calls = [channel.unary_unary("/test/Wait", None, None).future(b"a") for _ in range(20)]
        refused = threading.Semaphore(0)
        for call in calls:
            call.add_done_callback(lambda done: refused.release())
        for _ in range(11):
            refused.acquire()
        gate.open.set()
        codes = [call.code() for call in calls]
    assert codes.count(Status.RESOURCE_EXHAUSTED) == 11
    assert codes.count(Status.OK) == 9


def test_calls_under_way_complete(place: Path) -> None:
    gate = Gate()
    with ThreadPoolExecutor(1) as pool:
        with serving(f"unix:{place}/s", {"test": {"Wait": unary(gate.wait)}}, grace=60.0) as url:
            answer = pool.submit(ask, url, "/test/Wait", b"late")
            gate.entered.acquire()
            threading.Timer(0, gate.open.set).start()
        assert answer.result() == b"late"


def test_a_call_that_does_not_end_is_cut_off(place: Path) -> None:
    begun, cut = threading.Event(), threading.Event()

    def take(requests: Iterator[bytes]) -> bytes:
        begun.set()
        try:
            return b"".join(requests)
        finally:
            cut.set()

    def never() -> Iterator[bytes]:
        cut.wait()
        yield b""

    with grpc.insecure_channel(f"unix:{place}/s") as channel:
        methods = {"test": {"Take": collecting(take)}}
        with serving(f"unix:{place}/s", methods, grace=0.0):
            call = channel.stream_unary("/test/Take", None, None).future(never())
            begun.wait()
        assert call.code() in (Status.CANCELLED, Status.UNAVAILABLE)
