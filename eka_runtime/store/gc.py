"""Collecting garbage: paths that no root reaches, then the contents that no path needs.

Nothing waits for it and it waits for nobody, except for another collection:

1. The epoch ends. Paths that somebody wanted since the oldest process at work came are kept, and
   so is what any root reaches (`roots.py`).
2. The others are deleted, referrers first, in transactions of a few; each looks again at what was
   wanted meanwhile. Their checkouts are moved away in the same transactions, so that a path that
   is added again can never be shown with old contents.
3. What no valid path needs is marked as dead, and the epoch ends with each transaction that does.
   Who adds the same contents later writes them anew; who saw them before takes the mark away.
4. What was marked is removed when everybody who came before is gone (`sweep.py`).

It can be killed at any moment: whatever is not done is done by the next one. Bytes freed are those
of blobs whose rows were removed: contents that are shared count when their last user goes.
"""

from __future__ import annotations

import heapq
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from eka_runtime.castore.epochs import oldest
from eka_runtime.castore.node import decode_entry
from eka_runtime.castore.removal import remove_tree
from eka_runtime.errors import StoreError
from eka_runtime.nix.path import StorePath
from eka_runtime.store.bundles import claim, discard
from eka_runtime.store.closure_views import drop_closure_views
from eka_runtime.store.layout import access_errors, collector_lock, require_own
from eka_runtime.store.marks import Marks
from eka_runtime.store.roots import Root, kept
from eka_runtime.store.sweep import (
    leftovers,
    remove_leftovers,
    retire_checkout,
    sweep,
)

if TYPE_CHECKING:
    from eka_runtime.store.store import Store

LOOSE_SECONDS = 86_400
"""How long contents are spared that came without a path that needs them."""

_CHUNK = 256
_RANGE = 100_000  # blobs looked at in one transaction


class Limits(NamedTuple):
    """`older_than`: only paths that nobody wanted for so many seconds. `most`: stop when so many
    bytes are, or will be, free. `only`: these and no others, or none at all."""

    older_than: int = 0
    most: int | None = None
    only: frozenset[StorePath] | None = None


NO_LIMITS = Limits()


class Collected(NamedTuple):
    """`freed` and `pending` are bytes of contents; `pending` will be freed by a later collection,
    when those who are at work now are done. `disk`: bytes of disk space."""

    paths: int
    blobs: int
    freed: int
    pending: int
    disk: int


Report = Callable[[StorePath], object]


def collect(
    store: Store, limits: Limits = NO_LIMITS, report: Report = lambda path: None
) -> Collected:
    """Deletes what no root reaches; `report` is told of every path when it is gone.

    Raises StoreError, and deletes nothing, when it cannot be told whether a root is alive or when
    one of `limits.only` must stay, and
    StoreAccessError when the store is somebody else's, or not laid out as ours, or something cannot
    be removed: the next collection goes on there.
    """
    require_own(store.layout)
    with _collection(store) as work:
        old = leftovers(store.layout)
        work.begin()
        candidates = work.order(limits)
        work.drop_idle_bundles(candidates)
        paths = work.delete_paths(candidates, report)
        drop_closure_views(store)
        work.mark_dead()
        done = sweep(store)
        if work.alone:
            done = done.plus(remove_leftovers(store, old))
        return Collected(paths, done.blobs, done.size, work.pending(), done.disk)


def preview(
    store: Store, limits: Limits = NO_LIMITS, report: Report = lambda path: None
) -> Collected:
    """What `collect` would do if nobody else was at work, except for `disk`; changes nothing."""
    with _collection(store) as work:
        work.begin(end_epoch=False)
        chosen = work.order(limits)
        for candidate in chosen:
            report(candidate.path)
        blobs, size = work.unneeded(chosen)
        return Collected(len(chosen), blobs, size, 0, 0)


class _Candidate(NamedTuple):
    id: int
    path: StorePath
    used: int


@contextmanager
def _collection(store: Store) -> Iterator[_Collection]:
    layout = store.layout
    with access_errors(layout), collector_lock(layout), store.uninvolved():
        yield _Collection(store)


