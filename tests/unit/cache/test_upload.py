"""What a cache in the making looks like at every step, and what is not sent to it."""

from __future__ import annotations

import io
import itertools
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from eka_runtime.cache.client import CACHE_INFO
from eka_runtime.cache.files import DirectoryFiles
from eka_runtime.cache.upload import How, missing_in, prepare_cache, upload
from eka_runtime.errors import ServiceError, StoreCorrupt, UsageError
from eka_runtime.nix.narinfo import parse_narinfo
from eka_runtime.nix.path import StorePath
from eka_runtime.store.store import Store
from tests.stores import assert_clean
from tests.unit.cache.world import KEY, A, B, C, bring, fill, narinfo, substituter


@pytest.fixture
def origin(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "origin") as made:
        fill(made)
        yield made


class Watched(DirectoryFiles):
    """Checks at every narinfo what must be there before it, and may break down at some step."""

    def __init__(self, directory: Path, steps: int = 1 << 30) -> None:
        super().__init__(directory)
        self.steps = steps
        self.settled: set[str] = set()

    def write(self, name: str, data: BinaryIO, size: int, mime: str) -> None:
        self._step()
        if name.endswith(".narinfo"):
            info = parse_narinfo(data.read())
            data.seek(0)
            assert info.url in self.settled, "the NAR must be durable before"
            for path in info.references:
                assert path == info.path or self.has(f"{path.hash}.narinfo")
        super().write(name, data, size, mime)

    def settle(self) -> None:
        self._step()
        super().settle()
        self.settled |= {f"nar/{name}" for name in os.listdir(self.directory / "nar")}

    def _step(self) -> None:
        self.steps -= 1
        if self.steps < 0:
            raise ServiceError("the disk is full")


def send(files: DirectoryFiles, store: Store) -> list[StorePath]:
    told: list[StorePath] = []
    prepare_cache(files)
    infos = missing_in(files, store, [C])
    upload(store, files, infos, How("none", keys=(KEY,)), each=lambda info: told.append(info.path))
    return told


def test_an_upload_may_end_anywhere(origin: Store, store: Store, tmp_path: Path) -> None:
    """At whatever step it breaks: what the cache promises can be had, and the rest follows."""
    for steps in range(12):
        place = tmp_path / f"cache-{steps}"
        place.mkdir()
        try:
            send(Watched(place, steps), origin)
        except ServiceError:
            promised = [path for path in (A, B, C) if (place / f"{path.hash}.narinfo").exists()]
            for path in promised:
                assert (place / narinfo(place, path).url).exists()
            assert send(DirectoryFiles(place), origin) == [
                path for path in (A, B, C) if path not in promised
            ]
        assert not [name for name in os.listdir(place) if name.startswith(".")]
    with substituter(place) as caches:
        assert bring(store, caches, C).valid == [A, B, C]
    assert_clean(origin.root)


class Breaking(DirectoryFiles):
    """Breaks when the first NAR is there and another begun; `late` are writes after that."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.late = 0
        self.over = False
        self._numbers = itertools.count()
        self._begun, self._broken = threading.Event(), threading.Event()

    def scratch(self) -> BinaryIO:
        return _Scratch(self, next(self._numbers) > 0)

    def wait(self) -> None:
        self._begun.set()
        self._broken.wait()
        self.late += self.over

    def settle(self) -> None:
        self._begun.wait()
        self._broken.set()
        raise ServiceError("the disk is full")


class _Scratch(io.BytesIO):
    def __init__(self, files: Breaking, waits: bool) -> None:
        super().__init__()
        self._files, self._waits = files, waits

    def write(self, data: Any) -> int:
        if self._waits:
            self._files.wait()
        return super().write(data)


def test_nobody_reads_the_store_behind_an_upload_that_failed(origin: Store, tmp_path: Path) -> None:
    files = Breaking(tmp_path)
    with pytest.raises(ServiceError):
        send(files, origin)
    files.over = True
    for thread in threading.enumerate():
        if thread.name == "upload":
            thread.join()
    assert not files.late


def test_what_is_there_is_not_sent_again(origin: Store, tmp_path: Path) -> None:
    files = Watched(tmp_path)
    assert send(files, origin) == [A, B, C]
    assert missing_in(files, origin, [C]) == []
    (tmp_path / f"{B.hash}.narinfo").unlink()
    nar = tmp_path / narinfo(tmp_path, A).url
    before = nar.stat().st_mtime_ns
    assert send(files, origin) == [B]
    assert nar.stat().st_mtime_ns == before


def test_what_is_damaged_is_not_sent(origin: Store, tmp_path: Path) -> None:
    for row in list(origin.blobs.rows()):
        if row.name and row.size == 300_000:
            place = Path(origin.blobs.place(row))
            place.chmod(0o644)
            place.write_bytes(bytes(300_000))
    cache = tmp_path / "cache"
    cache.mkdir()
    with pytest.raises(StoreCorrupt, match="has changed since it was added"):
        send(DirectoryFiles(cache), origin)
    assert os.listdir(cache) == [CACHE_INFO] or not list(cache.glob("*.narinfo"))


def test_a_cache_of_another_store_is_left_alone(origin: Store, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / CACHE_INFO).write_text("StoreDir: /gnu/store\n")
    with pytest.raises(ServiceError, match="/gnu/store"):
        send(DirectoryFiles(cache), origin)
    assert os.listdir(cache) == [CACHE_INFO]


@pytest.mark.parametrize(
    ("parameters", "problem"),
    [
        ({"compression": "rar"}, "no compression `rar`"),
        ({"compression-level": "x"}, "must be a number"),
        ({"compression": "xz", "compression-level": "99"}, "has no level 99"),
        ({"write-nar-listing": "yes"}, "must be 1 or 0"),
        ({"secret-key": "/nonexistent"}, "cannot read the secret key"),
    ],
)
def test_parameters_that_make_no_sense(parameters: dict[str, str], problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        How.of(parameters)


def test_what_the_power_left_empty_is_sent_again(origin: Store, tmp_path: Path) -> None:
    """Its narinfo is not there yet, but its name may be: a rename can outlive the contents."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    how = How("none", keys=(KEY,), castore=True)
    for place in (whole, cut):
        place.mkdir()
        if place == cut:
            for file in whole.rglob("*"):
                if file.is_file() and file.parent != whole:
                    left = cut / file.relative_to(whole)
                    left.parent.mkdir(parents=True, exist_ok=True)
                    left.touch()
        files = DirectoryFiles(place)
        prepare_cache(files)
        upload(origin, files, missing_in(files, origin, [C]), how)
    found, expected = (
        {file.relative_to(place): file.read_bytes() for file in place.rglob("*") if file.is_file()}
        for place in (cut, whole)
    )
    assert found == expected
    assert_clean(origin.root)
