"""The cache of bundles and launch records: what a power cut or time did to it is put right."""

from __future__ import annotations

import fcntl
import marshal
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from eka.bundle_cache import DAY, EVALUATIONS, KEPT, put, tidy, tidy_daily
from eka_runtime.oci.bundle import Bundle, ShellFiles, ShellSource, compile_bundle, is_whole
from eka_runtime.store.roots import bundle_root
from eka_runtime.store.store import Store
from tests.stores import assert_clean
from tests.unit.oci.requests import request


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    for name in ("bundle", "launch"):
        (tmp_path / "cache" / name).mkdir(parents=True)
    return tmp_path / "cache"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store") as opened:
        yield opened
    assert_clean(tmp_path / "store")


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    shell = tmp_path / "busybox"
    shell.write_bytes(b"static\n")
    shell.chmod(0o755)
    source = ShellSource("host", os.fspath(shell))
    return compile_bundle(request(shell=ShellFiles(source, source)))


def age(place: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(place, (then, then))


def empty_config(place: Path) -> None:
    os.truncate(place / "config.json", 0)


def empty_file(place: Path) -> None:
    os.truncate(place / "rootfs/etc/passwd", 0)


def no_file(place: Path) -> None:
    (place / "rootfs/etc/group").unlink()


def no_mount_point(place: Path) -> None:
    (place / "rootfs/proc").rmdir()


def half_a_shell(place: Path) -> None:
    (place / "rootfs/bin/sh").unlink()
    (place / "rootfs/bin/sh").write_bytes(b"st")


def nothing_in_it(place: Path) -> None:
    (place / "rootfs").rename(place.with_name(".away"))


@pytest.mark.parametrize(
    "harm", [empty_config, empty_file, no_file, no_mount_point, half_a_shell, nothing_in_it]
)
def test_what_a_power_cut_left_is_written_anew(
    cache: Path, bundle: Bundle, harm: Callable[[Path], None]
) -> None:
    place = cache / "bundle" / "b"
    assert put(bundle, place)
    assert not put(bundle, place)
    harm(place)
    assert not is_whole(bundle, place)
    assert put(bundle, place)
    assert is_whole(bundle, place)
    assert {name for name in os.listdir(cache / "bundle") if name != ".away"} == {"b"}


def test_what_something_runs_from_is_left_alone(cache: Path, bundle: Bundle) -> None:
    place = cache / "bundle" / "b"
    put(bundle, place)
    empty_file(place)
    with open_directory(place) as held:
        fcntl.flock(held, fcntl.LOCK_SH)
        with pytest.raises(Exception, match="is there already"):
            put(bundle, place)
        assert (place / "rootfs/etc/passwd").stat().st_size == 0


class open_directory:
    def __init__(self, place: Path) -> None:
        self._fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY)

    def __enter__(self) -> int:
        return self._fd

    def __exit__(self, *error: object) -> None:
        os.close(self._fd)


def write_record(cache: Path, name: str, bundle: Path) -> Path:
    record = cache / "launch" / name
    record.write_bytes(marshal.dumps({"bundle": os.fsencode(bundle)}))
    record.chmod(0o600)
    return record


def test_what_nobody_started_for_long_goes(cache: Path, store: Store, bundle: Bundle) -> None:
    places = [cache / "bundle" / name for name in ("old", "new", "running")]
    for place in places:
        put(bundle, place)
        store.roots.add(bundle_root(place, (), running=True))
        write_record(cache, place.name, place)
        age(place, KEPT - DAY if place.name == "new" else KEPT + DAY)
    with open_directory(places[2]) as held:
        fcntl.flock(held, fcntl.LOCK_SH)
        tidy(cache, store)
    assert sorted(os.listdir(cache / "bundle")) == ["new", "running"]
    assert sorted(os.listdir(cache / "launch")) == ["new", "running"]
    kept = {root.place for root in store.roots.all()}
    assert kept == {os.fsencode(place.resolve()) for place in places[1:]}


def test_what_is_left_of_killed_starts_goes(cache: Path, store: Store) -> None:
    for age_of, suffix in ((2 * DAY, "old"), (10, "new")):
        made = cache / "bundle" / f".bundle-{suffix}"
        (made / "bundle").mkdir(parents=True)
        age(made, age_of)
        record = write_record(cache, f".abc.{suffix}", cache)
        age(record, age_of)
    tidy(cache, store)
    assert os.listdir(cache / "bundle") == [".bundle-new"]
    assert os.listdir(cache / "launch") == [".abc.new"]


def test_records_without_a_bundle_or_any_sense_go(cache: Path, store: Store) -> None:
    write_record(cache, "a", cache / "bundle" / "none")
    (cache / "launch" / "b").write_bytes(b"")
    (cache / "launch" / "c").write_bytes(marshal.dumps(["no", "record"]))
    kept = write_record(cache, "d", cache)
    write_record(cache, "e", cache).chmod(0o666)
    tidy(cache, store)
    assert os.listdir(cache / "launch") == [kept.name]


def test_what_evaluations_kept_goes_when_it_is_old(cache: Path, store: Store) -> None:
    for name in EVALUATIONS:
        (cache / name).mkdir()
        for file, age_of in (("old", KEPT + DAY), ("new", KEPT - DAY), (".torn", 2 * DAY)):
            (cache / name / file).touch()
            age(cache / name / file, age_of)
    tidy(cache, store)
    assert {name: os.listdir(cache / name) for name in EVALUATIONS} == {
        name: ["new"] for name in EVALUATIONS
    }


def test_one_that_cannot_be_removed_keeps_no_other_one(cache: Path, store: Store) -> None:
    (cache / "evaluation" / "directory").mkdir(parents=True)
    (cache / "index").mkdir()
    (cache / "index" / "old").touch()
    for place in (cache / "evaluation" / "directory", cache / "index" / "old"):
        age(place, KEPT + 1)
    tidy(cache, store)
    assert list((cache / "index").iterdir()) == []


@pytest.mark.parametrize("name", ["launch", "bundle", *EVALUATIONS])
def test_another_directory_is_not_tidied_by_way_of_a_link(
    tmp_path: Path, store: Store, name: str
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "old").touch()
    age(tmp_path / "elsewhere" / "old", KEPT + 1)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / name).symlink_to(tmp_path / "elsewhere")
    tidy(tmp_path / "cache", store)
    assert (tmp_path / "elsewhere" / "old").exists()


def test_once_a_day(cache: Path, store: Store) -> None:
    for rounds in range(2):
        record = write_record(cache, "a", cache / "bundle" / "none")
        tidy_daily(cache, store)
        assert record.exists() == (rounds == 1)
    age(cache / "tidied", 2 * DAY)
    tidy_daily(cache, store)
    assert not record.exists()


def test_no_cache_is_no_reason_to_fail(tmp_path: Path, store: Store) -> None:
    tidy_daily(tmp_path / "none", store)
    tidy(tmp_path / "none", store)
