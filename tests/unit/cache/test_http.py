"""Bad lines: what is cut goes on, what is slow is given up; credentials stay at home."""

from __future__ import annotations

import base64
import gzip
import io
import random
from contextlib import closing, suppress
from pathlib import Path

import pytest

from eka_runtime.cache.access import Access
from eka_runtime.cache.http import HttpFiles, Patience
from eka_runtime.errors import ConfigError, ServiceError
from eka_runtime.store.store import Store
from tests.caches import Request, Server, serving
from tests.unit.cache.world import QUICK, A, B, C, bring, nar_file, plan, substituter


class Cutting:
    """Ends answers somewhere in the middle, with a length, without one, or in chunks."""

    def __init__(self, server: Server, seed: int, *, ranges: bool, least: int = 20_000) -> None:
        self.cuts = 0
        self._server = server
        self._random = random.Random(seed)
        self._ranges = ranges
        self._least = least

    def __call__(self, request: Request) -> bool:
        if not request.name.startswith("nar/"):
            return False
        data = (self._server.directory / request.name).read_bytes()
        start = request.start if self._ranges else 0
        rest = data[start:]
        sent = rest[: self._random.randrange(min(self._least, len(data)), len(data) + 1)]
        headers = {"Content_Length": str(len(rest)), "ETag": '"1"'}
        if start:
            headers["Content_Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        request.answer(206 if start else 200, sent, **headers)
        if len(sent) < len(rest):
            self.cuts += 1
            request.cut()
        return True


@pytest.mark.parametrize("ranges", [True, False])
def test_a_hundred_cuts_lose_nothing(store: Store, server: Server, ranges: bool) -> None:
    """The store's fixture verifies every byte."""
    cutting = Cutting(server, 4, ranges=ranges)
    server.instead = cutting
    rounds = 0
    while cutting.cuts < 100:
        rounds += 1
        with Store.open(store.root.with_name(f"store-{rounds}")) as fresh:
            told = ended(fresh, server.url)
            assert told in ([A, B, C], "cut")
            if told == "cut":
                # It goes on with the rest, and what became valid before stays.
                valid = {info.path for info in fresh.paths.all()}
                server.instead = lambda request: False
                with substituter(server.url) as caches:
                    rest = bring(fresh, caches, C).valid
                assert {*valid, *rest} == {A, B, C}
                assert not valid & set(rest)
                server.instead = cutting
            assert not fresh.verify(deep=True, report=print).problems
    # Where the server continues, every fetch gets through: each piece is progress.
    assert rounds < 100


def ended(store: Store, url: str) -> object:
    with substituter(url) as caches, suppress(ServiceError):
        return bring(store, caches, C).valid
    return "cut"


def test_a_server_that_changes_its_mind_in_the_middle_is_caught(
    store: Store, server: Server, pristine: Path
) -> None:
    def other_half(request: Request) -> bool:
        if not request.name.startswith("nar/"):
            return False
        data = nar_file(server.directory, A).read_bytes()
        if request.start:
            span = f"bytes {request.start}-{len(data) - 1}/{len(data)}"
            request.answer(206, bytes(len(data) - request.start), Content_Range=span)
        else:
            request.answer(200, data[: len(data) // 2], Content_Length=str(len(data)))
            request.cut()
        return True

    server.instead = other_half
    with substituter(server.url, pristine) as caches:
        told = bring(store, caches, A)
    assert told.valid == [A]
    assert f"taking it from file://{pristine}" in told.warnings[0]


def test_what_is_transient_is_tried_again(store: Store, server: Server) -> None:
    failures = {"nix-cache-info": 2, f"{A.hash}.narinfo": 2, nar_file(server.directory, A).name: 2}

    def fail(request: Request) -> bool:
        name = request.name.removeprefix("nar/")
        if not failures.get(name):
            return False
        failures[name] -= 1
        if failures[name]:
            request.answer(503, b"later", Retry_After="0")
        else:
            request.cut()
        return True

    server.instead = fail
    with substituter(server.url) as caches:
        assert bring(store, caches, A).valid == [A]
    assert not any(failures.values())


def test_a_server_in_trouble_is_given_up(store: Store, server: Server) -> None:
    def fail(request: Request) -> bool:
        request.answer(500)
        return True

    server.instead = fail
    with substituter(server.url) as caches, pytest.raises(ServiceError, match="status 500"):
        bring(store, caches, A)
    assert len(server.asked) == QUICK.tries


@pytest.mark.parametrize("bytes_each", [0, 1, 100])
def test_slow_loris_is_given_up(
    store: Store, server: Server, pristine: Path, bytes_each: int
) -> None:
    """It sends nothing, or drips; the client decides when that is enough."""
    gone = []

    def drip(request: Request) -> bool:
        if not request.name.startswith("nar/"):
            return False
        data = nar_file(server.directory, A).read_bytes()
        request.answer(200, Content_Length=str(len(data)))
        out = request.handler.wfile
        out.flush()
        try:
            while bytes_each:
                out.write(data[:bytes_each])
                out.flush()
        except OSError:
            gone.append(request)
        else:
            request.handler.connection.recv(1)
        return True

    server.instead = drip
    patience = QUICK._replace(read=0.2, window=0.2, rate=1 << 40, tries=1)
    with substituter(server.url, pristine, patience=patience) as caches:
        told = bring(store, caches, A)
    assert told.valid == [A]
    assert len(told.warnings) == 1


def test_a_slow_cache_does_not_hold_up_the_rest(store: Store, cache: Path, pristine: Path) -> None:
    """The first cache never answers for a path; the second is asked beside it."""
    with serving(cache) as stuck:
        waiting = []

        def wait(request: Request) -> bool:
            if not request.name.endswith(".narinfo"):
                return False
            waiting.append(request.name)
            request.handler.connection.recv(1)
            return True

        stuck.instead = wait
        patient = Patience(read=60.0)
        with substituter(stuck.url, pristine, hedge=0.02, patience=patient) as caches:
            found = plan(caches, store, C)
        assert {one.cache.name for one in found.found} == {f"file://{pristine}"}
        assert f"{C.hash}.narinfo" in waiting


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def test_credentials_come_from_the_url_and_from_netrc_and_go_nowhere_else(
    tmp_path: Path, server: Server
) -> None:
    seen: list[str | None] = []

    def note(request: Request) -> bool:
        seen.append(request.handler.headers.get("Authorization"))
        if request.name == "away":
            elsewhere = server.url.replace("127.0.0.1", "localhost")
            request.answer(302, Location=f"{elsewhere}/nix-cache-info")
            return True
        return False

    server.instead = note
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password a:b\n")
    with closing(HttpFiles(server.url, Access({}, str(netrc)), QUICK)) as files:
        assert files.read("nix-cache-info", 1000)
        assert files.read("away", 1000)
    with_own = server.url.replace("//", "//user:p%40ss@")
    with closing(HttpFiles(with_own, Access({}, str(netrc)), QUICK)) as files:
        assert files.name == server.url
        assert files.read("away", 1000)
    me, own = basic("me", "a:b"), basic("user", "p@ss")
    # What is no usual answer is asked for once more, of the same host.
    assert seen == [me, me, me, None, own, None]
    netrc.write_text("machine secret-host nonsense hidden\n")
    with pytest.raises(ConfigError, match="is not a netrc file") as caught:
        HttpFiles(server.url, Access({}, str(netrc)), QUICK).read("x", 10)
    assert "hidden" not in str(caught.value)


def test_proxies_of_the_environment_are_used(
    store: Store, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy is asked for whole URLs."""
    asked = []

    def proxy(request: Request) -> bool:
        asked.append(request.name)
        name = request.name.removeprefix("http://cache.invalid/")
        server.answer(request._replace(name=name))
        return True

    server.instead = proxy
    monkeypatch.setenv("http_proxy", server.url)
    monkeypatch.delenv("no_proxy", raising=False)
    with substituter("http://cache.invalid") as caches:
        assert bring(store, caches, A).valid == [A]
    assert asked[0] == "http://cache.invalid/nix-cache-info"


ODDITIES: dict[str, tuple[bytes, bytes]] = {
    "in chunks": (b"Transfer-Encoding: chunked\r\n", b"4\r\ntext\r\n0\r\n\r\n"),
    "to the end": (b"Connection: close\r\n", b"text"),
    "closed": (b"Connection: close\r\nContent-Length: 4\r\n", b"text"),
    "of two lengths": (b"Content-Length: 4\r\nContent-Length: 5\r\n", b"text"),
    "longer": (b"Content-Length: 4\r\n", b"text, and more"),
    "shorter": (b"Content-Length: 5\r\n", b"text"),
    "packed": (b"Content-Encoding: gzip\r\nContent-Length: %d\r\n", gzip.compress(b"text")),
}


@pytest.mark.parametrize("oddity", ODDITIES)
def test_only_the_usual_answer_is_read_the_quick_way(server: Server, oddity: str) -> None:
    """What is not understood there is asked for once more, and read as ever."""
    headers, body = ODDITIES[oddity]
    headers = headers.replace(b"%d", b"%d" % len(body))

    def odd(request: Request) -> bool:
        if request.name != "odd":
            return False
        request.handler.wfile.write(b"HTTP/1.1 200 OK\r\n" + headers + b"\r\n" + body)
        request.cut()
        return True

    server.instead = odd
    files = HttpFiles(server.url, Access({}), QUICK)
    assert files.read("nix-cache-info", 100)
    with suppress(ServiceError):
        assert files.read("odd", 100) == b"text"
        assert oddity not in ("shorter", "of two lengths")
    # A connection on which something was left is not used for another question.
    assert (
        files.read(f"{A.hash}.narinfo", 1000)
        == (server.directory / f"{A.hash}.narinfo").read_bytes()
    )
    assert files.read(f"{'0' * 32}.narinfo", 1000) is None
    assert server.asked.count("odd") >= 2
    files.close()


def test_a_kept_connection_that_was_closed_costs_nothing(server: Server) -> None:
    files = HttpFiles(server.url, Access({}), QUICK)
    for _ in range(3):
        server.instead = lambda request: False
        assert files.read("nix-cache-info", 100)
        assert files.read(f"{A.hash}.narinfo", 1000)

        def then_close(request: Request) -> bool:
            server.answer(request)
            request.cut()
            return True

        server.instead = then_close
        assert files.read(f"{B.hash}.narinfo", 1000)
    # Each question was put once: none of them was lost with its connection.
    assert len(server.asked) == 9
    files.close()


@pytest.mark.parametrize("status", [400, 403])
def test_what_is_said_of_an_upload_is_printable(server: Server, status: int) -> None:
    def refuse(request: Request) -> bool:
        request.handler.rfile.read(1)
        request.answer(status, b"no\x1b[31m\r\n\x07not here")
        return True

    server.instead = refuse
    with (
        closing(HttpFiles(server.url, Access({}), QUICK)) as files,
        pytest.raises(ServiceError, match="not here") as caught,
    ):
        files.write("nar/x", io.BytesIO(b"x"), 1, "text/plain")
    assert str(caught.value).isprintable()
