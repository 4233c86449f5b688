"""Runs an evaluator in a bundle: the inputs of one request, the store it adds to, nothing else.

    eka                 reads what the evaluator says
    ├── server          the daemon for this session: a socket, the session's view (`session.py`)
    └── launcher        enters the bundle, profile `eval`: no network, no home, a fixed environment

Inside, below /eka: the expressions and the request (nix/), the atoms, the socket; at /nix/store the
evaluator, what was fetched, and what the evaluation adds. The bundle names the session's directory
and socket by placeholders, so equal requests have equal bundles. Constraint: no thread is started
in this process, since it may have to enter another bundle afterwards.
"""

from __future__ import annotations

import json
import os
import re
import selectors
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple, NoReturn

from eka.config import Settings, cache_dir
from eka.evaluate.evaluator import Answer, Command, Evaluator, Mode
from eka.evaluate.request import Graph
from eka.launching import Ready, root_inside
from eka.prepare import Prepared, current_caller
from eka.realising import default_settings
from eka_runtime.build.workbench import Workbench
from eka_runtime.daemon.server import Server
from eka_runtime.errors import (
    EvaluationError,
    EvaluatorMissing,
    LaunchError,
    StoreAccessError,
    StoreError,
)
from eka_runtime.oci.bundle import Bundle, BundleRequest, Process, ShellFiles, compile_bundle
from eka_runtime.oci.grants import Grant, Grants
from eka_runtime.oci.profile import load_profile
from eka_runtime.runtime.enter import Refused, enter
from eka_runtime.runtime.host import Host
from eka_runtime.runtime.launch import default_state_directory
from eka_runtime.runtime.planned import Plan
from eka_runtime.store.pathinfo import PathInfo
from eka_runtime.store.store import Store
from eka_runtime.view.plan import ViewPlan
from eka_runtime.view.session import SessionView, session_view

INNER = "/eka"
ENTRY = f"{INNER}/nix/entry.nix"
SOCKET = f"{INNER}/daemon.sock"
OUTPUT_LIMIT = 1 << 28
ERROR_LIMIT = 1 << 22

_EXPRESSIONS = ("entry.nix", "scope.nix")
_HERE = Path(__file__).parent / "nix"
_STORE_PLACE, _SOCKET_PLACE = "/eka-session/store", "/eka-session/socket"
_LAUNCH_FAILED = (125, 126, 127)

Say = Callable[[str], None]
MakeWorkbench = Callable[[], Workbench]


class Sandbox(NamedTuple):
    """Where evaluations run. `say` is told, line by line, what the evaluator says meanwhile."""

    store: Store
    settings: Settings
    host: Host
    say: Say

    def ask(
        self,
        evaluator: Evaluator,
        graph: Graph,
        mode: Mode,
        attribute: str,
        annotations: Mapping[str, str],
    ) -> object:
        """The JSON value that the evaluator makes of it.

        Raises EvaluationError, ImpureEvaluation, LaunchError, and what views raise. What it adds
        to the store is valid, but no root.
        """
        if mode not in evaluator.capabilities:
            raise EvaluatorMissing(
                f"the evaluator `{evaluator.name}` cannot make plans",
                hint="use Nix: `EKA_EVALUATOR=nix`",
            )
        inputs = self._inputs([*evaluator.roots, *graph.store_paths()])
        request = _published(graph.request(mode, attribute))
        command = evaluator.command(ENTRY, (INNER,))
        with session_view(self.store, inputs) as (view, shown):
            ready = self._ready(command, graph, request, shown, inputs, annotations)
            answer = self._run(ready, view)
        if answer.status in _LAUNCH_FAILED and not answer.out:
            raise LaunchError(f"the evaluator could not be started: {answer.err.strip()}")
        try:
            return evaluator.value(answer)
        except EvaluationError as error:
            raise type(error)(_outside(str(error), graph), hint=error.hint) from None

    def _inputs(self, roots: Sequence[object]) -> list[PathInfo]:
        store = self.store
        paths = store.closure(roots)  # type: ignore[arg-type]
        if store.writable:
            store.paths.touch(paths)
        return [store.info(path) for path in paths]

    def _ready(
        self,
        command: Command,
        graph: Graph,
        request: Path,
        shown: ViewPlan,
        inputs: Sequence[PathInfo],
        annotations: Mapping[str, str],
    ) -> Ready:
        grants = Grants(paths=_grants(graph, request), covered=_covered(graph))
        stable = [
            mount._replace(source=_STORE_PLACE) if mount.destination == "/nix/store" else mount
            for mount in shown.mounts
        ]
        closure = tuple(info.path for info in inputs)
        bundle = _bundle(
            command, shown._replace(mounts=tuple(stable)), closure, grants, self.host, annotations
        )
        # The socket is another one each time, so it cannot be pinned as grants are.
        pinned = grants._replace(paths=tuple(g for g in grants.paths if g.path != SOCKET))
        prepared = Prepared(bundle, closure, pinned, (), (), (), False, "evaluation")
        return Ready(prepared, self.settings, self.host, self.store)

    def _workbench(self) -> Workbench:
        """For what is built in the middle of an evaluation."""
        builds = default_settings(self.settings, os.environ, offline=False)
        return Workbench(self.host, builds, default_state_directory(os.environ))

    def _run(self, ready: Ready, view: SessionView) -> Answer:
        with _listening(self.store) as (listening, place):
            plan = ready.plan()
            plan["terminal"] = False
            plan["template"] = _filled(plan, os.fspath(view.directory), os.fspath(place))
            process = ready.bundle.spec.process
            assert process is not None
            words = [os.fsencode(word) for word in process.args or ()]
            env = [os.fsencode(text) for text in process.env or ()]
            with _serving(self.store.root, listening, view.directory, self.say, self._workbench):
                return _answer(lambda: enter(plan, words, env), self.say)


