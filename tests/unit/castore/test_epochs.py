"""Epochs: who holds what, as seen by a collection, with real processes that come, go, and die."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import pytest

from eka_runtime.castore.database import Database
from eka_runtime.castore.epochs import Hold, oldest
from tests.stores import public_directory, unprivileged
from tests.unit.castore.local import running

_HOLDER = """
    from pathlib import Path
    from eka_runtime.castore.database import Database
    from eka_runtime.castore.epochs import Hold

    root = Path(sys.argv[2])
    with Hold(root / "epochs", Database(root / "db.sqlite", readonly=True)) as hold:
        print("ready", flush=True)
        sys.stdin.read()
"""


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    (tmp_path / "epochs").mkdir()
    opened = Database(tmp_path / "db.sqlite")
    yield opened
    opened.close()


def _end(database: Database) -> int:
    """Ends the epoch, as a collection does; the number of the next one."""
    with database.transaction() as conn:
        conn.execute("update epoch set number = number + 1")
    return database.epoch()


def _process(database: Database) -> AbstractContextManager[subprocess.Popen[bytes]]:
    return running(_HOLDER, database.file.parent)


def _epochs(database: Database) -> Path:
    return database.file.parent / "epochs"


def test_the_first_epoch_is_one(database: Database) -> None:
    with Hold(_epochs(database), database) as hold:
        assert hold.epoch == database.epoch() == 1
        assert os.listdir(_epochs(database)) == ["1"]


def test_without_anybody_nothing_is_older(database: Database) -> None:
    assert oldest(_epochs(database), 1) == 1
    assert oldest(_epochs(database), 7) == 7


def test_who_came_in_the_present_epoch_or_later_does_not_count(database: Database) -> None:
    epochs = _epochs(database)
    with Hold(epochs, database):
        assert oldest(epochs, 1) == 1
    # It is not forgotten either: somebody may be about to lock it.
    assert oldest(epochs, 1) == 1
    assert os.listdir(epochs) == ["1"]
    _end(database)
    with Hold(epochs, database):
        assert oldest(epochs, 1) == 1
        assert sorted(os.listdir(epochs)) == ["1", "2"]


def test_the_oldest_is_found_and_those_without_anybody_are_forgotten(database: Database) -> None:
    epochs = _epochs(database)
    with ExitStack() as stack:
        holds = []
        for _ in range(5):
            holds.append(stack.enter_context(Hold(epochs, database)))
            now = _end(database)
        assert [hold.epoch for hold in holds] == [1, 2, 3, 4, 5]
        assert oldest(epochs, now) == 1
        holds[2].close()
        assert oldest(epochs, now) == 1
        holds[0].close()
        assert oldest(epochs, now) == 2
        assert sorted(os.listdir(epochs)) == ["2", "3", "4", "5"]
        holds[1].close()
        assert oldest(epochs, now) == 4
        assert sorted(os.listdir(epochs)) == ["4", "5"]
    assert oldest(epochs, now) == now
    assert os.listdir(epochs) == []


def test_many_may_hold_one_epoch(database: Database) -> None:
    epochs = _epochs(database)
    first, second = Hold(epochs, database), Hold(epochs, database)
    now = _end(database)
    first.close()
    first.close()
    assert oldest(epochs, now) == 1
    second.close()
    assert oldest(epochs, now) == now


def test_processes_come_and_go(database: Database) -> None:
    epochs = _epochs(database)
    with _process(database) as first:
        middle = _end(database)
        with _process(database) as second:
            now = _end(database)
            assert oldest(epochs, now) == 1
            assert first.stdin
            first.stdin.close()
            assert first.wait() == 0
            assert oldest(epochs, now) == middle
            assert second.poll() is None
        assert oldest(epochs, now) == now


def test_the_kernel_lets_go_for_those_who_are_killed(database: Database) -> None:
    epochs = _epochs(database)
    with _process(database) as first, _process(database) as second:
        now = _end(database)
        first.kill()
        first.wait()
        assert oldest(epochs, now) == 1
        second.kill()
        second.wait()
        assert oldest(epochs, now) == now
    assert os.listdir(epochs) == []


def test_a_forgotten_epoch_may_be_held_again(database: Database) -> None:
    """Somebody read the number, was overtaken by the end of the epoch, and comes late."""
    epochs = _epochs(database)
    Hold(epochs, database).close()
    now = _end(database)
    assert oldest(epochs, now) == now

    class Overtaken(Database):
        numbers: list[int]

        def epoch(self) -> int:
            return self.numbers.pop(0) if self.numbers else super().epoch()

    late = Overtaken(database.file)
    late.numbers = [1]
    with Hold(epochs, late) as hold:
        assert hold.epoch == now
        assert oldest(epochs, now) == now
        assert oldest(epochs, _end(database)) == now
    late.close()


def test_other_files_do_not_matter(database: Database) -> None:
    (_epochs(database) / "notes").touch()
    (_epochs(database) / "-1").touch()
    assert oldest(_epochs(database), 5) == 5
    assert sorted(os.listdir(_epochs(database))) == ["-1", "notes"]


def test_where_nothing_can_be_locked_nothing_is_held() -> None:
    with public_directory() as root:
        (root / "epochs").mkdir(mode=0o755)
        Database(root / "db.sqlite").close()
        root.chmod(0o555)
        (root / "epochs").chmod(0o555)
        with unprivileged():
            database = Database(root / "db.sqlite", readonly=True)
            with Hold(root / "epochs", database) as hold:
                assert hold.epoch == 1
            database.close()
        assert os.listdir(root / "epochs") == []
        for directory in (root / "epochs", root):
            directory.chmod(0o755)


def test_who_may_only_read_holds_the_epoch_of_the_owner() -> None:
    with public_directory() as root:
        (root / "epochs").mkdir(mode=0o755)
        database = Database(root / "db.sqlite")
        Hold(root / "epochs", database).close()
        with unprivileged():
            reader = Database(root / "db.sqlite", readonly=True)
            hold = Hold(root / "epochs", reader)
        now = _end(database)
        assert oldest(root / "epochs", now) == 1
        hold.close()
        assert oldest(root / "epochs", now) == now
        reader.close()
        database.close()
