"""Closures that are answered before click is imported: the same answer, or none."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import eka
from eka import lookup
from eka_runtime.castore import database
from eka_runtime.nix.path import StorePath
from eka_runtime.store.layout import FORMAT
from eka_runtime.store.store import Store
from tests.stores import insert, link_info, store

__all__ = ["store"]

_QUICK = "import sys; sys.path.insert(0, sys.argv[1]); from eka import entry; entry.quick()"
_EKA = ("-ISE", "-c", _QUICK, os.fspath(Path(eka.__path__[0]).parent))
# Only the whole program heeds it: the quick way runs isolated.
TELLING = {"PYTHONPROFILEIMPORTTIME": "1"}


@pytest.fixture
def paths(store: Store) -> list[StorePath]:
    """The second refers to the first and to itself."""
    first = link_info("a")
    second = link_info("b", [first.path], to_itself=True)
    insert(store, first, second)
    return [first.path, second.path]


def ask(store: Store, *words: str, **environ: str) -> tuple[subprocess.CompletedProcess[str], bool]:
    """What became of the command, and whether it was answered without click."""
    home = os.fspath(store.root.parent)
    own = {"EKA_STORE": os.fspath(store.root), "HOME": home, "PATH": os.defpath}
    variables = own | TELLING | environ
    command = [sys.executable, *_EKA, "store", "closure", *words]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    return done, re.search(r"\| +click$", done.stderr, re.MULTILINE) is None


def test_the_answer_is_that_of_the_whole_program(store: Store, paths: list[StorePath]) -> None:
    first, second = map(str, paths)
    quick, was_quick = ask(store, second, first)
    whole, was_whole = ask(store, second, first, "--quiet")
    assert (was_quick, was_whole) == (True, False)
    assert quick.stdout == whole.stdout == "".join(f"{path}\n" for path in sorted([first, second]))


def test_what_is_odd_is_left_to_the_whole_program(store: Store, paths: list[StorePath]) -> None:
    path, store_dir = str(paths[0]), os.fspath(store.root)
    for words in ([path, f"{path}x"], [f"{path}/bin"], [path[11:]], [path.replace("-", '"', 1)]):
        assert not ask(store, *words)[1], words
    for name, value in (("EKA_STORE", f"{store_dir}x"), ("EKA_STORE", "relative"), ("HOME", "")):
        assert not ask(store, path, **{name: value})[1], name
    config = store.root.parent / ".config" / "eka" / "eka.toml"
    config.parent.mkdir(parents=True)
    config.write_text("nonsense = 1")
    done, quick = ask(store, path)
    assert (done.returncode, quick) == (11, False), done.stderr
    config.unlink()
    with Path(store.layout.format_file).open("a") as file:
        file.write("x")
    done, quick = ask(store, path)
    assert not quick
    assert "format" in done.stderr
    store.layout.format_file.write_text(f"{FORMAT}\n")


@pytest.mark.parametrize("more", [(), ("--quiet",)])
def test_a_full_disk_is_told(store: Store, paths: list[StorePath], more: tuple[str, ...]) -> None:
    words = (*_EKA, "store", "closure", str(paths[0]), *more)
    environ = {"EKA_STORE": os.fspath(store.root), "HOME": os.fspath(store.root.parent)}
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, *words], env=environ, stdout=full, stderr=subprocess.PIPE, check=False
        )
    expected = b"error: cannot write the output: No space left on device"
    assert (done.returncode, done.stderr.strip()) == (1, expected)


def test_completion_comes_first(store: Store, paths: list[StorePath]) -> None:
    done, quick = ask(store, str(paths[0]), _EKA_COMPLETE="bash_source")
    assert not quick
    assert str(paths[0]) not in done.stdout


def test_a_place_that_is_no_text_is_no_other_place(tmp_path: Path) -> None:
    code = "from eka import lookup; print(lookup.store_place())"
    environ = {b"EKA_STORE": bytes(tmp_path) + b"/\xff", b"HOME": bytes(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, check=True
    )
    assert done.stdout == b"None\n"


def test_it_knows_the_versions_that_stores_have() -> None:
    assert f"{FORMAT}\n".encode() == lookup.FORMAT_LINE
    assert (database.APPLICATION_ID, database.VERSION) == lookup.VERSIONS


def test_an_answer_imports_little() -> None:
    code = (
        "import sys, eka.entry, _sqlite3; before = set(sys.modules); from eka import lookup; "
        "lookup.attempt(['/nix/store/x']); print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    own = {"eka.lookup", "eka_runtime", "eka_runtime.store", "eka_runtime.store.reach"}
    assert set(done.stdout.split()) <= own | {"posix"}