def _bundle(
    command: Command,
    view: ViewPlan,
    closure: tuple[object, ...],
    grants: Grants,
    host: Host,
    annotations: Mapping[str, str],
) -> Bundle:
    caller = current_caller()._replace(user="eka", group="eka", home="/homeless-shelter")
    return compile_bundle(
        BundleRequest(
            profile=load_profile("eval"),
            view=view,
            closure=closure,  # type: ignore[arg-type]
            process=Process(command.words, command.env, "/", False, 0o022),
            grants=grants,
            caller=caller,
            shell=ShellFiles(None, None),
            annotations=annotations,
            root_inside=root_inside(host),
        )
    )


def _grants(graph: Graph, request: Path) -> tuple[Grant, ...]:
    def shown(source: str, inner: str, origin: str, directory: bool) -> Grant:
        return Grant(inner, False, origin, os.path.realpath(source), directory)

    files = [
        *((os.fspath(_HERE / name), f"{INNER}/nix/{name}") for name in _EXPRESSIONS),
        (os.fspath(request), f"{INNER}/nix/request.json"),
    ]
    found = [shown(source, inner, "evaluation", False) for source, inner in files]
    found += [shown(source, inner, "atom", True) for source, inner in graph.places()]
    found.append(Grant(SOCKET, False, "evaluation", _SOCKET_PLACE, False))
    return tuple(sorted(found, key=lambda grant: grant.path.split("/")))


def _covered(graph: Graph) -> tuple[str, ...]:
    """Git's directories: what they hold differs from clone to clone, and is no input."""
    return tuple(
        f"{inner}/.git" for source, inner in graph.places() if os.path.isdir(f"{source}/.git")
    )


def _outside(text: str, graph: Graph) -> str:
    """With the names that directories have on this host."""
    for source, inner in graph.places():
        text = re.sub(rf"{re.escape(inner)}(?=[/'`:]|$)", source.replace("\\", r"\\"), text)
        # What is beside the directory is not shown; asking for it is told by this name.
        text = text.replace(f"{os.path.dirname(inner)}/", f"{os.path.dirname(source)}/")
    return text


def _published(request: bytes) -> Path:
    """The request as a file, which bundles find by its contents."""
    name = f"{blake2b(request, digest_size=20).hexdigest()}.json"
    place = cache_dir(os.environ) / "request" / name
    if not place.exists():
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh = place.with_name(f".{name}.{os.getpid()}")
        fresh.write_bytes(request)
        os.rename(fresh, place)
    return place


def _filled(plan: Plan, store: str, place: str) -> tuple[bytes | str, ...]:
    def fill(piece: bytes | str) -> bytes | str:
        if isinstance(piece, str):
            return piece
        for name, path in ((_STORE_PLACE, store), (_SOCKET_PLACE, place)):
            piece = piece.replace(json.dumps(name).encode(), json.dumps(path).encode())
        return piece

    return tuple(map(fill, plan["template"]))


