"""Additions that are answered before they are committed: seen by everyone, and never half there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from eka_runtime.daemon.deferred import EAGER, MANY, Deferred
from eka_runtime.daemon.protocol import Op
from eka_runtime.nix.path import StorePath
from eka_runtime.store.store import Store
from tests.unit.castore.local import file_limit
from tests.unit.daemon.client import Client, Refused

_ABSENT = "/nix/store/" + "0" * 32 + "-absent"


def _add(client: Client, number: int, *references: str) -> str:
    request = {"name": f"n{number}", "method": "text:sha256", "repair": False}
    request |= {"references": list(references)}
    return str(client.ask(Op.AddToStore, request, b"%d" % number)["info"]["path"])


def test_all_are_valid_when_anybody_asks(place: Path) -> None:
    with Client(place) as client, Client(place) as other:
        paths = [_add(client, 0)]
        for number in range(1, MANY + 20):
            paths.append(_add(client, number, paths[-1]))
        assert other.ask(Op.QueryAllValidPaths)["paths"] == sorted(paths)
        assert client.ask(Op.QueryReferences, {"path": paths[-1]}) == {"paths": [paths[-2]]}
        assert [_add(client, number) for number in (0, 0)] == [paths[0]] * 2


def test_all_are_valid_when_the_client_has_gone(place: Path, store_dir: Path) -> None:
    with Client(place) as client:
        paths = [_add(client, number) for number in range(2 * EAGER)]
    with Client(place) as other:
        assert other.ask(Op.QueryAllValidPaths)["paths"] == sorted(paths)
    with Store.open(store_dir) as store:
        assert store.paths.count() == len(paths)


def test_each_can_be_read_before_it_is_answered(place: Path, store_dir: Path) -> None:
    with Client(place) as client:
        for number in range(3 * EAGER):
            path = StorePath.parse(_add(client, number))
            shown = store_dir / "view/bind/nix/store" / path.base
            assert shown.read_bytes() == b"%d" % number
            assert os.lstat(shown).st_mode & 0o7777 == 0o444
            assert os.lstat(shown).st_mtime == 1


def test_references_have_to_be_valid(place: Path) -> None:
    with Client(place) as client:
        for number in range(2 * EAGER):
            _add(client, number)
        with pytest.raises(Refused, match="not in the store"):
            _add(client, 100, _ABSENT)
        assert _ABSENT not in client.ask(Op.QueryAllValidPaths)["paths"]


def test_what_is_lost_is_told_once(store: Store) -> None:
    from eka_runtime.castore.digest import B3Digest
    from eka_runtime.castore.node import FileNode
    from eka_runtime.errors import StoreAccessError
    from eka_runtime.store.pathinfo import PathInfo

    data = b"x" * 1000
    path = StorePath("0" * 32, "lost")
    info = PathInfo(path, FileNode(B3Digest.of(data), len(data), False), bytes(32), 1)
    deferred = Deferred(store)
    deferred.add(info, data)
    assert deferred.get(path) == info
    with file_limit(0):
        deferred.commit()
    assert deferred.get(path) is None
    with pytest.raises(StoreAccessError):
        deferred.check()
    deferred.check()
