"""Builds for a client: its log as it comes, its end when the client goes, results as it wants them.

Each build is an activity (Nix's `actBuild`) whose results are lines of its log and its phase.
"""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from eka_runtime.build.log import MESSAGE
from eka_runtime.daemon.peer import ClientGone, Peer
from eka_runtime.daemon.protocol import Message, Status
from eka_runtime.daemon.wire import Values
from eka_runtime.errors import BuildError, EkaError, FormatError, UsageError
from eka_runtime.nix.derivation import Derivation
from eka_runtime.nix.path import StorePath

if TYPE_CHECKING:
    from eka_runtime.build.scheduler import Outcome

_NORMAL, _REPAIR, _CHECK = range(3)
_BUILD, _BUILD_WAITING = 105, 111
_LOG_LINE, _SET_PHASE = 101, 104
_INFO = 3


class ClientWatch:
    """Tells the client; `cancel` is called when it cannot be told any more."""

    def __init__(self, peer: Peer) -> None:
        self.cancel: Callable[[], None] = lambda: None
        self._peer = peer
        self._guard = threading.Lock()
        self._ids = itertools.count(1)
        self._activities: dict[StorePath, int] = {}

    def planned(self, builds: int) -> None:
        return

    def started(self, drv: StorePath) -> None:
        fields = [str(drv), "", 1, 1]
        self._begin(drv, _BUILD, f"building '{drv}'", fields)

    def waits(self, drv: StorePath) -> None:
        self._begin(drv, _BUILD_WAITING, f"waiting for another build of '{drv}'", [])

    def line(self, drv: StorePath, line: bytes) -> None:
        kind, text = _LOG_LINE, line.decode("utf-8", "replace")
        if line.startswith(MESSAGE):
            phase = _phase(line)
            if phase is None:
                return
            kind, text = _SET_PHASE, phase
        with self._guard:
            number = self._activities.get(drv)
        if number is not None:
            self._tell(Message.RESULT, {"id": number, "type": kind, "fields": [text]})

    def ended(self, outcome: Outcome) -> None:
        self._end(outcome.path)

    def _begin(self, drv: StorePath, kind: int, text: str, fields: list[object]) -> None:
        self._end(drv)
        with self._guard:
            number = self._activities[drv] = next(self._ids)
        values = {"id": number, "level": _INFO, "type": kind, "text": text}
        self._tell(Message.START_ACTIVITY, values | {"fields": fields, "parent": 0})

    def _end(self, drv: StorePath) -> None:
        with self._guard:
            number = self._activities.pop(drv, None)
        if number is not None:
            self._tell(Message.STOP_ACTIVITY, {"id": number})

    def _tell(self, kind: Message, values: Values) -> None:
        try:
            self._peer.tell(kind, values)
        except ClientGone:
            self.cancel()


class PeerSubstitutes:
    """The binary caches of this daemon as `Substitutes`, unless the client wants none."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer

    def available(self, paths: Sequence[StorePath]) -> Sequence[StorePath]:
        return paths if self._peer.supply else ()

    def fetch(self, paths: Sequence[StorePath]) -> None:
        self._peer.bring(paths)


def realise(
    peer: Peer,
    wanted: Mapping[StorePath, Iterable[str]],
    mode: int,
    given: Mapping[StorePath, Derivation] | None = None,
) -> dict[StorePath, Outcome]:
    """The outcome of each derivation; what was built is kept until the connection ends.

    `given` are derivations that need not be in the store.
    """
    if mode == _REPAIR:
        raise UsageError(
            "a repair is not made by building again",
            hint="`eka store verify --repair` takes what is lost from caches",
        )
    if not wanted:
        return {}
    from eka_runtime.build.scheduler import Scheduler

    bench = peer.workbench()
    settings = bench.settings._replace(check=mode == _CHECK)
    watch = ClientWatch(peer)
    scheduler = Scheduler(
        peer.store, bench.host, settings, bench.state, PeerSubstitutes(peer), watch
    )
    watch.cancel = scheduler.cancel
    for path, drv in (given or {}).items():
        scheduler.goals.believe(path, drv)
    with peer.watched(scheduler.cancel):
        outcomes = scheduler.realise(wanted)
    for path in wanted:
        if outcomes[path].error is None:
            # What a confined client has had built is its own from now on.
            for output in outcomes[path].outputs.values():
                peer.show(peer.store.info(output))
        peer.keep(outcomes[path].outputs.values())
    return outcomes


def failure(failed: Sequence[Outcome]) -> EkaError:
    """The one error for all of them: the first cause, with the end of its log."""
    from eka_runtime.build.scheduler import first_cause

    return BuildError(_message(first_cause(failed)))


def result_of(peer: Peer, outcome: Outcome, names: Iterable[str] | None) -> Values:
    """A BuildResult; `names` are the outputs that were asked for, None for all."""
    error = outcome.error
    if error is not None:
        status = error.status if isinstance(error, BuildError) else Status.MiscFailure
        return plain_result(Status(status), _message(outcome), outcome)
    status = Status.Built if outcome.how == "built" else Status.AlreadyValid
    wanted = set(outcome.outputs if names is None else names)
    outputs = {outcome.ids[name]: path for name, path in outcome.outputs.items() if name in wanted}
    built = {key: realisation(key, path) for key, path in outputs.items()}
    return plain_result(status, "", outcome) | {"builtOutputs": built}


def plain_result(status: Status, message: str = "", outcome: Outcome | None = None) -> Values:
    return {
        "status": status,
        "errorMsg": message,
        "timesBuilt": int(status == Status.Built),
        "isNonDeterministic": status == Status.NotDeterministic,
        "startTime": int(outcome.started) if outcome else 0,
        "stopTime": int(outcome.stopped) if outcome else 0,
        "cpuUser": None,
        "cpuSystem": None,
        "builtOutputs": {},
    }


def realisation(key: str, path: StorePath) -> str:
    fields = {"dependentRealisations": {}, "id": key, "outPath": path.base, "signatures": []}
    return json.dumps(fields, separators=(",", ":"))


def parse_realisation(text: str) -> tuple[str, StorePath]:
    """Raises FormatError."""
    try:
        value = json.loads(text)
        return str(value["id"]), StorePath.from_base(value["outPath"])
    except (ValueError, KeyError, TypeError) as error:
        raise FormatError(f"not a realisation: {error!r}") from None


def _message(outcome: Outcome) -> str:
    text = str(outcome.error)
    if outcome.tail:
        lines = "".join(f"\n> {line.decode('utf-8', 'replace')}" for line in outcome.tail)
        text += f";\nlast {len(outcome.tail)} log lines:{lines}"
    return text


def _phase(line: bytes) -> str | None:
    try:
        value = json.loads(line.removeprefix(MESSAGE))
    except ValueError:
        return None
    if isinstance(value, dict) and value.get("action") == "setPhase":
        return str(value.get("phase", ""))[:100]
    return None
