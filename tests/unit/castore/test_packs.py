"""Packs: what was appended is there, nobody writes where another does, and gaps are given back."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eka_runtime.castore import packs
from eka_runtime.castore.packs import HEADER, Appender, PackReader, pack_name, reclaim
from eka_runtime.errors import StoreCorrupt
from eka_runtime.linux.syscalls import punch_hole
from tests.requirements import lacking
from tests.unit.castore.local import file_limit, running, temporary

BLOCK = 4096
MIB = 1 << 20


@pytest.fixture
def appender(tmp_path: Path) -> Iterator[Appender]:
    opened = Appender(tmp_path)
    yield opened
    opened.reset()


def _append(directory: Path, *contents: bytes) -> list[tuple[int, int]]:
    """As one process does that comes, commits, and goes."""
    appender = Appender(directory)
    places = [_one(appender, data) for data in contents]
    appender.drain()
    appender.keep()
    appender.reset()
    return places


def _one(appender: Appender, data: bytes) -> tuple[int, int]:
    pack, [start] = appender.append([data])
    return pack, start


def _read(directory: Path, place: tuple[int, int], size: int) -> bytes:
    with closing(PackReader(directory)) as reader:
        return reader.read(*place, size)


def test_a_pack_says_what_it_is(tmp_path: Path) -> None:
    [(pack, start)] = _append(tmp_path, b"contents")
    assert os.listdir(tmp_path) == [pack_name(pack)]
    assert (tmp_path / pack_name(pack)).read_bytes() == b"eka-pack 1\n\0\0\0\0\0contents"
    assert start == len(HEADER) == 16
    assert len(pack_name(0)) == len(pack_name((1 << 48) - 1)) == 12


def test_nothing_is_made_before_it_is_needed(tmp_path: Path) -> None:
    appender = Appender(tmp_path)
    appender.drain()
    appender.keep()
    appender.reset()
    assert os.listdir(tmp_path) == []


def test_empty_contents_have_a_place(tmp_path: Path) -> None:
    places = _append(tmp_path, b"", b"", b"x", b"")
    assert [_read(tmp_path, place, size) for place, size in zip(places, (0, 0, 1, 0), strict=True)]
    assert places[0] == places[1]


# Sizes around those at which buffers are handed over, and many small ones.
_SIZES = st.lists(
    st.one_of(st.integers(0, 300), st.integers(MIB - 20, MIB + 20), st.integers(60_000, 70_000)),
    max_size=30,
)
_STEPS = st.sampled_from(["drain", "keep", "reset", "nothing"])


@given(st.lists(st.tuples(_SIZES, _STEPS), max_size=6), st.sampled_from([200, MIB, 1 << 28]))
def test_what_was_drained_and_kept_is_there(
    rounds: list[tuple[list[int], str]], pack_max: int
) -> None:
    with pytest.MonkeyPatch.context() as patch, temporary() as directory:
        patch.setattr(packs, "PACK_MAX", pack_max)
        appender, number = Appender(directory), 0
        written: dict[tuple[int, int], bytes] = {}
        for sizes, step in rounds:
            for size in sizes:
                number += 1
                data = number.to_bytes(8, "little") * (size // 8 + 1)
                half = len(data) // 2
                pack, starts = appender.append([data[:half], data[half:], b""])
                assert starts == [starts[0], starts[0] + half, starts[0] + len(data)]
                assert (pack, starts[0]) not in written
                written[pack, starts[0]] = data
            appender.drain()
            if step == "keep":
                appender.keep()
            elif step == "reset":
                appender.keep()
                appender.reset()
        with closing(PackReader(directory)) as reader:
            for place, data in written.items():
                assert reader.read(*place, len(data)) == data
        appender.keep()
        appender.reset()
        for name in os.listdir(directory):
            starts = sorted(start for pack, start in written if pack_name(pack) == name)
            assert starts[0] == len(HEADER)


def test_a_reset_takes_back_what_was_not_kept(tmp_path: Path, appender: Appender) -> None:
    place = _one(appender, b"kept")
    appender.drain()
    appender.keep()
    # More than is buffered, so that some of it was written in the background.
    for _ in range(3):
        _one(appender, bytes(MIB))
    resets = appender.resets
    appender.reset()
    assert appender.resets == resets + 1
    file = tmp_path / pack_name(place[0])
    assert file.read_bytes() == HEADER + b"kept"
    assert _one(appender, b"more") == (place[0], len(HEADER) + 4)
    appender.drain()
    assert file.read_bytes() == HEADER + b"keptmore"


@pytest.mark.parametrize("size", [100, 3 * MIB], ids=["in-drain", "in-the-background"])
def test_an_error_lasts_until_the_reset(tmp_path: Path, appender: Appender, size: int) -> None:
    place = _one(appender, b"kept")
    appender.drain()
    appender.keep()

    def write() -> None:
        for _ in range(3):
            _one(appender, bytes(size))
        appender.drain()

    with file_limit(64), pytest.raises(OSError, match="File too large"):
        write()
    for _ in range(2):
        with pytest.raises(OSError, match="File too large"):
            appender.drain()
    assert appender.failed
    appender.reset()
    assert _one(appender, b"next") == (place[0], len(HEADER) + 4)
    appender.drain()
    assert _read(tmp_path, place, 8) == b"keptnext"


def test_a_header_that_cannot_be_written(tmp_path: Path, appender: Appender) -> None:
    with file_limit(0), pytest.raises(OSError, match="File too large"):
        _one(appender, b"x")
    # No error of what was appended: nothing was.
    appender.drain()
    assert not appender.failed
    [place] = _append(tmp_path, b"next")
    assert _read(tmp_path, place, 4) == b"next"


def test_a_full_pack_is_left_for_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packs, "PACK_MAX", 1000)
    contents = [b"%d" % number * 300 for number in range(10)]
    places = _append(tmp_path, *contents)
    assert len({pack for pack, _ in places}) == len(os.listdir(tmp_path)) > 2
    for place, data in zip(places, contents, strict=True):
        assert _read(tmp_path, place, len(data)) == data
    assert not {pack for pack, _ in _append(tmp_path, b"more")} & {
        pack for pack, start in places if start + 300 >= 1000
    }


def test_more_packs_than_stay_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packs, "PACK_MAX", len(HEADER) + 1)
    contents = [b"%03d" % number for number in range(150)]
    places = _append(tmp_path, *contents)
    assert len({pack for pack, _ in places}) == 150
    before = len(os.listdir("/proc/self/fd"))
    with closing(PackReader(tmp_path)) as reader:
        for _ in range(2):
            assert [reader.read(*place, 3) for place in places] == contents
        assert len(os.listdir("/proc/self/fd")) - before <= 100
    assert len(os.listdir("/proc/self/fd")) == before


def test_what_is_not_there_is_damage(tmp_path: Path) -> None:
    [(pack, start)] = _append(tmp_path, b"contents")
    with closing(PackReader(tmp_path)) as reader:
        for size in (9, 1 << 16):
            with pytest.raises(StoreCorrupt, match=f"{pack_name(pack)} ends before byte"):
                reader.read(pack, start, size)
        with pytest.raises(StoreCorrupt, match="000000000001 is missing") as caught:
            reader.read(1, start, 8)
        assert caught.value.hint


# Who appends, and to what.


def test_two_at_once_have_different_packs(tmp_path: Path) -> None:
    first, second = Appender(tmp_path), Appender(tmp_path)
    packs_of = [_one(appender, b"x")[0] for appender in (first, second)]
    assert len(set(packs_of)) == 2
    first.reset()
    second.reset()
    assert _append(tmp_path, b"y")[0][0] in packs_of


_APPENDER = """
    from pathlib import Path
    from eka_runtime.castore.packs import Appender

    appender = Appender(Path(sys.argv[2]))
    appender.append([b"of another process"])
    appender.drain()
    print("ready", flush=True)
    sys.stdin.read()
