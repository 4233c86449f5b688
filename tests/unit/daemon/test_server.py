"""The server: many clients, those that vanish, what it holds in memory, who may do what."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from eka_runtime.build.log import write_log
from eka_runtime.daemon.protocol import REQUESTS, Op
from eka_runtime.daemon.server import activated, listening
from eka_runtime.daemon.wire import write_fields
from eka_runtime.errors import UsageError
from eka_runtime.nix.path import StorePath
from eka_runtime.nix.tokens import u64
from eka_runtime.store.store import Store
from tests.installed import REPOSITORY
from tests.requirements import lacking
from tests.stores import unprivileged
from tests.unit.castore.local import temporary
from tests.unit.daemon.client import Client, Refused, served
from tests.unit.nix.trees import COMPLICATED, Dir, File, to_nar

_CLIENTS = 20
_TREE = to_nar(COMPLICATED)
_FLAGS = {"repair": False, "dontCheckSigs": True}


def _text(client: Client, name: str, contents: bytes) -> str:
    request = {"name": name, "method": "text:sha256", "references": [], "repair": False}
    return str(client.ask(Op.AddToStore, request, contents)["info"]["path"])


def _tree(client: Client, name: str, nar: bytes) -> str:
    request = {"name": name, "method": "fixed:r:sha256", "references": [], "repair": False}
    return str(client.ask(Op.AddToStore, request, nar)["info"]["path"])


def _stated(path: StorePath, nar: bytes) -> dict[str, object]:
    digest = hashlib.sha256(nar).hexdigest()
    more = {"deriver": "", "references": [], "registrationTime": 0, "ultimate": False}
    return {"path": str(path), "narHash": digest, "narSize": len(nar), "sigs": [], "ca": "", **more}


def test_twenty_clients_at_once(place: Path) -> None:
    start = threading.Barrier(_CLIENTS)

    def work(number: int) -> list[str]:
        with Client(place) as client:
            start.wait()
            own = [_text(client, f"{number}-{n}", b"%d" % n) for n in range(10)]
            # The same from everybody.
            own += [_text(client, f"all-{n}", b"%d" % n) for n in range(10)]
            own.append(_tree(client, "tree", _TREE))
            own.append(_tree(client, "own", to_nar(Dir(((b"f", File(b"%d" % number * 70_000)),)))))
            asked = {"paths": own, "substitute": False}
            assert client.ask(Op.QueryValidPaths, asked)["paths"] == sorted(own)
            return own

    with ThreadPoolExecutor(_CLIENTS) as threads:
        found = [path for own in threads.map(work, range(_CLIENTS)) for path in own]
    with Client(place) as client:
        assert client.ask(Op.QueryAllValidPaths)["paths"] == sorted(set(found))
    assert len(set(found)) == _CLIENTS * 11 + 11


def test_uploads_of_killed_clients_leave_nothing(store_dir: Path) -> None:
    reports: list[str] = []
    with temporary() as directory, served(store_dir, directory / "s", reports=reports) as place:
        _kill_uploads(place, store_dir)
    assert len(reports) == 4
    assert all("a client was cut off" in report for report in reports)
    assert os.listdir(store_dir / "tmp") == []


def _kill_uploads(place: Path, store_dir: Path) -> None:
    nar = to_nar(Dir(((b"large", File(b"x" * 3_000_000)), (b"small", File(b"y")))))
    path = StorePath("1" * 32, "killed")
    request = write_fields(REQUESTS[Op.AddToStoreNar], {"info": _stated(path, nar), **_FLAGS}, 37)
    before = {file for file in store_dir.rglob("*") if "view" not in file.parts}
    for size in (0, 100, 1_000_000, len(nar) - 1):
        with Client(place) as client:
            client.send(u64(Op.AddToStoreNar) + request + u64(len(nar)) + nar[:size])
    with Client(place) as client:
        assert client.ask(Op.QueryAllValidPaths)["paths"] == []
        collect = {"action": 2, "paths": [], "ignoreLiveness": False, "maxFreed": 1 << 63}
        collect |= {f"obsolete{number}": 0 for number in range(3)}
        client.ask(Op.CollectGarbage, collect)
        client.ask(Op.AddToStoreNar, {"info": _stated(path, nar), **_FLAGS}, nar)
    after = {file for file in store_dir.rglob("*") if "blobs" in file.parts and file.is_file()}
    assert len(after - before) == 1


_LARGE = """
    import hashlib, re, sys
    from pathlib import Path
    from eka_runtime.daemon.protocol import Op
    from eka_runtime.daemon.wire import write_frames
    from eka_runtime.nix.nar import MAGIC, NODE_CLOSE, file_header, padding
    from eka_runtime.nix.tokens import u64
    from tests.unit.daemon.client import Client, served

    size = int(sys.argv[2])
    block = bytes(range(256)) * 4096

    class Nar:
        def __init__(self):
            self.head, self.left = MAGIC + file_header(False, size), size
            self.tail = padding(size) + NODE_CLOSE
        def read(self, most):
            if self.head:
                piece, self.head = self.head, b""
            elif self.left:
                piece = block[: min(most, self.left)]
                self.left -= len(piece)
            else:
                piece, self.tail = self.tail, b""
            return piece

    root = Path(sys.argv[1])
    with served(root / "store", root / "socket") as place, Client(place) as client:
        request = {"name": "large", "method": "fixed:r:sha256", "references": [], "repair": False}
        from eka_runtime.daemon.protocol import REQUESTS, REPLIES
        from eka_runtime.daemon.wire import read_fields, write_fields
        client.send(u64(Op.AddToStore) + write_fields(REQUESTS[Op.AddToStore], request, 37))
        write_frames(Nar().read, client.send)
        client.answer()
        info = read_fields(REPLIES[Op.AddToStore], client.source, 37)["info"]
        client.ask(Op.NarFromPath, {"path": info["path"]})
        client.source.expect(info["narSize"])
        hasher = hashlib.sha256()
        while data := client.source.contents(1 << 20):
            hasher.update(data)
        assert hasher.hexdigest() == info["narHash"]
        # Not getrusage(2): that counts what started this program, too.
        status = Path("/proc/self/status").read_text()
        print(int(re.search(r"VmHWM:\\s*(\\d+) kB", status)[1]) // 1024)
"""


def test_a_large_nar_takes_little_memory(tmp_path: Path) -> None:
    """300 MB here; 5 GB by hand. Server and client are one process."""
    command = [sys.executable, "-c", textwrap.dedent(_LARGE), os.fspath(tmp_path), str(300_000_000)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 150


def test_strangers_may_add_what_proves_itself(store_dir: Path) -> None:
    if os.geteuid() != 0:
        lacking("takes a client of another user, whom root can be")
    with temporary() as directory, served(store_dir, directory / "s") as place:
        directory.chmod(0o755)
        place.chmod(0o666)
        with Client(place, connecting=unprivileged()) as client:
            assert client.trust == 2
            path = _tree(client, "tree", _TREE)
            stated = _stated(StorePath("1" * 32, "stated"), _TREE)
            for op, values in (
                (Op.AddToStoreNar, {"info": stated, **_FLAGS}),
                (Op.AddSignatures, {"path": path, "sigs": ["k:YQ=="]}),
                (Op.AddPermRoot, {"path": path, "link": f"{directory}/link"}),
            ):
                with pytest.raises(Refused):
                    client.ask(op, values, _TREE)
            assert client.ask(Op.QueryAllValidPaths)["paths"] == [path]
            assert not os.path.lexists(directory / "link")


def test_one_daemon_for_a_socket(tmp_path: Path) -> None:
    with listening(tmp_path / "s"):
        with pytest.raises(UsageError, match="listens on"), listening(tmp_path / "s"):
            pass
        assert (tmp_path / "s").is_socket()
    assert not (tmp_path / "s").exists()
    (tmp_path / "file").write_text("precious")
    with pytest.raises(UsageError, match="is no socket"), listening(tmp_path / "file"):
        pass
    assert (tmp_path / "file").read_text() == "precious"


def test_a_socket_that_nobody_listens_on_is_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(os.fspath(tmp_path / "s"))
    with listening(tmp_path / "s"), socket.socket(socket.AF_UNIX) as client:
        client.connect(os.fspath(tmp_path / "s"))


def test_only_what_was_handed_over_to_us() -> None:
    assert activated({}) is None
    assert activated({"LISTEN_PID": "1", "LISTEN_FDS": "1"}) is None
    with pytest.raises(UsageError, match="one socket"):
        activated({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "2"})


def test_logs_of_builds_elsewhere(place: Path, store_dir: Path) -> None:
    text = b"building\n" * 10_000
    drv = StorePath("1" * 32, "built.drv")
    with Client(place) as client:
        assert client.ask(Op.AddBuildLog, {"name": drv.base}, text) == {"one": 1}
        with pytest.raises(Refused, match="not a derivation"):
            client.ask(Op.AddBuildLog, {"name": "1" * 32 + "-built"}, text)
    found: list[bytes] = []
    with Store.open(store_dir) as store:
        write_log(store, drv, found.append)
    assert b"".join(found) == text
