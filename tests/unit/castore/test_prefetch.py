"""Blobs asked for ahead: right contents in any order, many at a time, within a bound."""

from __future__ import annotations

import io
import random
import threading
from collections.abc import Iterator
from typing import BinaryIO

import pytest

from eka_runtime.castore.digest import B3Digest
from eka_runtime.castore.node import FileNode
from eka_runtime.castore.prefetch import Prefetch
from eka_runtime.errors import ServiceError, StoreCorrupt


class Far:
    """Counts what is asked for, and can hold back every answer until `jobs` are waited for."""

    def __init__(self, contents: dict[B3Digest, bytes], *, together: int = 1) -> None:
        self.contents = contents
        self.asked: list[B3Digest] = []
        self._together = threading.Barrier(together)

    def has(self, digest: B3Digest) -> bool:
        return digest in self.contents

    def open_read(self, digest: B3Digest) -> BinaryIO | None:
        self.asked.append(digest)
        self._together.wait(timeout=30)
        found = self.contents.get(digest)
        return None if found is None else io.BytesIO(found)


NOWHERE = Far({})


def blobs(count: int, size: int = 100) -> tuple[list[FileNode], dict[B3Digest, bytes]]:
    contents = [random.Random(number).randbytes(size) for number in range(count)]
    nodes = [FileNode(B3Digest.of(data), len(data)) for data in contents]
    return nodes, {B3Digest.of(data): data for data in contents}


def read(prefetch: Prefetch, node: FileNode) -> bytes:
    reader = prefetch.open_read(node.digest)
    assert reader is not None
    with reader:
        return reader.read()


def test_many_are_on_their_way_at_once() -> None:
    nodes, contents = blobs(32)
    # No answer comes before eight were asked for: one at a time would wait for ever.
    far = Far(contents, together=8)
    with Prefetch(Far({}), far, jobs=8) as prefetch:
        prefetch.expect(nodes)
        assert [read(prefetch, node) for node in nodes] == list(contents.values())
    assert sorted(far.asked) == sorted(contents)


def test_a_blob_that_is_read_again_is_fetched_once() -> None:
    nodes, contents = blobs(10)
    far = Far(contents)
    with Prefetch(NOWHERE, far) as prefetch:
        order = nodes * 3
        random.Random(0).shuffle(order)
        prefetch.expect(order)
        for node in order:
            assert read(prefetch, node) == contents[node.digest]
    assert sorted(far.asked) == sorted(contents)


@pytest.mark.parametrize("seed", range(10))
def test_memory_is_bounded_and_every_order_works(seed: int) -> None:
    choose = random.Random(seed)
    nodes, contents = blobs(50, size=1000)
    order = choose.choices(nodes, k=300)
    far = Far(contents)
    with Prefetch(NOWHERE, far, jobs=3, memory=8000) as prefetch:
        prefetch.expect(order)
        for node in order:
            assert read(prefetch, node) == contents[node.digest]
            assert prefetch.held_bytes <= 8000
        assert prefetch.held_bytes == 0


def test_what_comes_later_is_asked_for_in_time() -> None:
    nodes, contents = blobs(30)
    parts: Iterator[list[FileNode]] = iter([nodes[10:20], nodes[20:]])
    far = Far(contents, together=5)
    with Prefetch(Far({}), far, more=lambda: next(parts, []), jobs=5) as prefetch:
        prefetch.expect(nodes[:10])
        assert [read(prefetch, node) for node in nodes] == list(contents.values())


def test_large_ones_and_unexpected_ones_are_streamed() -> None:
    nodes, contents = blobs(3, size=5 << 20)
    far = Far(contents)
    with Prefetch(NOWHERE, far) as prefetch:
        prefetch.expect(nodes)
        assert far.asked == []
        assert read(prefetch, nodes[1]) == contents[nodes[1].digest]
        assert prefetch.held_bytes == 0
        assert prefetch.open_read(B3Digest.of(b"nowhere")) is None
        assert prefetch.has(nodes[0].digest)


def test_near_is_used_and_the_empty_blob_is_nobodys() -> None:
    nodes, contents = blobs(2)
    with Prefetch(Far(contents), NOWHERE) as prefetch:
        assert read(prefetch, nodes[0]) == contents[nodes[0].digest]
        assert read(prefetch, FileNode(B3Digest.of(b""), 0)) == b""


@pytest.mark.parametrize("size", [99, 101])
def test_another_size_is_damage(size: int) -> None:
    [node], contents = blobs(1)
    with Prefetch(NOWHERE, Far(contents)) as prefetch:
        prefetch.expect([node._replace(size=size)])
        with pytest.raises(StoreCorrupt, match=f"does not have {size} bytes"):
            prefetch.open_read(node.digest)


class Broken(Far):
    def open_read(self, digest: B3Digest) -> BinaryIO | None:
        raise ServiceError("gone")


def test_errors_of_far_come_where_the_blob_is_read() -> None:
    nodes, contents = blobs(3)
    with Prefetch(NOWHERE, Broken(contents)) as prefetch:
        prefetch.expect(nodes)
        with pytest.raises(ServiceError, match="gone"):
            prefetch.open_read(nodes[0].digest)
