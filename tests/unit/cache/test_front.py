"""narinfos that the server answers without a worker: the same answers, and never old ones."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from eka_runtime.cache.server import THREADS, Address, serving
from eka_runtime.cache.serving import Cache, Policy
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


class Served:
    def __init__(self, store: Store, url: str, stack: ExitStack) -> None:
        host, _, port = url.removeprefix("http://").partition(":")
        self.store = store
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
        cache = Cache(store, Policy(keys=(KEY,)))
        with serving(cache, Address("127.0.0.1", 0), lambda text: None) as url, ExitStack() as end:
            yield Served(store, url, end)


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
