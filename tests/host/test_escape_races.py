"""Granted paths that someone changes between the moment they were resolved and the mount."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from eka_runtime.linux.syscalls import opens_without_links
from tests.host.conftest import Box, bind
from tests.requirements import lacking


@pytest.fixture
def granted(outer: Box) -> Path:
    """A directory and, beside it, one that was not granted."""
    if not opens_without_links("/"):
        lacking("no openat2")
    for name in ("granted", "other"):
        (outer.place / name / "deep").mkdir(parents=True)
        (outer.place / name / "deep" / "file").write_text(f"{name}\n")
    return outer.place / "granted"


def pinned(box: Box, source: Path) -> dict[str, Any]:
    """A plan as `plan(…, granted={"/data"})` makes it."""
    target = box.state / "granted-0"
    plan = box.plan(mounts=[bind(target, "/data", "ro")])
    return plan | {"pinned": ((os.fspath(source), os.fspath(target)),)}


def swap(place: Path, target: Path) -> None:
    place.rename(place.with_name("moved"))
    place.symlink_to(target)


def test_what_was_granted_is_mounted(outer: Box, granted: Path) -> None:
    assert outer.sh("cat /data/deep/file", plan=pinned(outer, granted)).stdout == b"granted\n"


@pytest.mark.parametrize("changed", [".", "deep"])
def test_a_link_that_took_its_place_is_not_followed(
    outer: Box, granted: Path, changed: str
) -> None:
    plan = pinned(outer, granted / "deep")
    swap(granted / changed, outer.place / "other" / changed)
    done = outer.sh("cat /data/file", plan=plan)
    assert (done.returncode, done.stdout) == (125, b"")
    assert b"symbolic links" in done.stderr


def test_nothing_of_it_is_left(outer: Box, granted: Path) -> None:
    outer.sh("true", plan=pinned(outer, granted))
    assert os.listdir(outer.state) == []
