"""Path infos as objects: names, round trips, damage, and two writers. Our own extension."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings

from eka_runtime.errors import FormatError, HashMismatch, StoreCorrupt
from eka_runtime.store.messages import decode_path_info, encode_path_info
from eka_runtime.store.objectstore_paths import MAX_SIZE, ObjectPathInfos
from eka_runtime.store.pathinfo import PathInfo
from tests.stores import link_info
from tests.unit.castore.local import temporary
from tests.unit.store.path_infos import path_infos

INFO = link_info("target")


@pytest.fixture
def paths(tmp_path: Path) -> ObjectPathInfos:
    return ObjectPathInfos.from_url(f"objectstore+file://{tmp_path}/base")


def test_where_a_path_info_lies(paths: ObjectPathInfos, tmp_path: Path) -> None:
    assert paths.by_hash(INFO.path.hash) is None
    assert paths.put(INFO) == INFO
    file = tmp_path / "base" / "pathinfo" / INFO.path.hash
    assert file.read_bytes() == encode_path_info(INFO)
    assert paths.by_hash(INFO.path.hash) == INFO
    assert list(paths.all()) == [INFO]


@settings(max_examples=30, deadline=None)
@given(path_infos)
def test_what_is_put_is_what_a_message_holds(info: PathInfo) -> None:
    with temporary() as place:
        paths = ObjectPathInfos.from_url(f"objectstore+file://{place}")
        try:
            held = decode_path_info(encode_path_info(info))
        except FormatError:
            with pytest.raises(FormatError):
                paths.put(info)
            return
        assert paths.put(info) == held
        assert list(paths.all()) == [held]


def test_the_first_writer_wins(paths: ObjectPathInfos) -> None:
    paths.put(INFO)
    signed = INFO._replace(signatures=("k:" + "A" * 86 + "==",))
    assert paths.put(signed) == INFO
    with pytest.raises(HashMismatch, match="is there already"):
        paths.put(INFO._replace(nar_hash=bytes(32)))
    assert paths.by_hash(INFO.path.hash) == INFO


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "is damaged"),
        (b"\xff", "is damaged"),
        (encode_path_info(link_info("another")), "is that of `/nix/store/"),
        (bytes(MAX_SIZE + 1), "bytes"),
    ],
)
def test_damage_is_found(paths: ObjectPathInfos, tmp_path: Path, data: bytes, problem: str) -> None:
    file = tmp_path / "base" / "pathinfo" / INFO.path.hash
    file.parent.mkdir(parents=True)
    file.write_bytes(data)
    with pytest.raises(StoreCorrupt, match=problem):
        paths.by_hash(INFO.path.hash)
    with pytest.raises(StoreCorrupt, match=problem):
        paths.put(INFO)


def test_other_objects_are_passed_over(paths: ObjectPathInfos, tmp_path: Path) -> None:
    paths.put(INFO)
    (tmp_path / "base" / "pathinfo" / "readme").write_bytes(b"")
    assert list(paths.all()) == [INFO]