"""


def test_processes_have_different_packs(tmp_path: Path, appender: Appender) -> None:
    with running(_APPENDER, tmp_path), running(_APPENDER, tmp_path):
        names = set(os.listdir(tmp_path))
        assert len(names) == 2
        assert pack_name(_one(appender, b"x")[0]) not in names


def test_the_pack_of_a_killed_process_is_taken_behind_what_it_left(
    tmp_path: Path, appender: Appender
) -> None:
    with running(_APPENDER, tmp_path) as process:
        process.kill()
        process.wait()
        [name] = os.listdir(tmp_path)
    pack, start = _one(appender, b"x")
    assert pack_name(pack) == name
    assert start == len(HEADER) + len(b"of another process")


def test_the_next_process_takes_the_pack_again(tmp_path: Path) -> None:
    places = [_append(tmp_path, b"x" * number)[0] for number in range(1, 5)]
    assert len({pack for pack, _ in places}) == 1
    assert [start for _, start in places] == [16, 17, 19, 22]


@pytest.mark.parametrize("odd", ["short", "other name", "directory", "vanished"])
def test_what_is_no_pack_with_room_is_not_taken(
    tmp_path: Path, appender: Appender, odd: str
) -> None:
    if odd == "short":
        (tmp_path / "00000000abcd").write_bytes(HEADER[:7])
    elif odd == "other name":
        (tmp_path / "notes").write_bytes(HEADER)
        (tmp_path / "notes-in-all").write_bytes(HEADER)
    elif odd == "directory":
        (tmp_path / "00000000abcd").mkdir()
    else:
        # Stands for one that a collection unlinks between two looks.
        (tmp_path / "00000000abcd").symlink_to("nothing")
    before = set(os.listdir(tmp_path))
    place = _one(appender, b"x")
    appender.drain()
    assert pack_name(place[0]) not in before
    assert _read(tmp_path, place, 1) == b"x"


# Giving back what is not used.


def _allocated(file: Path) -> int:
    return file.stat().st_blocks * 512


def _pack(directory: Path, *contents: bytes) -> tuple[Path, list[tuple[int, int]]]:
    places = _append(directory, *contents)
    file = directory / pack_name(places[0][0])
    os.sync()
    spans = [(start, start + len(data)) for (_, start), data in zip(places, contents, strict=True)]
    return file, spans


def _punches(directory: Path) -> bool:
    """Whether the file system knows holes."""
    with open(directory / "probe", "wb") as file:
        try:
            punch_hole(file.fileno(), 0, BLOCK)
        except OSError:
            return False
        finally:
            os.unlink(file.name)
    return True


def test_gaps_become_holes(tmp_path: Path) -> None:
    if not _punches(tmp_path):
        lacking("the file system of the temporary directory knows no holes")
    contents = [os.urandom(20 * BLOCK + 7) for _ in range(7)]
    file, spans = _pack(tmp_path, *contents)
    before = _allocated(file)
    freed = reclaim(file, [spans[1], spans[4]])
    # Every gap but for the blocks at its edges.
    assert freed is not None
    assert freed >= 4 * 19 * BLOCK
    assert before - _allocated(file) == freed
    data = file.read_bytes()
    for number in (1, 4):
        start, end = spans[number]
        assert data[start:end] == contents[number]
    # What is behind the last was never committed; the next to append begins there.
    assert len(data) == spans[4][1]
    assert data.startswith(HEADER)
    assert _append(tmp_path, b"next")[0][1] == spans[4][1]


@given(st.data())
def test_whatever_is_used_survives(data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(0, 3 * BLOCK), min_size=1, max_size=20))
    kept = data.draw(st.sets(st.integers(0, len(sizes) - 1)))
    contents = [bytes([number + 1]) * size for number, size in enumerate(sizes)]
    with temporary() as directory:
        file, spans = _pack(directory, *contents)
        used = [spans[number] for number in sorted(kept)]
        assert reclaim(file, iter(used)) is not None
        assert file.exists() == bool(used)
        for number in kept:
            start, end = spans[number]
            assert file.read_bytes()[start:end] == contents[number]
        # Once more changes nothing.
        if used:
            before = file.read_bytes()
            assert reclaim(file, used) == 0
            assert file.read_bytes() == before


def test_a_pack_of_which_nothing_is_used_goes(tmp_path: Path) -> None:
    file, _ = _pack(tmp_path, bytes(100_000))
    before = _allocated(file)
    assert reclaim(file, []) == before >= 100_000
    assert os.listdir(tmp_path) == []
    assert reclaim(file, []) == 0


def test_nothing_is_taken_from_one_who_appends(tmp_path: Path, appender: Appender) -> None:
    pack, _ = _one(appender, bytes(100_000))
    appender.drain()
    file = tmp_path / pack_name(pack)

    # Rows are not even looked at: there may be more of them soon.
    assert reclaim(file, map(pytest.fail, ["looked at"])) is None
    with running(_APPENDER, tmp_path):
        for name in os.listdir(tmp_path):
            assert reclaim(tmp_path / name, []) is None
    appender.keep()
    appender.reset()
    assert file.stat().st_size == len(HEADER) + 100_000


def _refuse(*args: object) -> None:
    raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))


@pytest.mark.parametrize("punch", [_refuse, punch_hole], ids=["no-holes", "holes"])
def test_reading_goes_on_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, punch: Callable[..., None]
) -> None:
    monkeypatch.setattr(packs, "punch_hole", punch)
    contents = [os.urandom(10 * BLOCK) for _ in range(3)]
    file, spans = _pack(tmp_path, *contents)
    pack = int(file.name, 16)
    with closing(PackReader(tmp_path)) as reader:
        assert reader.read(pack, spans[2][0], 10 * BLOCK) == contents[2]
        assert reclaim(file, spans[2:]) is not None
        assert reader.read(pack, spans[2][0], 10 * BLOCK) == contents[2]
        reclaim(file, [])
        # One that has it open still reads; everybody else is told.
        assert reader.read(pack, spans[2][0], 10 * BLOCK) == contents[2]
    with pytest.raises(StoreCorrupt, match="is missing"):
        _read(tmp_path, (pack, spans[2][0]), 1)
