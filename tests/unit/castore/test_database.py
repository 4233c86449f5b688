from __future__ import annotations

import os
import shutil
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from eka_runtime.castore.database import AT_ONCE, VERSION, Database, of_digests
from eka_runtime.errors import StoreAccessError, StoreCorrupt, StoreFormatError

SCHEMA = ("create table more (number integer primary key)",)


def _numbers(database: Database) -> list[int]:
    return [number for (number,) in database.connection.execute("select number from more")]


def _raw(file: Path, *statements: str) -> None:
    connection = sqlite3.connect(file)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


def _insert_and_fail(conn: sqlite3.Connection) -> None:
    conn.execute("insert into more values (2)")
    raise ZeroDivisionError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "db.sqlite"


def test_it_has_its_own_tables_and_those_it_was_given(file: Path) -> None:
    database = Database(file, SCHEMA)
    tables = database.connection.execute("select name from sqlite_schema where type = 'table'")
    assert {name for (name,) in tables} == {"blob", "directory", "moved", "untidy", "epoch", "more"}
    modes = ("journal_mode", "synchronous", "foreign_keys")
    found = [database.connection.execute(f"pragma {mode}").fetchone()[0] for mode in modes]
    assert found == ["wal", 2, 1]
    database.close()
    assert os.listdir(file.parent) == [file.name]


def test_a_transaction_is_kept_as_a_whole_or_not_at_all(file: Path) -> None:
    database = Database(file, SCHEMA)
    with database.transaction() as conn:
        conn.execute("insert into more values (1)")
    with pytest.raises(ZeroDivisionError), database.transaction() as conn:
        _insert_and_fail(conn)
    with pytest.raises(sqlite3.IntegrityError), database.transaction() as conn:
        conn.executemany("insert into more values (?)", [(3,), (1,)])
    assert _numbers(database) == [1]
    database.close()
    reopened = Database(file, SCHEMA)
    assert _numbers(reopened) == [1]
    reopened.close()


def test_every_thread_has_a_connection_of_its_own(file: Path) -> None:
    database = Database(file, SCHEMA)
    barrier = threading.Barrier(4)

    def insert(number: int) -> int:
        barrier.wait()
        with database.transaction() as conn:
            conn.execute("insert into more values (?)", (number,))
        return id(database.connection)

    with ThreadPoolExecutor(4) as pool:
        used = list(pool.map(insert, range(4)))
    assert len(set(used)) == 4
    assert _numbers(database) == [0, 1, 2, 3]
    database.close()


def test_connections_of_ended_threads_are_closed(file: Path) -> None:
    database = Database(file, SCHEMA)
    found: list[sqlite3.Connection] = []
    for _ in range(3):
        thread = threading.Thread(target=lambda: found.append(database.connection))
        thread.start()
        thread.join()
    for connection in found[:-1]:
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            connection.execute("select 1")
    database.close()


def test_a_reader_sees_what_was_committed_when_it_looked(file: Path) -> None:
    writer, reader = Database(file, SCHEMA), Database(file, SCHEMA)
    with writer.transaction() as conn:
        conn.execute("insert into more values (1)")
        assert _numbers(reader) == []
    assert _numbers(reader) == [1]
    writer.close()
    reader.close()


def test_many_may_create_it_at_once(file: Path) -> None:
    barrier = threading.Barrier(8)

    def create(number: int) -> None:
        barrier.wait()
        database = Database(file, SCHEMA)
        with database.transaction() as conn:
            conn.execute("insert into more values (?)", (number,))
        database.close()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(create, range(8)))
    database = Database(file, SCHEMA)
    assert _numbers(database) == list(range(8))
    database.close()
    assert os.listdir(file.parent) == [file.name]


def test_readonly_writes_nothing(file: Path) -> None:
    Database(file, SCHEMA).close()
    database = Database(file, readonly=True)
    assert _numbers(database) == []
    with pytest.raises(StoreAccessError, match="read-only") as caught:
        database.connection.execute("insert into more values (1)")
    assert os.fspath(file) in str(caught.value)
    assert caught.value.hint
    database.close()


def test_readonly_needs_no_right_to_write(file: Path) -> None:
    database = Database(file, SCHEMA)
    with database.transaction() as conn:
        conn.execute("insert into more values (1)")
    database.close()
    file.chmod(0o444)
    file.parent.chmod(0o555)
    reader = Database(file, readonly=True)
    assert _numbers(reader) == [1]
    reader.close()
    file.parent.chmod(0o755)


