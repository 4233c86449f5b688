"""Blobs that somebody else brings: the line between who serves a view and who fetches."""

from __future__ import annotations

import io
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest

from eka_runtime.castore.digest import B3Digest
from eka_runtime.errors import ServiceError, StoreCorrupt
from eka_runtime.view.asked import AskedBlobs, answer_all, listen

DATA = b"contents"


class Near:
    def __init__(self) -> None:
        self.blobs: dict[B3Digest, bytes] = {}

    def has(self, digest: B3Digest) -> bool:
        return digest in self.blobs

    def open_read(self, digest: B3Digest) -> BinaryIO | None:
        return io.BytesIO(self.blobs[digest]) if digest in self.blobs else None


def asked(
    near: Near, place: Path, monkeypatch: pytest.MonkeyPatch, bring: Callable[[B3Digest], object]
) -> AskedBlobs:
    monkeypatch.chdir(place)
    listening = listen(place / "socket")
    threading.Thread(target=answer_all, args=(listening, bring), daemon=True).start()
    return AskedBlobs(near, "socket")


def test_what_is_near_is_not_asked_for(tmp_path: Path) -> None:
    near = Near()
    near.blobs[B3Digest.of(DATA)] = DATA
    found = AskedBlobs(near, os.fspath(tmp_path / "nobody")).open_read(B3Digest.of(DATA))
    assert found is not None
    assert found.read() == DATA


def test_what_is_not_near_is_brought(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Longer than the name of a socket may be.
    place = tmp_path / ("x" * 100) / ("y" * 100)
    place.mkdir(parents=True)
    near = Near()
    blobs = asked(near, place, monkeypatch, lambda digest: near.blobs.update({digest: DATA}))
    found = blobs.open_read(B3Digest.of(DATA))
    assert found is not None
    assert found.read() == DATA
    assert stat.S_IMODE((place / "socket").stat().st_mode) & 0o077 == 0


def test_why_it_cannot_be_had_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def bring(digest: B3Digest) -> None:
        raise StoreCorrupt(f"blob {digest} is damaged")

    blobs = asked(Near(), tmp_path, monkeypatch, bring)
    for _ in range(2):
        with pytest.raises(ServiceError, match="is damaged"):
            blobs.open_read(B3Digest.of(DATA))


def test_nobody_answers(tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match="nobody is there"):
        AskedBlobs(Near(), os.fspath(tmp_path / "s")).open_read(B3Digest.of(DATA))