class _Collection:
    """One collection. What is to stay is in the temporary table `live`, by the ids of paths."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._conn = store.database.connection
        self._cutoff = 0
        self.alone = True
        self._conn.execute("create temp table if not exists live (id integer primary key)")
        self._conn.execute("delete from temp.live")

    def begin(self, *, end_epoch: bool = True) -> None:
        ended = self._store.database.epoch()
        if end_epoch:
            with self._store.database.transaction() as conn:
                conn.execute("update epoch set number = number + 1")
            self._cutoff = oldest(self._store.layout.epochs, ended + 1)
            self.alone = self._cutoff > ended
        else:
            self._cutoff = ended + 1
        self._keep_wanted()
        for root in self._store.roots.all():
            paths = kept(root)
            if paths is not None:
                self._keep(paths)
            elif end_epoch and root.kind != "run":
                self._store.roots.remove(root.name)

    def drop_idle_bundles(self, candidates: Iterable[_Candidate]) -> None:
        """Removes cached bundles that need what will be deleted, unless they have just started."""
        doomed = {candidate.path for candidate in candidates}
        for root in self._store.roots.all():
            if root.kind == "run" and (doomed.intersection(root.paths) or _is_gone(root)):
                lock = _claim(root)
                if lock is None:
                    self._keep(root.paths)
                    continue
                try:
                    discard(Path(os.fsdecode(root.place)))
                    self._store.roots.remove(root.name)
                finally:
                    os.close(lock)

    def order(self, limits: Limits) -> list[_Candidate]:
        """What to delete: referrers first, and among equals those that were wanted longest ago."""
        if limits.older_than:
            since = int(time.time()) - limits.older_than
            self._extend("select id from path where used > ?", (since,))
            for root in self._store.roots.all():
                if root.kind == "run" and _last_start(root) > since:
                    self._keep(root.paths)
        ordered = list(self._ordered())
        if limits.only is not None:
            ordered = self._just(ordered, limits.only)
        return ordered if limits.most is None else self._up_to(ordered, limits.most)

    def delete_paths(self, candidates: Iterable[_Candidate], report: Report) -> int:
        remaining, deleted = iter(candidates), 0
        while some := list(islice(remaining, _CHUNK)):
            gone, views = self._delete(some)
            for view in views:
                remove_tree(view)
            for path in gone:
                report(path)
            deleted += len(gone)
        return deleted

    def mark_dead(self) -> None:
        marks = Marks(self._conn)
        self._conn.execute("begin")
        try:
            last = marks.add_paths()
        finally:
            self._conn.execute("commit")
        (count,) = self._conn.execute("select count(*) from blob").fetchone()
        ranges = min(256, 1 + count // _RANGE)
        edges = [bytes([number * 256 // ranges]) for number in range(ranges)]
        for low, high in zip(edges, [*edges[1:], b"\xff" * 33], strict=True):
            with self._store.database.transaction() as conn:
                last = marks.add_paths(last)
                for table in ("blob", "directory"):
                    conn.execute(_MARK.format(table), (low, high, self._spared_since()))
                # In the same transaction: who comes from now on sees the marks.
                conn.execute("update epoch set number = number + 1")

    def unneeded(self, candidates: Iterable[_Candidate]) -> tuple[int, int]:
        """Number and bytes of the blobs that nothing needs when the candidates are gone."""
        ids = {candidate.id for candidate in candidates}
        marks = Marks(self._conn)
        rows = self._conn.execute("select id, node from path")
        marks.add(decode_entry(node)[1] for id, node in rows.fetchall() if id not in ids)
        count, size = self._conn.execute(
            "select count(*), total(size) from blob where (loose is null or loose < ?)"
            " and digest not in (select digest from mark_blob)",
            (self._spared_since(),),
        ).fetchone()
        return count, int(size)

    def pending(self) -> int:
        statement = "select total(size) from blob where dead is not null"
        return int(self._conn.execute(statement).fetchone()[0])

    def _spared_since(self) -> int:
        return int(time.time()) - LOOSE_SECONDS

    def _keep_wanted(self) -> bool:
        """Keeps what was wanted since the oldest process at work came; whether that was news."""
        return self._extend("select id from path where epoch >= ?", (self._cutoff,))

    def _keep(self, paths: Iterable[StorePath]) -> None:
        for path in paths:
            self._extend("select id from path where hash = ?", (path.hash,))

    def _extend(self, statement: str, parameters: tuple[object, ...]) -> bool:
        before = self._conn.total_changes
        self._conn.execute(_EXTEND.format(statement), parameters)
        return self._conn.total_changes > before

    def _ordered(self) -> Iterator[_Candidate]:
        candidates, edges = self._graph()
        referrers = dict.fromkeys(candidates, 0)
        references: dict[int, list[int]] = {id: [] for id in candidates}
        for referrer, reference in edges:
            referrers[reference] += 1
            references[referrer].append(reference)
        ready = [(one.used, one.id) for one in candidates.values() if not referrers[one.id]]
        heapq.heapify(ready)
        while ready:
            _, id = heapq.heappop(ready)
            yield candidates[id]
            for reference in references[id]:
                referrers[reference] -= 1
                if not referrers[reference]:
                    heapq.heappush(ready, (candidates[reference].used, reference))

    def _just(self, ordered: list[_Candidate], only: frozenset[StorePath]) -> list[_Candidate]:
        """Raises StoreError when not all of them can go."""
        paths = self._store.paths
        chosen = [one for one in ordered if one.path in only]
        alive = only.difference(one.path for one in chosen)
        for path in sorted(path for path in only if paths.get(path)):
            users = set(paths.referrers(path)) - only
            if path in alive or users:
                raise StoreError(
                    f"cannot delete path `{path}` since it is still alive",
                    hint=f"`{min(users)}` refers to it" if users else "remove what keeps it first",
                )
        return chosen

    def _graph(self) -> tuple[dict[int, _Candidate], list[tuple[int, int]]]:
        """What is not to stay, and the references among it, as of one moment: others add paths."""
        self._conn.execute("begin")
        try:
            rows = self._conn.execute(
                "select id, hash, name, used from path where id not in live order by id"
            )
            found = {row[0]: _Candidate(row[0], StorePath(*row[1:3]), row[3]) for row in rows}
            return found, self._conn.execute(_EDGES).fetchall()
        finally:
            self._conn.execute("commit")

    def _up_to(self, ordered: list[_Candidate], most: int) -> list[_Candidate]:
        """The shortest beginning that frees so many bytes."""
        low, high = 0, len(ordered)
        while low < high:
            middle = (low + high) // 2
            if self.unneeded(ordered[:middle])[1] >= most:
                high = middle
            else:
                low = middle + 1
        return ordered[:low]

    def _delete(self, some: list[_Candidate]) -> tuple[list[StorePath], list[Path]]:
        with self._store.database.transaction() as conn:
            self._keep_wanted()
            live = "select 1 from live where id = ?"
            gone = [one for one in some if not conn.execute(live, (one.id,)).fetchone()]
            layout = self._store.layout
            views = [view for one in gone if (view := retire_checkout(layout, one.path.base))]
            conn.executemany("delete from path where id = ?", [(one.id,) for one in gone])
        return [one.path for one in gone], views


def _is_gone(root: Root) -> bool:
    return not os.path.isdir(root.place)


def _last_start(root: Root) -> float:
    """Unix time; every start from a cached bundle touches it (`eka.warm`)."""
    try:
        return os.stat(root.place).st_mtime
    except OSError:
        return 0


def _claim(root: Root) -> int | None:
    try:
        return claim(root.place)
    except (FileNotFoundError, NotADirectoryError):
        # No bundle, so nothing can start from it; any descriptor stands for the lock.
        return os.open("/", os.O_PATH | os.O_CLOEXEC)


_EXTEND = """
    with recursive reach (id) as (
        select id from ({}) where id not in live
        union
        select reference.reference from reach join reference on reference.referrer = reach.id
            where reference.reference not in live
    )
    insert or ignore into temp.live select id from reach
"""
_EDGES = """
    select referrer, reference from reference
    where referrer <> reference and referrer not in live and reference not in live
"""
_MARK = """
    update {0} set dead = (select number from epoch)
    where digest >= ? and digest < ? and dead is null and (loose is null or loose < ?)
        and not exists (select 1 from temp.mark_{0} as mark where mark.digest = {0}.digest)
"""
