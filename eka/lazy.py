"""Starts before everything is there: what is looked up first, and who fetches beside the program.

Under `--lazy` a closure that far places have is not copied before the start. Its path infos and
directories come (`promise`; which, and from where: `promising.py`), and then the bundle gets the
fuse view, whose server asks a process that `attend` starts for the blobs it lacks
(`eka/attendant.py`). None of the paths becomes valid by that. Constraint: that process is a fresh
one, since neither a network's threads nor a database survive a fork, and it must be outside the
namespaces of the run, where there may be no network.
"""

from __future__ import annotations

import marshal
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from eka.apart import run_apart
from eka.output import Output
from eka_runtime.castore.node import DirectoryNode
from eka_runtime.castore.trees import Tree, leaves_first
from eka_runtime.errors import HostError, StoreAccessError, StoreCorrupt
from eka_runtime.nix.path import StorePath
from eka_runtime.runtime.planned import Plan
from eka_runtime.runtime.view_server import server_words
from eka_runtime.store.messages import decode_path_info, encode_path_info
from eka_runtime.store.pathinfo import PathInfo
from eka_runtime.store.store import Store

if TYPE_CHECKING:
    from eka_runtime.runtime.probe import Host
    from eka_runtime.store.copying import Source

S = TypeVar("S", bound="Source")
Opened = Callable[[], AbstractContextManager[S]]

_TREES = 8
_BOOT = """\
import sys
sys.path[:] = sys.argv[1:]
from eka.attendant import main
main()
"""


def obstacle(host: Host) -> str:
    """Why this host cannot start anything lazily; "" if it can."""
    if host.mode != "outer":
        return f"the fuse view needs the runtime mode `outer`, not `{host.mode}`"
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "/dev/fuse cannot be used"
    return ""


class Looked(NamedTuple):
    """Path infos, references first, and which binary caches have their contents."""

    infos: list[PathInfo]
    caches: tuple[str, ...] = ()


class Promise(NamedTuple):
    infos: dict[StorePath, PathInfo]
    caches: tuple[str, ...] = ()


def promise(store: Store, opened: Opened[S], look_up: Callable[[Store, S], Looked]) -> Promise:
    """What `look_up` finds, when the directories below it are in the store.

    Both run in a process of its own, with a store of its own. Raises what they raise, StoreCorrupt
    for directories that are not there, and what far services raise.
    """
    store.require_writable()
    with tempfile.TemporaryFile(buffering=0) as file:
        run_apart(lambda: file.write(_looked_up(store, opened, look_up)))
        file.seek(0)
        encoded, caches = marshal.loads(file.read())
    infos = [decode_path_info(data) for data in encoded]
    return Promise({info.path: info for info in infos}, caches)


def _looked_up(store: Store, opened: Opened[S], look_up: Callable[[Store, S], Looked]) -> bytes:
    from eka_runtime.store.copying import threads

    # The caller's connections to its database must not be used in another process.
    with Store.open(store.root) as here, opened() as far:
        infos, caches = look_up(here, far)
        with threads(_TREES) as pool:
            for sent in pool.map(lambda info: _tree(here, far, info), infos):
                if sent:
                    _keep(here, *sent)
        return marshal.dumps(([encode_path_info(info) for info in infos], caches))


def _tree(store: Store, far: Source, info: PathInfo) -> tuple[DirectoryNode, Tree] | None:
    """None when all of it is here to stay."""
    node = info.node
    if not isinstance(node, DirectoryNode) or store.directories.is_alive(node.digest):
        return None
    sent = far.directories.get_tree(node.digest)
    if sent is None:
        raise StoreCorrupt(
            f"{far.name} has the path info of `{info.path}`, but not its directories",
            hint="have it copied there again",
        )
    return node, Tree.receive(node.digest, sent)


def _keep(store: Store, node: DirectoryNode, tree: Tree) -> None:
    from eka_runtime.store.uploads import put_directories

    put_directories(store, leaves_first(node.digest, tree))


def attend(
    plan: Plan, store: Store, promised: Iterable[PathInfo], caches: tuple[str, ...], output: Output
) -> Plan:
    """Starts the process that fetches for this run; returns the plan whose view asks it.

    `caches` are the names of binary caches that it asks before far services. It has the store open
    when this returns. It ends with this process, however that is. Raises HostError when it does not
    start; it has said why.
    """
    from eka_runtime.view.asked import listen

    # Named as files in the making are: a collection takes it when nobody is at work any more.
    place = store.layout.tmp / os.urandom(16).hex()
    try:
        listening = listen(place)
    except OSError as error:
        raise StoreAccessError(f"cannot make `{place}`: {error.strerror}") from error
    work = {
        "store": os.fspath(store.root),
        "socket": os.fspath(place),
        "listening": listening.fileno(),
        "verbosity": output.verbosity,
        "color": output.color,
        "infos": [encode_path_info(info) for info in promised],
        "caches": caches,
    }
    with listening:
        _start(marshal.dumps(work), listening.fileno())
    mount = plan["serve"][0]
    changed: Plan = {**plan, "serve": (mount, *server_words(mount, os.fspath(place)))}
    return changed


def _start(work: bytes, listening: int) -> None:
    """The other end of its stdin stays open as long as this process lives: its sign to go on."""
    words = [sys.executable, "-ISE", "-c", _BOOT, *filter(None, sys.path)]
    process = subprocess.Popen(
        words,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=(listening,),
        process_group=0,  # the terminal's signals are not for it
        bufsize=0,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    lifeline = os.dup(process.stdin.fileno())  # no object of this name closes it
    ready = b""
    try:
        with process.stdin as pipe, process.stdout as answer:
            _write_all(pipe.fileno(), len(work).to_bytes(8, "little") + work)
            ready = answer.read(1)
    except BrokenPipeError:
        pass
    if not ready:
        os.close(lifeline)
        process.wait()
        raise HostError("the process that fetches beside the program did not start")
    process.returncode = 0  # it is not waited for: nothing is to be said when it is collected


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def as_promised(
    store: Store, promised: Mapping[StorePath, PathInfo], paths: Iterable[StorePath]
) -> dict[StorePath, PathInfo]:
    """The closure of paths that are valid or promised. Raises PathNotFound for any other."""
    found: dict[StorePath, PathInfo] = {}
    waiting = list(paths)
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found[path] = promised[path] if path in promised else store.info(path)
        waiting += [other for other in found[path].references if other not in found]
    return found