@contextmanager
def _listening(store: Store) -> Iterator[tuple[socket.socket, Path]]:
    """A socket in the store's tmp/, however long the name of that is: unix(7) takes 107 bytes."""
    place = store.layout.tmp / os.urandom(16).hex()
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        fd = os.open(place.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            made.bind(f"/proc/self/fd/{fd}/{place.name}")
        except OSError as error:
            raise StoreAccessError(f"cannot listen on `{place}`: {error.strerror}") from error
        finally:
            os.close(fd)
        os.chmod(place, 0o600)
        made.listen(socket.SOMAXCONN)
        yield made, place
    finally:
        made.close()
        place.unlink(missing_ok=True)


@contextmanager
def _serving(
    root: Path, listening: socket.socket, directory: Path, say: Say, workbench: MakeWorkbench
) -> Iterator[None]:
    """A process that serves the session; it ends when this one does, however that is."""
    sys.stdout.flush()
    reading, lifeline = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(lifeline)
        _serve(root, listening, directory, reading, say, workbench)
    os.close(reading)
    listening.close()  # so that nobody waits for a server that is gone
    try:
        yield
    finally:
        os.close(lifeline)
        _, status = os.waitpid(child, 0)
    if status:
        raise StoreError(
            "what the evaluation added to the store is not all there", hint="evaluate again"
        )


def _serve(
    root: Path,
    listening: socket.socket,
    directory: Path,
    reading: int,
    say: Say,
    workbench: MakeWorkbench,
) -> NoReturn:
    status = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the evaluator gets it
        server = Server(
            lambda: Store.open(root, create=False),
            listening,
            say,
            view=lambda store: SessionView(store, directory),
            workbench=workbench,
        )
        threading.Thread(target=_end_with_parent, args=(reading, server), daemon=True).start()
        server.serve()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _end_with_parent(reading: int, server: Server) -> None:
    """In order: what was added may not be durable yet."""
    os.read(reading, 1)
    server.end()


def _answer(start: Callable[[], int], say: Say) -> Answer:
    """Forks, starts the bundle there, and reads both its streams to the end."""
    out, err = os.pipe(), os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        _become_launcher(start, out[1], err[1])
    os.close(out[1])
    os.close(err[1])
    try:
        streams = _read(out[0], err[0], say)
    except BaseException:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        raise
    finally:
        os.close(out[0])
        os.close(err[0])
        _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if code in (-signal.SIGINT, 128 + signal.SIGINT):
        raise KeyboardInterrupt
    return Answer(code if code >= 0 else 128 - code, *streams)


def _become_launcher(start: Callable[[], int], out: int, err: int) -> NoReturn:
    status = 125
    try:
        null = os.open(os.devnull, os.O_RDONLY)
        for number, fd in enumerate((null, out, err)):
            os.dup2(fd, number)
        status = start()
    except Refused as error:
        os.write(2, f"the host refused a namespace it allowed before: {error}\n".encode())
    finally:
        os._exit(status)


def _read(out: int, err: int, say: Say) -> tuple[bytes, str]:
    """Lines of `err` before its first error are told at once, for they are traces and warnings."""
    found = {out: bytearray(), err: bytearray()}
    told = 0
    with selectors.DefaultSelector() as selector:
        for fd in found:
            selector.register(fd, selectors.EVENT_READ)
        while selector.get_map():
            for key, _ in selector.select():
                data = os.read(key.fd, 1 << 16)
                found[key.fd] += data
                if not data:
                    selector.unregister(key.fd)
            told = _tell(found[err], told, say)
            if len(found[out]) > OUTPUT_LIMIT or len(found[err]) > ERROR_LIMIT:
                raise EvaluationError("the evaluator says more than can be taken in")
    return bytes(found[out]), found[err].decode("utf-8", "replace")


def _tell(text: bytearray, told: int, say: Say) -> int:
    while (end := text.find(b"\n", told)) >= 0:
        line = text[told:end].decode("utf-8", "replace")
        if line.lstrip().startswith("error:"):
            return told
        if line.startswith("trace:") or line.startswith("warning: eka"):
            say(line)
        told = end + 1
    return told
