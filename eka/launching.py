"""Makes a run ready and starts it: bundle into the cache, plan for this host, launch record.

The start itself is `eka.warm.start`: one path for cold and warm.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import TypeVar

from eka import warm
from eka.bundle_cache import put, tidy_daily
from eka.config import Settings, cache_dir, config_dir, load_settings
from eka.fetching import Reach
from eka.output import Output
from eka.prepare import Prepared, prepare
from eka.record import Dependencies, write_command_record, write_record
from eka.wanted import Wanted
from eka_runtime.errors import HostError, SandboxDegraded
from eka_runtime.oci.bundle import Bundle
from eka_runtime.oci.explain import Reason, objects, table
from eka_runtime.runtime.enter import Refused
from eka_runtime.runtime.launch import default_state_directory, plan, shortfalls
from eka_runtime.runtime.planned import Plan
from eka_runtime.runtime.probe import Host, probe
from eka_runtime.store.roots import bundle_root
from eka_runtime.store.store import Store

T = TypeVar("T")


class Ready:
    """A run that only lacks the caller's own arguments. The store is open until it starts."""

    def __init__(self, prepared: Prepared, settings: Settings, host: Host, store: Store) -> None:
        self.prepared = prepared
        self.settings = settings
        self.host = host
        self.store = store

    @property
    def bundle(self) -> Bundle:
        return self.prepared.bundle

    @cached_property
    def digest(self) -> str:
        return self.bundle.digest()

    @cached_property
    def bundle_dir(self) -> Path:
        """The bundle on disk, written now unless an equal one is there.

        While this process lives, no collection removes it or what it needs from the store.
        """
        while True:
            place = self._written()
            try:
                descriptor = warm.hold(os.fsencode(place))
            except (FileNotFoundError, BlockingIOError):
                # A collection is removing it right now; it is renamed before anything else.
                continue
            except OSError as error:
                raise HostError(
                    f"cannot use the cached bundle `{place}`: {error.strerror}",
                    hint="remove it, or set `XDG_CACHE_HOME` to a directory of your own",
                ) from error
            if place.exists() and os.path.samestat(os.fstat(descriptor), os.stat(place)):
                return place
            os.close(descriptor)

    def _written(self) -> Path:
        name = self.digest.partition("-")[2].translate(_IN_FILE_NAMES)
        place = cache_dir(os.environ) / "bundle" / name
        written = put(self.bundle, place)
        if self.store.writable:
            self.store.roots.add(bundle_root(place, self.prepared.closure, running=True))
        if written:
            tidy_daily(cache_dir(os.environ), self.store)
        return place

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """Sentences for people about what was not granted, or is not enforced."""
        return (*self.prepared.grants.notes, *self.shortfalls)

    def limited(self) -> bool:
        """Whether control groups matter to this run."""
        linux = self.bundle.spec.linux
        return linux is not None and linux.resources is not None

    @cached_property
    def shortfalls(self) -> tuple[str, ...]:
        """Sentences about limits that this host keeps in part or not at all."""
        return shortfalls(self.bundle.spec.to_data(), self.host)

    def plan(self) -> Plan:
        state = default_state_directory(os.environ)
        granted = {grant.path for grant in self.prepared.grants.paths}
        return plan(
            self.bundle.spec.to_data(), self.bundle_dir, self.host, state=state, granted=granted
        )

    @cached_property
    def launch(self) -> warm.Record:
        """What `warm.start` takes; values for passed variables are looked up at each start."""
        process = self.bundle.spec.process
        passed = self.bundle.passed
        planned = self.plan()
        return {
            "bundle": os.fsencode(self.bundle_dir),
            "plan": planned,
            "args": [os.fsencode(word) for word in (process and process.args) or ()],
            "env": [os.fsencode(text) for text in (process and process.env) or ()],
            "pass": [os.fsencode(p.name) for p in passed if not p.terminal_only],
            "pass_on_terminal": [os.fsencode(p.name) for p in passed if p.terminal_only],
            **({"ledger": self._ledger(planned["mode"])} if self.settings.record else {}),
        }

    def _ledger(self, mode: str) -> tuple[bytes, bytes]:
        """Its place, and what can be said of the run by now."""
        from eka.runs import head, ledger_file

        line = head(self.prepared, self.digest, self.host, mode)
        return os.fsencode(ledger_file(os.environ)), line

    def start(
        self,
        arguments: Sequence[str],
        output: Output,
        change: Callable[[Plan], Plan] = lambda plan: plan,
        ended: Callable[[int], None] | None = None,
    ) -> int:
        """Takes over the process; the caller ends it with the status.

        `change` may put in what differs from one start to the next. `ended` is called with the
        status of the program, also where this does not return: it dies of a signal as the program.
        """
        for note in self.notes:
            output.warning(note)
        launch = self.launch | {"plan": change(self.launch["plan"])}
        if self.prepared.promised:
            from eka.lazy import attend

            promised, caches = self.prepared.promised, self.prepared.caches
            launch["plan"] = attend(launch["plan"], self.store, promised, caches, output)
        self.store.close()
        try:
            return warm.start(launch, [os.fsencode(word) for word in arguments], ended)
        except Refused as error:
            raise HostError(
                f"the host refused a namespace it allowed before: {error}",
                hint="see `eka doctor`",
            ) from error


