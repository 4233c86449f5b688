"""Processes that work on one store and are killed at any moment: nothing that was kept is lost.

The numbers are those of continuous integration; EKA_CRASH_RUNS and EKA_CRASH_PROCESSES make them
larger by hand (2000 and 16 are what the store was built for).
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from eka_runtime.nix.path import StorePath
from eka_runtime.store.gc import collect
from eka_runtime.store.store import Store
from tests.crash import Child, Nursery, nursery
from tests.host.store_work import Job, fill
from tests.stores import assert_clean, problems
from tests.unit.store.graphs import held, needed

RUNS = int(os.environ.get("EKA_CRASH_RUNS", "40"))
PROCESSES = int(os.environ.get("EKA_CRASH_PROCESSES", "6"))
SEED = int(os.environ.get("EKA_CRASH_SEED", "1"))
OPERATIONS = int(os.environ.get("EKA_CRASH_OPERATIONS", "8"))

_FOREVER = 1 << 30
_KILLED = -9

Kept = dict[str, tuple[StorePath, bytes]]
"""By the name of the root: the path that it keeps, and the hash of its NAR."""


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    """Of nobody yet: prefix and seed are to be replaced."""
    made = Job(tmp_path / "store", tmp_path / "far", tmp_path / "scratch", "", 0, _FOREVER)
    made.scratch.mkdir()
    with Store.open(made.far) as far:
        fill(far)
    Store.open(made.store).close()
    yield made
    for root in (made.store, made.far):
        with Store.open(root) as store:
            collect(store)
        assert_clean(root)


def _start(children: Nursery, job: Job) -> Child:
    return children.start(*(str(value) for value in job))


def _kept(kept: Kept, child: Child) -> Kept:
    """What is kept after a child's death, or its end, given what was before its birth."""
    failed = [line for line in child.lines if line.startswith("failed")]
    assert not failed, failed[0][-1500:]
    for line in child.lines:
        word, *rest = line.split(" ")
        if word == "dropping":
            kept.pop(rest[0], None)
        elif word == "kept":
            kept[rest[0]] = StorePath.from_base(rest[1]), bytes.fromhex(rest[2])
    return kept


def _check(root: Path, kept: Kept) -> None:
    with Store.open(root) as store:
        assert problems(store) == []
        for path, nar_hash in kept.values():
            for one in store.closure([path]):
                # Raises when what it writes has another hash than the path info says.
                store.write_nar(one, lambda piece: None)
            assert store.info(path).nar_hash == nar_hash


def _check_that_nothing_leaks(root: Path) -> None:
    """When all are dead: what nobody needs goes, whatever the killed left."""
    with Store.open(root) as store:
        with store.database.transaction() as conn:
            for table in ("blob", "directory"):
                # As if a day had passed since anything was uploaded.
                conn.execute(f"update {table} set loose = null")
        done = collect(store)
        assert done.pending == 0
        assert held(store)._replace(checkouts=set()) == needed(store)
        assert os.listdir(store.layout.tmp) == []


def _wait_and_kill(children: Nursery, child: Child, seconds: float) -> None:
    """Counts from when it is ready."""
    while not child.lines and child.status is None:
        children.listen()
    end = time.monotonic() + seconds
    while child.status is None and (left := end - time.monotonic()) > 0:
        children.listen(left)
    child.kill()


def test_whatever_was_kept_survives_kills_at_random_moments(job: Job) -> None:
    rng, kept = random.Random(SEED), Kept()
    with nursery("tests.host.store_work") as children:
        for run in range(RUNS):
            # Either at any moment, or right before one of the changes that matter.
            dies_at = rng.choice([-1, rng.randrange(60)])
            own = job._replace(prefix="r", seed=rng.getrandbits(32), dies_at=dies_at)
            child = _start(children, own)
            if dies_at < 0:
                _wait_and_kill(children, child, rng.uniform(0, 0.2))
            status = child.wait()
            _check(job.store, _kept(kept, child))
            assert status == _KILLED
            if run % 20 == 19:
                _check_that_nothing_leaks(job.store)
                _check(job.store, kept)
    assert kept


def test_many_at_once(job: Job) -> None:
    rng = random.Random(SEED)
    with nursery("tests.host.store_work") as children:
        jobs = [
            job._replace(prefix=f"{n}/", seed=rng.getrandbits(32), operations=OPERATIONS)
            for n in range(PROCESSES)
        ]
        started = [_start(children, one) for one in jobs]
        kept = Kept()
        for child in started:
            status = child.wait()
            _kept(kept, child)
            assert status == 0
    _check(job.store, kept)
    assert kept
    _check_that_nothing_leaks(job.store)
    _check(job.store, kept)


def test_many_at_once_of_whom_some_are_killed(job: Job) -> None:
    rng, kept = random.Random(SEED), Kept()
    with nursery("tests.host.store_work") as children:
        jobs = [job._replace(prefix=f"{n}/", operations=OPERATIONS) for n in range(PROCESSES)]
        alive = [_start(children, one._replace(seed=rng.getrandbits(32))) for one in jobs]
        for _ in range(2 * PROCESSES):
            number = rng.randrange(PROCESSES)
            _wait_and_kill(children, alive[number], rng.uniform(0, 0.1))
            _kept(kept, alive[number])
            alive[number] = _start(children, jobs[number]._replace(seed=rng.getrandbits(32)))
        for child in alive:
            status = child.wait()
            _kept(kept, child)
            assert status == 0
    _check(job.store, kept)
    _check_that_nothing_leaks(job.store)
    _check(job.store, kept)
