"""`eka store copy` as typed: between stores, object stores and servers; stdout, status, advice."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from eka.cli import cli
from eka_runtime.errors import MissingExtra
from eka_runtime.nix.export import ExportItem
from eka_runtime.nix.path import StorePath
from eka_runtime.store.local_services import LocalServices
from eka_runtime.store.store import Store
from tests.requirements import lacking
from tests.stores import assert_clean, problems, store_dir
from tests.unit.nix.trees import File, Link, directory
from tests.unit.store.test_transfer import _import, _stream

__all__ = ["store_dir"]

A, B = (StorePath(letter * 32, letter) for letter in "ab")
MANY = 150
ABSENT = StorePath("0" * 32, "absent")
TREE = directory(
    run=File(b"#!/bin/sh\n", executable=True), big=File(b"b" * 300_000), l=Link(b"run")
)

Eka = Callable[..., Result]


@pytest.fixture
def eka(store_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Eka:
    """Runs `eka store copy ARG…` on a store with b -> a, in a directory without configuration."""
    with Store.open(store_dir) as store:
        _import(store, _stream((ExportItem(A, (), None), TREE), (ExportItem(B, (A,), None), TREE)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for variable in ("BLOB_SERVICE_ADDR", "DIRECTORY_SERVICE_ADDR", "PATH_INFO_SERVICE_ADDR"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.delenv("EXPERIMENTAL_STORE_COMPOSITION", raising=False)

    def run(*arguments: object, store: Path = store_dir, before: tuple[str, ...] = ()) -> Result:
        words = [*before, "store", "--store", str(store), "copy", *map(str, arguments)]
        return CliRunner().invoke(cli, words, prog_name="eka")

    return run


def lines(result: Result) -> list[str]:
    assert result.exit_code == 0, result.output
    return result.stdout.splitlines()


def fails(result: Result, status: int, *texts: str) -> None:
    assert result.exit_code == status, result.output
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    for text in ("error: ", "hint: ", *texts):
        assert text in result.stderr


PLACES = ["other", "objectstore+file://TMP/objects"]


@pytest.mark.parametrize("place", PLACES)
def test_there_and_back(eka: Eka, tmp_path: Path, place: str) -> None:
    url = place.replace("TMP", str(tmp_path))
    there = eka("--to", url, B)
    assert lines(there) == [str(A), str(B)]
    assert re.fullmatch(r"copying 2 paths \(\S+ KiB\) (to|from) .*\n", there.stderr)
    second = tmp_path / "second"
    assert lines(eka("--from", url, A.base, store=second)) == [str(A)]
    assert lines(eka("--from", url, B, A, store=second)) == [str(B)]
    again = eka("--from", url, B, store=second)
    assert (lines(again), again.stderr) == ([], "nothing to copy: all of it is there already\n")
    assert lines(eka("--to", url, B, store=second)) == []
    assert_clean(second)
    if (tmp_path / "other").exists():
        assert_clean(tmp_path / "other")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """The URL of a store that is empty at first; a second one has another socket."""
    try:
        from eka_runtime.store.served import serve
    except MissingExtra as error:
        lacking(str(error))
    with (
        Store.open(tmp_path / "served") as store,
        serve(LocalServices.of(store), f"unix:{tmp_path}/s") as url,
    ):
        yield url
    assert_clean(tmp_path / "served")


def test_there_and_back_over_a_socket(eka: Eka, server: str, tmp_path: Path) -> None:
    assert lines(eka("--to", server, B)) == [str(A), str(B)]
    assert lines(eka("--to", server, B)) == []
    second = tmp_path / "second"
    assert lines(eka("--from", server, B, store=second)) == [str(A), str(B)]
    assert_clean(second)


def test_from_an_object_store_to_a_server_and_on(eka: Eka, server: str, tmp_path: Path) -> None:
    """Digests, sizes and hashes are the same wherever a path was."""
    url = f"objectstore+file://{tmp_path}/objects"
    lines(eka("--to", url, B))
    second, third = tmp_path / "second", tmp_path / "third"
    assert lines(eka("--from", url, B, store=second)) == [str(A), str(B)]
    assert lines(eka("--to", server, B, store=second)) == [str(A), str(B)]
    assert lines(eka("--from", server, B, store=third)) == [str(A), str(B)]
    with Store.open(tmp_path / "store") as first, Store.open(third) as last:
        for path in (A, B):
            assert first.info(path)._replace(registered=0) == last.info(path)._replace(registered=0)


def test_json_and_quiet(eka: Eka, tmp_path: Path) -> None:
    records: list[Any] = [json.loads(line) for line in lines(eka("--json", "--to", "other", B))]
    assert records == [{"path": str(A)}, {"path": str(B)}]
    assert eka("-q", "--to", "third", B).stderr == ""


def test_services_in_force(eka: Eka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fails(eka(B), 2, "no far services are configured", "[services] of eka.toml")
    url = f"objectstore+file://{tmp_path}/objects"
    (tmp_path / "config" / "eka").mkdir(parents=True)
    (tmp_path / "config" / "eka" / "eka.toml").write_text(f'[services]\nurl = "{url}"\n')
    assert lines(eka("--to", "services:", A)) == [str(A)]
    assert lines(eka(A, store=tmp_path / "second")) == [str(A)]
    assert lines(eka("--from", "services:", A, store=tmp_path / "third")) == [str(A)]
    monkeypatch.setenv("BLOB_SERVICE_ADDR", f"objectstore+file://{tmp_path}/empty")
    fails(eka(A, store=tmp_path / "fourth"), 25, "blob ")


@pytest.mark.parametrize("way", ["--from", "--to"])
def test_what_is_not_there(eka: Eka, tmp_path: Path, way: str) -> None:
    place = tmp_path / "other"
    lines(eka("--to", place, A))
    for url in (place, f"objectstore+file://{tmp_path}/objects"):
        fails(eka(way, url, A, ABSENT), 20, f"`{ABSENT}` is n")


def test_stores_that_do_not_exist(eka: Eka, tmp_path: Path) -> None:
    fails(eka("--from", "absent", A), 22, "there is no store at")
    fails(eka("--to", "other", A, store=tmp_path / "absent"), 22, "there is no store at")
    fails(eka("--to", "other", ABSENT), 20)
    assert not (tmp_path / "absent").exists()
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("arguments", "texts"),
    [
        (["--from", "x", "--to", "y", A], ["one of them", "copy in two steps"]),
        (["--from", "", A], ["an empty URL"]),
        (["--from", "file:x", A], ["does not name a directory", "file:///DIR"]),
        (["--from", "file://host/x", A], ["does not name a directory"]),
        (["--from", "ftp://x", A], ["is not the address", "grpc+http://HOST:PORT"]),
        (["--to", "nix+https://cache.example.org", A], ["binary cache", "without `nix+`"]),
        (["--to", "gs://bucket", A], ["objectstore+gs://bucket"]),
        (["--from", "grpc+unix://s", A], ["one slash, or three"]),
        (["--from", "x", "nonsense"], ["is not a store path"]),
        (["--from", "x"], ["Missing argument"]),
    ],
)
def test_command_lines_that_make_no_sense(
    eka: Eka, arguments: list[object], texts: list[str]
) -> None:
    fails(eka(*arguments), 2, *texts)


def test_a_server_that_is_not_there(eka: Eka, tmp_path: Path) -> None:
    fails(eka("--from", f"grpc+unix:{tmp_path}/s", ABSENT), 28, "cannot reach grpc+unix:")
    fails(eka("--to", f"grpc+unix:{tmp_path}/s", A), 28, "check the URL and that the service runs")


def test_offline_means_this_host(eka: Eka, tmp_path: Path) -> None:
    offline = ("--offline",)
    fails(eka("--from", "grpc+http://localhost:1", A, before=offline), 2, "`--offline` forbids")
    url = f"objectstore+file://{tmp_path}/objects"
    assert lines(eka("--to", url, A, before=offline)) == [str(A)]
    assert lines(eka("--to", tmp_path / "other", A, before=offline)) == [str(A)]


def test_a_damaged_object_store_leaves_no_path(eka: Eka, tmp_path: Path) -> None:
    lines(eka("--to", f"objectstore+file://{tmp_path}/objects", B))
    chunks = [place for place in (tmp_path / "objects" / "chunks").rglob("*") if place.is_file()]
    largest = max(chunks, key=os.path.getsize)
    largest.unlink()
    second = tmp_path / "second"
    result = eka("--from", f"objectstore+file://{tmp_path}/objects", B, store=second)
    fails(result, 25)
    with Store.open(second) as store:
        assert list(store.paths.all()) == []


@pytest.fixture
def many(eka: Eka, store_dir: Path, tmp_path: Path) -> tuple[str, str]:
    """The root of a closure of MANY paths, and the URL of an object store that has it."""
    paths = [StorePath(f"{number:032}", "one-of-many") for number in range(MANY)]
    items = [
        (ExportItem(path, tuple(paths[max(0, at - 3) : at]), None), File(b"%d" % at * 5000))
        for at, path in enumerate(paths)
    ]
    with Store.open(store_dir) as store:
        _import(store, _stream(*items))
    url = f"objectstore+file://{tmp_path}/objects"
    lines(eka("--to", url, paths[-1]))
    return str(paths[-1]), url


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_an_end_in_the_middle_loses_nothing(
    eka: Eka, many: tuple[str, str], tmp_path: Path, end: signal.Signals
) -> None:
    root, url = many
    second = tmp_path / "second"
    words = ["store", "--store", str(second), "copy", "--from", url, root]
    pipe = subprocess.PIPE
    command = [sys.executable, "-m", "eka", *words]
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        printed = [process.stdout.readline() for _ in range(3)]
        process.send_signal(end)
        printed += process.stdout.readlines()
        assert process.wait() == (130 if end == signal.SIGINT else -9)
        assert "Traceback" not in process.stderr.read()
    if end == signal.SIGINT:
        assert_clean(second)
    with Store.open(second) as store:
        there = {f"{info.path}\n" for info in store.paths.all()}
        assert problems(store) == []
    assert set(printed) <= there
    assert 3 <= len(there) < MANY
    assert len(lines(eka("--from", url, root, store=second))) == MANY - len(there)
