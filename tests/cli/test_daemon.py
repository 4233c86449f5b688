"""`eka daemon` with real Nix as its client: what it prints is what it prints with its own store."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from eka.cli import cli
from tests.daemons import Daemon, Done, Nix, daemon
from tests.stores import store_dir
from tests.unit.castore.local import temporary
from tests.unit.nix.trees import COMPLICATED, to_disk

__all__ = ["store_dir"]

_GRAPH = """
let
  a = builtins.toFile "a" "a";
  derived = name: inputs: derivation {
    inherit name inputs; system = "x86_64-linux"; builder = "/bin/sh"; src = ./tree;
  };
in derived "top" [ a (derived "middle" [ a ]) ]
"""


@pytest.fixture
def place() -> Iterator[Path]:
    with temporary() as path:
        (path / "home").mkdir()
        yield path


@pytest.fixture
def served(store_dir: Path, place: Path) -> Iterator[Daemon]:
    with daemon(store_dir, place) as running:
        yield running


@pytest.fixture
def nix(served: Daemon, place: Path) -> Nix:
    return Nix(served.url, place / "home")


@pytest.fixture
def own(place: Path) -> Nix:
    """Nix with a store of its own."""
    return Nix(f"local?root={place}/own", place / "home")


@pytest.fixture
def work(tmp_path: Path) -> Path:
    work = tmp_path / "work"
    work.mkdir()
    to_disk(COMPLICATED, work / "tree")
    (work / "file").write_text("contents\n")
    (work / "graph.nix").write_text(_GRAPH)
    return work


def _same(done: tuple[Done, Done], note: object) -> bytes:
    """What both printed, but for times."""
    ours, theirs = (
        one._replace(out=re.sub(rb'"registrationTime":\d+', b"", one.out)) for one in done
    )
    assert (ours.status, ours.out) == (theirs.status, theirs.out), (note, done)
    return ours.out


def test_nix_prints_what_it_prints_with_its_own_store(nix: Nix, own: Nix, work: Path) -> None:
    def both(command: str, data: bytes = b"") -> bytes:
        words = command.split()
        return _same(
            (nix.run(*words, data=data, cwd=work), own.run(*words, data=data, cwd=work)), command
        )

    tree = both("nix-store --add tree").decode().strip()
    flat = both("nix-store --add-fixed sha256 file").decode().strip()
    both("nix-store --add-fixed --recursive sha1 tree")
    both("nix-store --add-fixed md5 file")
    both("nix store add-path tree --name other")
    both("nix store add-file file")
    top = both("nix-instantiate graph.nix").decode().strip()
    for question in (
        f"nix-store -q --references {top}",
        f"nix-store -q --referrers {tree}",
        f"nix-store -q --requisites {top}",
        f"nix-store -q --referrers-closure {tree}",
        f"nix-store -q --hash {tree} {flat}",
        f"nix-store -q --size {tree}",
        f"nix-store -q --deriver {tree}",
        f"nix-store -q --outputs {top}",
        f"nix-store -q --binding src {top}",
        f"nix-store -q --tree {top}",
        f"nix path-info -r --json {top}",
        "nix path-info --all",
        f"nix path-info -Sh {top}",
        f"nix show-derivation -r {top}",
        f"nix store ls -lR {tree}",
        f"nix store ls --json -R {tree}",
        f"nix store cat {flat}",
        f"nix store dump-path {tree}",
        f"nix-store --export {tree}",
        f"nix-store --realise {tree} {flat}",
        f"nix-store --verify-path {tree}",
        "nix-store --verify --check-contents",
        "nix-store --optimise",
        f"nix-store --check-validity {top}",
        "nix-store --check-validity /nix/store/00000000000000000000000000000000-no",
        "nix path-info /nix/store/00000000000000000000000000000000-no",
        f"nix path-info {flat[: len('/nix/store/') + 32]}",
    ):
        both(question)
    closure = both(f"nix-store -q --requisites {top}").decode().split()
    stream = both(f"nix-store --export {' '.join(closure)}")
    assert nix.run("nix-store", "--import", data=stream).out.decode().split() == closure


def test_collecting(nix: Nix, work: Path) -> None:
    """What Nix prints; its own store is no peer here, since it looks at all processes for roots."""
    tree = nix.text("nix-store", "--add", work / "tree")
    flat = nix.text("nix-store", "--add-fixed", "sha256", work / "file")
    top = nix.text("nix-instantiate", work / "graph.nix")
    closure = nix.text("nix-store", "-qR", top).split()
    assert nix.text("nix-store", "-q", "--roots", tree) == ""
    dead = nix.text("nix-store", "--gc", "--print-dead").split()
    assert sorted(dead) == sorted({*closure, tree, flat})
    assert nix.text("nix-store", "--gc", "--print-live") == ""
    refused = nix.run("nix-store", "--delete", closure[0])
    assert refused.status == 1
    assert f"cannot delete path `{closure[0]}` since it is still alive" in refused.err
    assert nix.text("nix-store", "--delete", flat) == "1 store paths deleted, 0.00 MiB freed"
    some = nix.text("nix-store", "--gc", "--max-freed", "1")
    assert some == "1 store paths deleted, 0.00 MiB freed"
    left = len(closure) - 1
    assert nix.text("nix-store", "--gc") == f"{left} store paths deleted, 0.00 MiB freed"
    assert nix.text("nix", "path-info", "--all") == ""


def test_files_are_there_before_nix_is_told(nix: Nix, served: Daemon, work: Path) -> None:
    path = nix.text("nix-store", "--add", work / "file")
    shown = Path(f"{served.root}{path}")
    assert shown.read_text() == "contents\n"
    assert stat.S_IMODE(shown.lstat().st_mode) == 0o444
    nix.text("nix-store", "--delete", path)
    assert not os.path.lexists(shown)


def test_paths_that_came_otherwise_are_shown(
    store_dir: Path, nix: Nix, served: Daemon, work: Path
) -> None:
    words = ["--store", os.fspath(store_dir), "store", "add", os.fspath(work / "file")]
    added = CliRunner().invoke(cli, words).stdout.strip()
    assert nix.text("nix", "store", "cat", added) == "contents"


def test_no_link_is_on_the_way_to_the_files(store_dir: Path, place: Path) -> None:
    """Newer Nix (2.26) reads nothing behind one."""
    (place / "link").symlink_to(store_dir.parent)
    with daemon(place / "link" / store_dir.name, place) as running:
        shown = f"{running.root}/nix/store"
        assert os.path.isdir(shown)
        assert os.path.realpath(shown) == shown


def test_everything_is_shown_from_the_start(store_dir: Path, place: Path, work: Path) -> None:
    words = ["--store", os.fspath(store_dir), "store", "add", os.fspath(work / "tree")]
    added = CliRunner().invoke(cli, words).stdout.strip()
    with daemon(store_dir, place) as running:
        assert Path(f"{running.root}{added}").is_dir()


def test_copies_in_both_directions(nix: Nix, own: Nix, place: Path, work: Path) -> None:
    top = nix.text("nix-instantiate", work / "graph.nix")
    closure = nix.text("nix-store", "-qR", top)
    nix.text("nix", "copy", "--derivation", "--to", f"file://{place}/cache", top)
    nix.text("nix", "copy", "--derivation", "--no-check-sigs", "--to", own.url, top)
    assert own.text("nix-store", "-qR", top) == closure
    nix.text("nix-store", "--gc")
    own.text("nix", "copy", "--derivation", "--to", nix.url, top)
    assert nix.text("nix-store", "-qR", top) == closure
    nix.text("nix-store", "--gc")
    nix.text(
        "nix", "copy", "--derivation", "--no-check-sigs", "--from", f"file://{place}/cache", top
    )
    assert nix.text("nix-store", "-qR", top) == closure


def test_roots(nix: Nix, place: Path, work: Path) -> None:
    link = place / "root"
    top = nix.text("nix-instantiate", work / "graph.nix", "--indirect", "--add-root", link)
    assert top == os.fspath(link)
    drv = os.readlink(link)
    assert nix.text("nix-store", "--gc", "--print-roots") == f"{link} -> {drv}"
    assert nix.text("nix-store", "-q", "--roots", drv) == f"{link} -> {drv}"
    closure = nix.text("nix-store", "-qR", drv).split()
    nix.text("nix-store", "--gc")
    assert sorted(nix.text("nix", "path-info", "--all").split()) == sorted(closure)
    link.unlink()
    nix.text("nix-store", "--gc")
    assert nix.text("nix", "path-info", "--all") == ""


def test_a_build_that_fails_is_an_error(nix: Nix, work: Path) -> None:
    top = nix.text("nix-instantiate", work / "graph.nix")
    done = nix.run("nix-store", "--realise", top)
    assert done.status != 0
    assert "failed to produce output" in done.err
    assert nix.run("nix-store", "--realise", top, "--dry-run").status == 0


def test_evaluation_reads_the_store(nix: Nix, work: Path) -> None:
    expression = f'builtins.readFile "${{{work}/file}}"'
    words = ("--eval", "--read-write-mode", "--json", "-E", expression)
    assert json.loads(nix.text("nix-instantiate", *words)) == "contents\n"
