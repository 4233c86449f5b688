"""Places of builds and locks of outputs, beside other processes and after dead ones."""

from __future__ import annotations

import os
from pathlib import Path

from eka_runtime.build.log import BuildLog, log_place, write_log
from eka_runtime.build.workshop import Workshop, output_lock
from eka_runtime.nix.path import StorePath
from eka_runtime.oci.rootfs import RootfsEntry
from eka_runtime.store.store import Store
from tests.stores import race, store

__all__ = ["store"]

DRV = StorePath("0" * 32, "x.drv")

_COUNT = """
import os, sys
from pathlib import Path
from eka_runtime.build.workshop import output_lock
from eka_runtime.store.store import Store
sys.stdin.read()
with Store.open(Path(sys.argv[1])) as store:
    for _ in range(50):
        with output_lock(store, "digits"):
            # A second one in here would find the file.
            place = Path(sys.argv[2])
            place.touch(exist_ok=False)
            place.unlink()
"""


def test_a_workshop_leaves_nothing(store: Store) -> None:
    with Workshop(store) as shop:
        place = shop.place()
        (place.store / "sub").mkdir(mode=0o000)
        rootfs = (RootfsEntry("etc", "directory", 0o755),)
        assert shop.bundle_dir(rootfs) == shop.bundle_dir(rootfs)
        assert place.root.stat().st_mode & 0o777 == 0o700
    assert os.listdir(store.layout.root / "build") == []


def test_what_the_dead_left_is_swept_and_the_living_are_not(store: Store) -> None:
    dead = store.layout.root / "build" / "shop-dead"
    (dead / "0" / "store" / "tree").mkdir(parents=True)
    (dead.parent / "shop-gone.0").mkdir()
    with Workshop(store) as first:
        place = first.place()
        with Workshop(store):
            assert place.root.exists()
        assert not dead.exists()
        assert not (dead.parent / "shop-gone.0").exists()


def test_one_at_a_time(store: Store, tmp_path: Path) -> None:
    race(_COUNT, store.layout.root, tmp_path / "inside", racers=3)
    assert os.listdir(store.layout.root / "build") == []


def test_a_lock_that_is_held_is_not_waited_for(store: Store) -> None:
    with output_lock(store, "digits") as mine:
        assert mine
        with output_lock(store, "digits", wait=False) as other:
            assert not other
        with output_lock(store, "others", wait=False) as other:
            assert other


def test_logs_are_lines_and_bytes(store: Store) -> None:
    lines: list[bytes] = []
    with BuildLog(store, DRV, lines.append) as log:
        for piece in (b"first\nsec", b"ond\n@nix {}\n", b"\xff end"):
            log.write(piece)
        assert not log_place(store, DRV).exists()
    assert lines == [b"first", b"second", b"@nix {}", b"\xff end"]
    assert list(log.tail) == [b"first", b"second", b"\xff end"]
    read: list[bytes] = []
    write_log(store, DRV, read.append)
    assert b"".join(read) == b"first\nsecond\n@nix {}\n\xff end"


def test_the_end_of_a_long_log(store: Store) -> None:
    with BuildLog(store, DRV, lambda line: None) as log:
        log.write(b"x" * 1_000_000 + b"\n" + b"".join(b"%d\n" % n for n in range(100)))
    assert list(log.tail) == [b"%d" % n for n in range(90, 100)]
