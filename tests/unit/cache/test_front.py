"""narinfos that the server answers without a worker: the same answers, and never old ones."""

from __future__ import annotations

import resource
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import pytest

from eka_runtime.cache.front import FrontServer
from eka_runtime.cache.recent import KEPT_MAX, Recent
from eka_runtime.cache.server import THREADS, Address, serving
from eka_runtime.cache.serving import Cache, Policy
from eka_runtime.errors import StoreAccessError
from eka_runtime.nix.narinfo import parse_narinfo
from eka_runtime.nix.path import StorePath
from eka_runtime.store.store import Store
from tests.stores import assert_clean, insert, link_info
from tests.unit.cache.world import KEY, A, B, C, fill


class Client:
    """One connection, and what came on it."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.line = socket.create_connection(address)
        self.line.settimeout(60)
        self._rest = b""

    def send(self, method: str, name: str, *headers: str) -> None:
        lines = "".join(f"{line}\r\n" for line in ("Host: here", *headers))
        self.line.sendall(f"{method} /{name} HTTP/1.1\r\n{lines}\r\n".encode())

    def receive(self, *, body: bool = True) -> tuple[int, bytes, dict[str, str]]:
        while b"\r\n\r\n" not in self._rest:
            self._more()
        head, _, self._rest = self._rest.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        fields = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
        size = int(fields["content-length"]) if body else 0
        while len(self._rest) < size:
            self._more()
        data, self._rest = self._rest[:size], self._rest[size:]
        return int(first.split()[1]), data, fields

    def _more(self) -> None:
        data = self.line.recv(1 << 16)
        assert data, "the server ended the connection"
        self._rest += data

    def ask(self, method: str, name: str, *headers: str) -> tuple[int, bytes, dict[str, str]]:
        self.send(method, name, *headers)
        return self.receive(body=method != "HEAD")


class Fragile(Cache):
    broken = False

    def version(self) -> int:
        if self.broken:
            raise StoreAccessError("broken")
        return super().version()


class Served:
    def __init__(self, store: Store, cache: Fragile, url: str, stack: ExitStack) -> None:
        host, _, port = url.removeprefix("http://").partition(":")
        self.store = store
        self.cache = cache
        self.address = (host, int(port))
        self._stack = stack

    def client(self) -> Client:
        made = Client(self.address)
        self._stack.enter_context(made.line)
        return made


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with _served(tmp_path / "served") as one:
        yield one
    assert_clean(tmp_path / "served")


@contextmanager
def _served(place: Path) -> Iterator[Served]:
    with Store.open(place) as store:
        fill(store)
        cache = Fragile(store, Policy(keys=(KEY,)))
        with serving(cache, Address("127.0.0.1", 0), lambda text: None) as url, ExitStack() as end:
            yield Served(store, cache, url, end)


def narinfo(path: StorePath) -> str:
    return f"{path.hash}.narinfo"


def test_the_second_answer_is_the_first(served: Served) -> None:
    client = served.client()
    for name in (narinfo(A), narinfo(StorePath("0" * 32, "absent"))):
        first, second = client.ask("GET", name), client.ask("GET", name)
        for key in ("content-type", "content-length"):
            assert first[2][key].partition(";")[0] == second[2][key].partition(";")[0]
        assert first[:2] == second[:2]
        assert "date" in second[2]
        head = client.ask("HEAD", name)
        assert (head[0], head[2]["content-length"]) == (first[0], str(len(first[1])))


def test_what_changes_is_seen_at_once(served: Served) -> None:
    client = served.client()
    for _ in range(2):
        assert parse_narinfo(client.ask("GET", narinfo(C))[1]).path == C
        assert client.ask("GET", "x" * 32 + ".narinfo")[0] == 404
    new = link_info("new")
    assert client.ask("GET", narinfo(new.path))[0] == 404
    insert(served.store, new)
    assert parse_narinfo(client.ask("GET", narinfo(new.path))[1]).path == new.path
    # Also by others, who have connections of their own to the database.
    signature = KEY.sign(b"anything").replace("test-1", "other-1")
    with Store.open(served.store.root) as other:
        other.paths.add_signatures(C, [signature])
    assert signature in parse_narinfo(client.ask("GET", narinfo(C))[1]).signatures


def test_requests_in_a_row_are_answered_in_order(served: Served) -> None:
    client = served.client()
    names = [narinfo(A), "nix-cache-info", narinfo(B), f"{A.hash}.ls", narinfo(A)]
    expected = [client.ask("GET", name)[1] for name in names]
    for name in names:
        client.send("GET", name)
    assert [client.receive()[1] for _ in names] == expected


def test_who_wants_the_connection_closed_gets_that(served: Served) -> None:
    client = served.client()
    client.ask("GET", narinfo(A))
    _, _, fields = client.ask("GET", narinfo(A), "Connection: close")
    assert fields["connection"].lower() == "close"
    assert client.line.recv(1) == b""


def test_a_body_that_nobody_asked_for_is_no_request(served: Served) -> None:
    client = served.client()
    client.ask("GET", narinfo(A))
    client.send("GET", narinfo(A), "Content-Length: 5")
    client.line.sendall(b"hello")
    assert client.receive()[0] == 200
    assert client.ask("GET", narinfo(B))[0] == 200


def test_a_request_that_comes_in_pieces(served: Served) -> None:
    client = served.client()
    expected = client.ask("GET", narinfo(A))[1]
    request = f"GET /{narinfo(A)} HTTP/1.1\r\nHost: here\r\n\r\n".encode()
    for end in (1, 20, len(request) - 1):
        client.line.sendall(request[:end])
        assert served.client().ask("GET", narinfo(A))[1] == expected
        client.line.sendall(request[end:])
        assert client.receive()[1] == expected


def test_connections_that_say_nothing_keep_nobody_waiting(served: Served) -> None:
    silent = [served.client() for _ in range(2 * THREADS)]
    client = served.client()
    for _ in range(2):
        assert client.ask("GET", narinfo(A))[0] == 200
    # All of them are kept, and asked later.
    for one in silent:
        one.send("GET", narinfo(A))
    assert {one.receive()[0] for one in silent} == {200}
    assert {one.ask("GET", narinfo(B))[0] for one in silent} == {200}


def test_a_lone_line_feed_ends_no_header(served: Served) -> None:
    """Who takes it for one would read the body as another request."""
    client = served.client()
    assert client.ask("GET", narinfo(A))[0] == 200
    body = f"GET /{narinfo(B)} HTTP/1.1\r\n\r\n".encode()
    for hidden in (f"a\nContent-Length: {len(body)}", "a\nTransfer-Encoding: chunked"):
        sender = served.client()
        head = f"GET /{narinfo(A)} HTTP/1.1\r\nHost: {hidden}\r\n\r\n".encode()
        sender.line.sendall(head)
        assert sender.receive()[0] == 400


@pytest.mark.parametrize("value", ["keep-alive", " keep-alive", " Keep-Alive", "\tkeep-alive \t"])
def test_keeping_a_connection_is_the_usual(value: str) -> None:
    front = FrontServer.__new__(FrontServer)
    front._recent = Recent(lambda: 1)
    front._second, front._date = 0, b""
    front._recent.fresh()
    front._recent.learn(front._recent.known, narinfo(A), b"x")
    for text, plain in ((value, True), (f"{value}, x", False), (" close", False)):
        head = f"GET /{narinfo(A)} HTTP/1.1\r\nHost: a\r\nConnection:{text}\r\n\r\n"
        assert (front._answer(head.encode()) is not None) == plain


def test_what_is_remembered_is_bounded_by_who_learns() -> None:
    recent = Recent(lambda: 1)
    for number in range(KEPT_MAX + 9):
        recent.learn(recent.known, str(number), None)
    assert len(recent.known) == KEPT_MAX


def test_a_store_that_cannot_tell_is_left_to_a_worker(served: Served) -> None:
    client = served.client()
    assert client.ask("GET", narinfo(A))[0] == 200
    served.cache.broken = True
    # He asks the store itself, and says what is wrong if something is.
    assert client.ask("GET", narinfo(A))[0] == 200


def test_more_connections_than_descriptors(tmp_path: Path) -> None:
    Store.open(tmp_path / "store").close()
    few = partial(resource.setrlimit, resource.RLIMIT_NOFILE, (160, 160))
    command = [sys.executable, "-m", "eka", "store", "--store", tmp_path / "store"]
    command += ["serve", "--listen", "127.0.0.1:0"]
    with (
        subprocess.Popen(command, preexec_fn=few, stdout=subprocess.PIPE) as process,
        ExitStack() as end,
    ):
        end.callback(process.send_signal, signal.SIGINT)
        assert process.stdout is not None
        host, _, port = process.stdout.readline().decode().strip()[7:].partition(":")
        silent = [Client((host, int(port))) for _ in range(300)]
        for one in silent:
            end.enter_context(one.line)
        # Those for whom there is no room are told at once, and the rest is kept.
        waiting = {one.line: one for one in silent}
        while len(waiting) > 100:
            ended = select.select(list(waiting), [], [], 60)[0]
            assert ended, "descriptors ran out"
            for line in ended:
                assert waiting.pop(line).line.recv(1) == b""
        assert next(iter(waiting.values())).ask("GET", "nix-cache-info")[0] == 200
    assert process.returncode in (0, 130)
