"""Runs an evaluator in a bundle: the inputs of one request, the store it adds to, nothing else.

    eka                 reads what the evaluator says
    ├── server          the daemon for this session: a socket, the session's view (`session.py`)
    └── launcher        enters the bundle, profile `eval`: no network, no home, a fixed environment

Inside, below /eka: the expressions and the request (nix/), the atoms, the socket; at /nix/store the
evaluator, what was fetched, and what the evaluation adds. How it is started is recorded
(`starting.py`). Constraints: no thread is started in this process, since it may have to enter
another bundle afterwards; it imports neither the server nor what compiles bundles.
"""

from __future__ import annotations

import os
import re
import selectors
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from eka.config import Settings
from eka.evaluate.evaluator import Answer, Evaluator, Mode
from eka.evaluate.request import Graph
from eka.evaluate.starting import (
    REQUEST,
    SOCKET,
    STORE,
    Shown,
    Start,
    Wanted,
    find_start,
    fresh_start,
)
from eka_runtime.errors import (
    EvaluationError,
    EvaluatorMissing,
    LaunchError,
    StoreAccessError,
    StoreError,
)
from eka_runtime.runtime.enter import Refused, enter
from eka_runtime.store.pathinfo import PathInfo
from eka_runtime.store.store import Store
from eka_runtime.view.plan import ViewPlan
from eka_runtime.view.session import SessionView, session_view

if TYPE_CHECKING:
    from eka_runtime.build.workbench import Workbench
    from eka_runtime.daemon.server import Server

INNER = "/eka"
ENTRY = f"{INNER}/nix/entry.nix"
OUTPUT_LIMIT = 1 << 28
ERROR_LIMIT = 1 << 22

_EXPRESSIONS = ("entry.nix", "scope.nix")
_HERE = Path(__file__).parent / "nix"
_LAUNCH_FAILED = (125, 126, 127)

Say = Callable[[str], None]


class Sandbox(NamedTuple):
    """Where evaluations run. `say` is told, line by line, what the evaluator says meanwhile.

    What is built in the middle of one takes nothing from far away if `offline`.
    """

    store: Store
    settings: Settings
    say: Say
    offline: bool = False

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
        request = graph.request(mode, attribute)
        with session_view(self.store, inputs) as (view, shown):
            wanted = _wanted(evaluator, graph, shown, inputs, annotations)
            start = find_start(wanted, self.store, self.settings)
            answer = self._run(start, view, request)
            if _not_started(answer) and start.kept:
                # What was true of the host when that was recorded may be so no longer.
                start.kept.unlink(missing_ok=True)
                answer = self._run(fresh_start(wanted, self.store, self.settings), view, request)
        if _not_started(answer):
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

    def _workbench(self) -> Workbench:
        """For what is built in the middle of an evaluation."""
        from eka.launching import find_host
        from eka.realising import default_settings
        from eka_runtime.build.workbench import Workbench
        from eka_runtime.runtime.launch import default_state_directory

        builds = default_settings(self.settings, os.environ, offline=self.offline)
        return Workbench(find_host(self.settings), builds, default_state_directory(os.environ))

    def _run(self, start: Start, view: SessionView, request: bytes) -> Answer:
        tmp = self.store.layout.tmp
        with _request_file(tmp, request) as file, _listening(tmp) as (listening, place):
            plan = start.filled(*map(os.fspath, (view.directory, place, file)))
            with self._serving(listening, view.directory):
                return _answer(lambda: enter(plan, start.words, start.env), self.say)

    @contextmanager
    def _serving(self, listening: socket.socket, directory: Path) -> Iterator[None]:
        """A process that serves the session; it ends when this one does, however that is."""
        sys.stdout.flush()
        reading, lifeline = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(lifeline)
            self._serve(listening, directory, reading)
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

    def _serve(self, listening: socket.socket, directory: Path, reading: int) -> NoReturn:
        status = 1
        try:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # the evaluator gets it
            # Here, while the bundle is being started: who connects before waits.
            from eka_runtime.daemon.server import Server

            root = self.store.root
            server = Server(
                lambda: Store.open(root, create=False),
                listening,
                self.say,
                view=lambda store: SessionView(store, directory),
                workbench=self._workbench,
            )
            threading.Thread(target=_end_with_parent, args=(reading, server), daemon=True).start()
            server.serve()
            status = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(status)


def _wanted(
    evaluator: Evaluator,
    graph: Graph,
    view: ViewPlan,
    inputs: Sequence[PathInfo],
    annotations: Mapping[str, str],
) -> Wanted:
    mounts = (
        mount._replace(source=STORE) if mount.destination == "/nix/store" else mount
        for mount in view.mounts
    )
    return Wanted(
        evaluator.command(ENTRY, (INNER,)),
        tuple(mounts),
        tuple(info.path for info in inputs),
        _shown(graph),
        _covered(graph),
        tuple(sorted(annotations.items())),
    )


def _shown(graph: Graph) -> tuple[Shown, ...]:
    def real(inner: str, source: str, origin: str, directory: bool) -> Shown:
        return Shown(inner, os.path.realpath(source), origin, directory)

    own = "evaluation"
    found = [real(f"{INNER}/nix/{name}", f"{_HERE}/{name}", own, False) for name in _EXPRESSIONS]
    found += [real(inner, source, "atom", True) for source, inner in graph.places()]
    found.append(Shown(f"{INNER}/nix/request.json", REQUEST, own, False))
    found.append(Shown(f"{INNER}/daemon.sock", SOCKET, own, False))
    return tuple(sorted(found, key=lambda shown: shown.inner.split("/")))


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


def _not_started(answer: Answer) -> bool:
    return answer.status in _LAUNCH_FAILED and not answer.out


@contextmanager
def _request_file(tmp: Path, request: bytes) -> Iterator[Path]:
    place = tmp / os.urandom(16).hex()
    try:
        try:
            place.write_bytes(request)
        except OSError as error:
            raise StoreAccessError(f"cannot write `{place}`: {error.strerror}") from error
        yield place
    finally:
        place.unlink(missing_ok=True)


@contextmanager
def _listening(tmp: Path) -> Iterator[tuple[socket.socket, Path]]:
    """A socket in the store's tmp/, however long the name of that is: unix(7) takes 107 bytes."""
    place = tmp / os.urandom(16).hex()
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
            told = _shortened(found[err], _tell(found[err], told, say))
            if len(found[out]) > OUTPUT_LIMIT:
                raise EvaluationError("the evaluator says more than can be taken in")
    return bytes(found[out]), found[err].decode("utf-8", "replace")


def _shortened(text: bytearray, told: int) -> int:
    """What has been told goes when there is too much, and the middle of an error."""
    if len(text) > ERROR_LIMIT:
        del text[:told]
        told = 0
        del text[ERROR_LIMIT // 4 : -(ERROR_LIMIT // 4)]
    return told


def _tell(text: bytearray, told: int, say: Say) -> int:
    while (end := text.find(b"\n", told)) >= 0:
        line = text[told:end].decode("utf-8", "replace")
        if line.lstrip().startswith("error:"):
            return told
        if line.startswith("trace:") or line.startswith("warning: eka"):
            say(line)
        told = end + 1
    return told