def test_a_missing_file_is_not_made_by_a_reader(file: Path) -> None:
    with pytest.raises(StoreAccessError, match="cannot open"):
        Database(file, readonly=True)
    assert not file.exists()


def test_a_missing_directory_is_named(file: Path) -> None:
    with pytest.raises(StoreAccessError, match=r"cannot make .*/none/db\.sqlite"):
        Database(file.parent / "none" / "db.sqlite")


def test_a_newer_format_is_refused_and_untouched(file: Path) -> None:
    Database(file, SCHEMA).close()
    _raw(file, f"pragma user_version = {VERSION + 1}")
    before = file.read_bytes()
    with pytest.raises(StoreFormatError, match=f"this eka knows version {VERSION}") as caught:
        Database(file, SCHEMA)
    assert caught.value.hint
    assert file.read_bytes() == before


def test_a_database_of_something_else_is_refused(file: Path) -> None:
    _raw(file, "create table theirs (x)")
    with pytest.raises(StoreFormatError, match="not the database of an eka store"):
        Database(file, SCHEMA)


def test_a_file_that_is_no_database_is_refused(file: Path) -> None:
    file.write_bytes(b"something else\n" * 100)
    with pytest.raises(StoreCorrupt, match="not a database") as caught:
        Database(file, SCHEMA)
    assert os.fspath(file) in str(caught.value)


def test_a_full_database_rolls_back_and_says_so(file: Path) -> None:
    database = Database(file, SCHEMA)
    # A limit on pages gives the very error that a full disk gives.
    pages = database.connection.execute("pragma page_count").fetchone()[0]
    database.connection.execute(f"pragma max_page_count = {pages}")
    with pytest.raises(StoreAccessError, match="the disk is full"), database.transaction() as conn:
        conn.executemany("insert into more values (?)", ((number,) for number in range(10_000)))
    assert _numbers(database) == []
    database.close()


def test_a_copy_of_the_file_is_a_database(file: Path) -> None:
    database = Database(file, SCHEMA)
    with database.transaction() as conn:
        conn.execute("insert into more values (1)")
    database.close()
    shutil.copy(file, file.with_name("copy"))
    copy = Database(file.with_name("copy"), SCHEMA)
    assert _numbers(copy) == [1]
    copy.close()


LOOK_UP = of_digests("i, data", "directory")


def _with_directories(file: Path, digests: list[bytes]) -> Database:
    database = Database(file, SCHEMA)
    rows = [(digest, digest[:3]) for digest in digests]
    database.connection.executemany("insert into directory (digest, data) values (?, ?)", rows)
    return database


def test_many_digests_are_looked_up_in_their_order(file: Path) -> None:
    digests = [os.urandom(32) for _ in range(AT_ONCE)]
    database = _with_directories(file, digests[::2])
    expected = [(i, digest[:3]) for i, digest in enumerate(digests) if i % 2 == 0]
    assert database.look_up(LOOK_UP, digests) == expected
    twice = [digests[2], digests[1], digests[0], digests[2]]
    assert [i for i, _ in database.look_up(LOOK_UP, twice)] == [0, 2, 3]
    assert database.look_up(LOOK_UP, []) == []
    database.close()


def test_looking_up_survives_a_transaction_that_is_taken_back(file: Path) -> None:
    [digest] = digests = [os.urandom(32)]
    database = _with_directories(file, digests)

    def look_up_and_fail() -> None:
        assert database.look_up(LOOK_UP, digests) == [(0, digest[:3])]
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), database.transaction():
        look_up_and_fail()
    assert database.look_up(LOOK_UP, digests) == [(0, digest[:3])]
    database.close()


def test_looking_up_in_the_middle_of_another_statement(file: Path) -> None:
    digests = [os.urandom(32) for _ in range(3)]
    database = _with_directories(file, digests)
    rows = database.connection.execute("select digest from directory order by data, random()")
    seen = {digest for (digest,) in rows if database.look_up(LOOK_UP, digests)}
    assert seen == set(digests)
    database.close()


def test_a_store_that_is_only_read_is_looked_up_in(file: Path) -> None:
    digests = [os.urandom(32)]
    _with_directories(file, digests).close()
    database = Database(file, readonly=True)
    assert len(database.look_up(LOOK_UP, digests)) == 1
    database.close()