BOOT_ID = b"/proc/sys/kernel/random/boot_id"
"""Bundles and views are whole as long as this boot lasts; the next start finds what is missing."""

HYBRID_CONTROLLERS = b"/sys/fs/cgroup/unified/cgroup.controllers"
"""What decides whether crun must be kept from a hybrid cgroup tree; it can change at any time."""

_IN_FILE_NAMES = str.maketrans("+/", "-_", "=")


@contextmanager
def get_ready(
    ask: Callable[[Reach], tuple[Wanted, T]],
    store_dir: Path | None,
    output: Output,
    *,
    offline: bool = False,
    record: bool = False,
    lazy: bool | None = None,
) -> Iterator[tuple[Ready, T]]:
    """`ask` says what is wanted, given the store, which is closed at the start or at the end.

    What the store lacks is fetched from the far services in force, unless `offline`; with `lazy`
    while it runs, where this host can show that. Where it is False the script may ask for that,
    and where it is None nothing is started. The run goes into the ledger with `record`, or if the
    settings say so.
    """
    settings = load_settings(os.environ, store=store_dir)
    settings = settings._replace(record=settings.record or record)
    host = find_host(settings)
    with Store.open(settings.store) as store:
        may_be = None if lazy is None else partial(_obstacle, host)
        reach = Reach(store, settings, output, offline=offline, lazy=bool(lazy), obstacle=may_be)
        wanted, more = ask(reach)
        prepared = prepare(wanted, settings, reach, root_inside(host))
        yield Ready(prepared, settings, host, store), more


def _obstacle(host: Host) -> str:
    from eka.lazy import obstacle

    return obstacle(host)


def find_host(settings: Settings) -> Host:
    """As `probe`, with what eka.toml says about the runtime."""
    stated = {"EKA_RUNTIME": settings.runtime, "EKA_MODE": settings.mode}
    known = {name: value for name, value in stated.items() if value}
    return probe(environ={**os.environ, **known})


def root_inside(host: Host) -> bool:
    """runc cannot start a program as anybody but 0 of its user namespace."""
    return host.kind == "runc" and host.uid != 0


def require_full_sandbox(ready: Ready) -> None:
    """Raises SandboxDegraded where less is isolated, or limited, than was asked for."""
    for lacking in ready.shortfalls:
        raise SandboxDegraded(
            f"a limit cannot be kept on this host: {lacking}",
            hint="see `eka doctor`, drop the limit, or drop `--require-sandbox`",
        )
    if ready.host.mode == "degraded":
        raise SandboxDegraded(
            "this host allows a weaker sandbox only (mode `degraded`)",
            hint="see `eka doctor` for what would lift it, or drop `--require-sandbox`",
        )


def explain(reasons: Sequence[Reason], notes: Sequence[str], output: Output) -> int:
    """Prints every mount, variable and namespace with who asked for it."""
    if output.json_mode:
        for row in objects(reasons):
            output.json(row)
    else:
        for line in table(reasons):
            output.data(line)
    for note in notes:
        output.warning(note)
    return 0


def record_launch(
    flags: Sequence[str],
    file: str,
    fingerprint: bytes | tuple[int, ...] | None,
    ready: Ready,
    output: Output,
) -> bool:
    """Leaves a launch record; False when something was in motion, or the cache is not writable."""
    words = [os.fsencode(word) for word in flags]
    depends, said = _dependencies(ready, (file,)), ready.prepared.said
    return write_record(words, os.fsencode(file), fingerprint, depends, _noted(ready, output), said)


def record_command(words: Sequence[str], ready: Ready, output: Output) -> bool:
    """As `record_launch`, for a command line of `eka`, command first."""
    return write_command_record(words, _dependencies(ready, ()), _noted(ready, output))


def _noted(ready: Ready, output: Output) -> warm.Record:
    notes = [note.encode(errors="replace") for note in ready.notes if output.verbosity >= 0]
    return ready.launch | {"notes": notes}


def _dependencies(ready: Ready, files: Sequence[str]) -> Dependencies:
    prepared, settings = ready.prepared, ready.settings
    grants = prepared.grants.paths
    return Dependencies(
        files=_bytes(
            *prepared.host_files,
            ready.host.runtime,
            config_dir(os.environ) / "eka.toml",
            settings.store / "format",
        ),
        # Where control groups can be made depends on the group that this process is in.
        contents=(
            *(BOOT_ID, HYBRID_CONTROLLERS),
            *((b"/proc/self/cgroup",) if ready.limited() else ()),
        ),
        places=_bytes(*files, *(grant.path for grant in grants)),
        links=_bytes(*prepared.links),
        present=_bytes(*prepared.view_sources, ready.bundle_dir / "rootfs"),
    )


def _bytes(*paths: str | os.PathLike[str]) -> tuple[bytes, ...]:
    return tuple(os.fsencode(path) for path in paths)
