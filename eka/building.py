"""`eka build` as a person sees it: what runs, what failed and why, and what is left of it.

On a terminal the last lines show how many builds are done, and each that runs with its phase or the
last line of its log. Elsewhere a build is one line when it begins. What fails is told at once, with
the end of its log and how to go on.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence

from eka.output import Output
from eka_runtime import printable as words
from eka_runtime.build.log import MESSAGE
from eka_runtime.build.scheduler import Outcome, first_cause
from eka_runtime.errors import BuildCancelled
from eka_runtime.nix.path import StorePath

_SHOWN = 12


class _Running:
    phase: str = ""
    last: str = ""

    def __init__(self, since: float) -> None:
        self.since = since


class Display:
    """A Watch; with `logs`, every line of every log is shown."""

    def __init__(self, output: Output, *, logs: bool) -> None:
        self._output, self._logs = output, logs
        self._guard = threading.Lock()
        self._running: dict[StorePath, _Running] = {}
        self._total = self._done = self._failed = 0

    def planned(self, builds: int) -> None:
        self._total += builds
        if builds > 1:
            self._output.message(f"{builds} derivations to build")

    def started(self, drv: StorePath) -> None:
        with self._guard:
            self._running[drv] = _Running(time.monotonic())
        self._output.message(f"building `{drv}`")

    def waits(self, drv: StorePath) -> None:
        self._output.message(f"waiting for another process that builds `{drv}`")

    def line(self, drv: StorePath, line: bytes) -> None:
        text = printable(line)
        with self._guard:
            running = self._running.get(drv)
            if line.startswith(MESSAGE):
                if running is not None and (phase := _phase(line)):
                    running.phase = phase
                return
            if running is not None:
                running.last = text
        if self._logs:
            self._output.message(f"{drv.name.removesuffix('.drv')}> {text}")

    def ended(self, outcome: Outcome) -> None:
        with self._guard:
            self._running.pop(outcome.path, None)
            self._done += 1
            self._failed += outcome.error is not None
        if outcome.error is not None and not isinstance(outcome.error, BuildCancelled):
            self._tell(outcome)

    def lines(self) -> list[str]:
        """The state of things, for `Output.live`."""
        now = time.monotonic()
        with self._guard:
            running = list(self._running.items())
            failed = f", {self._failed} failed" if self._failed else ""
            waiting = max(self._total - self._done - len(running), 0)
            head = f"{self._done}/{self._total} done, {len(running)} running, {waiting} queued"
        rows = [f"{head}{failed}"] if self._total else []
        for drv, one in running[:_SHOWN]:
            name = drv.name.removesuffix(".drv")
            phase = f" {one.phase}" if one.phase else ""
            rows.append(f"  {_span(now - one.since):>6} {name}{phase}: {one.last}")
        return rows

    def _tell(self, outcome: Outcome) -> None:
        output = self._output
        output.warning(describe(outcome))
        if outcome.tail:
            count = f"last {len(outcome.tail)} lines" if len(outcome.tail) > 1 else "the only line"
            output.message(f"{count} of its log:")
            for line in outcome.tail:
                output.message(f"> {printable(line)}")
            output.message(f"the whole log: `eka log {outcome.path}`")
        if outcome.kept is not None:
            output.message(f"its bundle is kept in `{outcome.kept}`")
            output.message(f"to look around in it: `eka bundle run {outcome.kept} /bin/sh`")
        if outcome.lost:
            names = ", ".join(path.name.removesuffix(".drv") for path in outcome.lost[:5])
            more = f" and {len(outcome.lost) - 5} more" if len(outcome.lost) > 5 else ""
            output.message(f"without it these cannot be built: {names}{more}")


def describe(outcome: Outcome) -> str:
    """Its error; what does not name the derivation itself is told with its name."""
    text = str(outcome.error)
    return text if str(outcome.path) in text else f"building of `{outcome.path}` failed: {text}"


def printable(line: bytes) -> str:
    """A line of a log without what a terminal would obey."""
    text = line.rsplit(b"\r", 1)[-1].decode("utf-8", "replace").expandtabs()
    return words.printable(text, " ")


def first_error(outcomes: Sequence[Outcome]) -> Outcome | None:
    """The one that explains the others."""
    failed = [outcome for outcome in outcomes if outcome.error is not None]
    return first_cause(failed) if failed else None


def _phase(line: bytes) -> str:
    try:
        value = json.loads(line.removeprefix(MESSAGE))
    except ValueError:
        return ""
    if isinstance(value, dict) and value.get("action") == "setPhase":
        return printable(str(value.get("phase", "")).encode()[:100])
    return ""


def _span(seconds: float) -> str:
    return f"{seconds:.0f}s" if seconds < 100 else f"{seconds // 60:.0f}m{seconds % 60:02.0f}s"
