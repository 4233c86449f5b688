"""A server with few descriptors: who says nothing cannot take it from the others."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from eka_runtime.store.store import Store
from tests.installed import REPOSITORY
from tests.unit.cache.test_front import Client, narinfo
from tests.unit.cache.world import A, B, fill

_SOFT, _HARD = 64, 240
_SERVER = """
import os, resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from eka_runtime.cache.server import Address, serving
from eka_runtime.cache.serving import Cache, Policy
from eka_runtime.store.store import Store
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[3]), int(sys.argv[4])))
with Store.open(Path(sys.argv[2])) as store:
    with serving(Cache(store, Policy()), Address("127.0.0.1", 0), print) as url:
        print(url, flush=True)
        taken = []
        for word in sys.stdin:
            try:
                while word == "take\\n":
                    taken.append(os.open(os.devnull, os.O_RDONLY))
            except OSError:
                pass
            if word == "give\\n":
                for descriptor in taken:
                    os.close(descriptor)
            print("done", flush=True)
"""


class Crowded:
    """The process of a server, and those who talk to it."""

    def __init__(self, process: subprocess.Popen[str], stack: ExitStack) -> None:
        self._process = process
        self._stack = stack
        host, _, port = self._line().removeprefix("http://").partition(":")
        self._address = (host, int(port))

    def client(self) -> Client:
        made = Client(self._address)
        self._stack.enter_context(made.line)
        return made

    def tell(self, word: str) -> None:
        assert self._process.stdin
        self._process.stdin.write(f"{word}\n")
        self._process.stdin.flush()
        assert self._line() == "done"

    def _line(self) -> str:
        assert self._process.stdout
        return self._process.stdout.readline().strip()


@pytest.fixture
def crowded(tmp_path: Path) -> Iterator[Crowded]:
    with Store.open(tmp_path / "served") as store:
        fill(store)
    with _crowded(tmp_path / "served") as one:
        yield one


@contextmanager
def _crowded(place: Path) -> Iterator[Crowded]:
    words = [sys.executable, "-c", _SERVER, REPOSITORY, place, _SOFT, _HARD]
    command = [os.fspath(word) if isinstance(word, Path) else str(word) for word in words]
    with (
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process,
        ExitStack() as stack,
    ):
        yield Crowded(process, stack)
    assert process.returncode == 0


def test_silent_connections_leave_descriptors_for_others(crowded: Crowded) -> None:
    first = crowded.client()
    assert first.ask("GET", narinfo(A))[0] == 200
    silent = [crowded.client() for _ in range(_HARD + 10)]
    # Those who came last find no room, and are told so at once.
    assert silent[-1].line.recv(1) == b""
    # Whoever was there before is answered, also with what needs files.
    assert first.ask("GET", narinfo(B))[0] == 200
    assert first.ask("GET", f"{A.hash}.ls")[0] == 200
    # More of them than were allowed at the start of the process.
    assert {one.ask("GET", narinfo(A))[0] for one in silent[:_SOFT]} == {200}
    for one in silent:
        one.line.close()
    assert _comes_in(crowded).ask("GET", narinfo(B))[0] == 200


def test_those_who_wait_for_a_worker_are_counted(crowded: Crowded) -> None:
    known = crowded.client()
    for _ in range(2):
        assert known.ask("GET", narinfo(A))[0] == 200
    slow = []
    for _ in range(_HARD + 10):
        slow.append(crowded.client())
        # Those without room may be gone by now.
        with suppress(OSError):
            slow[-1].line.sendall(b"GET")
    with suppress(ConnectionError):
        assert slow[-1].line.recv(1) == b""
    assert known.ask("GET", narinfo(A))[0] == 200


def _comes_in(crowded: Crowded) -> Client:
    """When the server has seen who went away."""
    for _ in range(10_000):
        client = crowded.client()
        try:
            assert client.ask("GET", narinfo(A))[0] == 200
        except (AssertionError, ConnectionError):
            continue
        return client
    raise AssertionError("there is never room")


def test_a_server_without_descriptors_answers_whom_it_knows(crowded: Crowded) -> None:
    known = crowded.client()
    for _ in range(2):
        assert known.ask("GET", narinfo(A))[0] == 200
    crowded.tell("take")
    waiting = crowded.client()
    waiting.send("GET", narinfo(B))
    for _ in range(10):
        assert known.ask("GET", narinfo(A))[0] == 200
    crowded.tell("give")
    assert waiting.receive()[0] == 200
