"""Threads that commit together: what returned is durable, and errors reach whom they concern."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import pytest

from eka_runtime.castore.batch import Batch
from eka_runtime.castore.digest import B3Digest
from eka_runtime.errors import StoreAccessError
from eka_runtime.store.group_commit import GroupCommit
from eka_runtime.store.store import Store
from eka_runtime.store.uploads import put_blob


def test_many_threads_at_once(store: Store) -> None:
    contents = [b"%d" % (number % 150) for number in range(300)]
    contents += [os.urandom(70_000) for _ in range(20)]
    with ThreadPoolExecutor(16) as pool:
        digests = list(pool.map(lambda data: put_blob(store, BytesIO(data).read), contents))
    assert digests == [B3Digest.of(data) for data in contents]
    for digest, data in zip(digests, contents, strict=True):
        reader = store.blobs.open_read(digest)
        assert reader is not None
        with reader:
            assert reader.read() == data
    assert len(list(store.blobs.rows())) == 170


def test_nobody_waits_for_more_than_two_commits() -> None:
    groups: list[int] = []

    def commit_all(batches: Sequence[Batch]) -> None:
        groups.append(len(batches))

    group = GroupCommit(commit_all)
    batch: Batch = None  # type: ignore[assignment]
    together = threading.Barrier(8)

    def commit() -> None:
        together.wait()
        group.commit(batch)

    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(commit) for _ in range(8)]:
            future.result()
    assert sum(groups) == 8


def test_an_error_reaches_everybody_who_was_in_that_commit() -> None:
    def commit_all(batches: Sequence[Batch]) -> None:
        raise StoreAccessError("the disk is full")

    batch: Batch = None  # type: ignore[assignment]
    group = GroupCommit(commit_all)
    for _ in range(2):
        with pytest.raises(StoreAccessError, match="the disk is full"):
            group.commit(batch)
