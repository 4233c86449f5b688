"""`eka store` as typed: stdout to the byte, exit codes, hints. In-process, and once for real."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from jsonschema import Draft202012Validator

from eka.cli import cli
from eka_runtime.nix.export import ExportItem, write_export
from eka_runtime.nix.path import StorePath
from eka_runtime.nix.tokens import Write
from tests.installed import REPOSITORY
from tests.stores import assert_clean, store_dir
from tests.unit.nix.trees import File, Link, Tree, directory, to_disk, to_nar

__all__ = ["store_dir"]

A, B, C = (StorePath(letter * 32, letter) for letter in "abc")
ABSENT = StorePath("0" * 32, "absent")
TREE = directory(run=File(b"#!/bin/sh\n", executable=True), sub=directory(l=Link(b"../run")))

Eka = Callable[..., Result]


@pytest.fixture
def eka(store_dir: Path) -> Eka:
    """Runs `eka store ARG…` on the store of the test."""

    def run(*arguments: object, stdin: bytes = b"") -> Result:
        words = ["store", "--store", str(store_dir), *map(str, arguments)]
        return CliRunner().invoke(cli, words, input=stdin, prog_name="eka")

    return run


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return to_disk(TREE, tmp_path / "tree")


@pytest.fixture
def stream(eka: Eka) -> bytes:
    """The stream of c -> b -> a, which is in the store already."""
    items: list[tuple[ExportItem, Tree]] = [
        (ExportItem(A, (), None), File(b"a" * 100)),
        (ExportItem(B, (A,), None), Link(str(A).encode())),
        (ExportItem(C, (B,), StorePath("d" * 32, "c.drv")), TREE),
    ]
    out = io.BytesIO()
    write_export([(item, _nar_writer(tree)) for item, tree in items], out.write)
    result = eka("import", stdin=out.getvalue())
    assert result.stdout == f"{A}\n{B}\n{C}\n"
    return out.getvalue()


def _nar_writer(tree: Tree) -> Callable[[Write], object]:
    return lambda write: write(to_nar(tree))


def _lines(result: Result) -> list[str]:
    assert result.exit_code == 0, result.output
    return result.stdout.splitlines()


def _records(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in _lines(result)]


def _fails(result: Result, status: int, *texts: str) -> None:
    assert result.exit_code == status, result.output
    assert "Traceback" not in result.stderr
    for text in ("error: ", *texts):
        assert text in result.stderr


def test_add_prints_paths(eka: Eka, tree: Path) -> None:
    (first,) = _lines(eka("add", tree))
    assert StorePath.parse(first).name == "tree"
    flat, also = _lines(eka("add", "--flat", tree / "run", tree / "run"))
    assert flat == also != first
    (named,) = _lines(eka("add", tree, "--name", "other"))
    assert StorePath.parse(named).name == "other"
    assert _records(eka("add", "--json", tree)) == [{"path": first}]
    assert sorted(_lines(eka("list"))) == sorted([first, flat, named])


def test_add_says_what_is_wrong(eka: Eka, tree: Path, tmp_path: Path) -> None:
    _fails(eka("add", tree, tree / "run", "--name", "x"), 2, "`--name` names one path", "hint: ")
    _fails(eka("add"), 2, "hint: ")
    _fails(eka("add", tree, "--name", "a b"), 21)
    (tmp_path / "a b").touch()
    _fails(eka("add", tmp_path / "a b"), 21, "hint: give a name with `--name NAME`")
    _fails(eka("add", tmp_path / "absent"), 24, "absent")
    os.mkfifo(tree / "fifo")
    _fails(eka("add", tree), 33, "fifo")
    assert _lines(eka("list")) == []


def test_import_from_a_file_and_again(eka: Eka, stream: bytes, tmp_path: Path) -> None:
    (tmp_path / "stream").write_bytes(stream)
    assert _lines(eka("import", tmp_path / "stream")) == [str(A), str(B), str(C)]
    assert _records(eka("--json", "import", "-", stdin=stream))[0] == {"path": str(A)}
    _fails(eka("import", tmp_path / "absent"), 2, "cannot read")


def test_a_broken_import_prints_what_it_kept(eka: Eka, stream: bytes, store_dir: Path) -> None:
    other = store_dir.parent / "other"
    result = eka("import", "--store", other, stdin=stream[:-100])
    _fails(result, 32, "byte")
    assert result.stdout == f"{A}\n{B}\n"
    assert _lines(eka("list", "--store", other)) == [str(A), str(B)]


def test_export_is_what_was_imported(eka: Eka, stream: bytes) -> None:
    assert eka("export", C, B.base, A).stdout_bytes == stream
    assert eka("export", "--closure", C).stdout_bytes == stream
    _fails(eka("export", ABSENT), 20, "hint: ")
    _fails(eka("export", f"{C}/sub"), 2, f"this command takes whole paths: {C}")


def test_nar_and_restore(eka: Eka, stream: bytes, tmp_path: Path) -> None:
    assert eka("nar", C).stdout_bytes == to_nar(TREE)
    assert _lines(eka("restore", C, tmp_path / "out")) == []
    assert (tmp_path / "out" / "run").read_bytes() == b"#!/bin/sh\n"
    assert _lines(eka("restore", f"{C}/sub/l", tmp_path / "link")) == []
    assert os.readlink(tmp_path / "link") == "../run"
    _fails(eka("restore", C, tmp_path / "out"), 2, "exists already", "hint: ")


def test_ls(eka: Eka, stream: bytes) -> None:
    assert _lines(eka("ls", C)) == ["run", "sub"]
    assert _lines(eka("ls", "-R", C)) == ["run", "sub", "sub/l"]
    assert _lines(eka("ls", f"{C.base}/sub")) == ["l"]
    assert _lines(eka("ls", f"{C}/run")) == ["run"]
    assert _lines(eka("ls", "-lR", C)) == [
        "-r-xr-xr-x           10 run",
        "dr-xr-xr-x            - sub",
        "lrwxrwxrwx            6 sub/l -> ../run",
    ]
    run, sub, link = _records(eka("ls", "--json", "-R", C))
    assert (run["path"], run["type"], run["size"], run["executable"]) == (
        "run",
        "regular",
        10,
        True,
    )
    assert (sub["type"], link["type"], link["target"]) == ("directory", "symlink", "../run")
    assert _lines(eka("ls", "-l", B)) == [f"lrwxrwxrwx {len(str(A)):>12} {B.base} -> {A}"]
    _fails(eka("ls", f"{C}/sub/l/x"), 20, "symbolic link", "is not followed")
    _fails(eka("ls", f"{C}/absent"), 20, "hint: ")


def test_ls_of_odd_names(eka: Eka, tmp_path: Path) -> None:
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / os.fsdecode(b"\xff")).touch()
    (path,) = _lines(eka("add", tmp_path / "odd"))
    assert eka("ls", path).stdout_bytes == b"\xff\n"


def test_cat(eka: Eka, stream: bytes) -> None:
    assert eka("cat", f"{C}/run").stdout_bytes == b"#!/bin/sh\n"
    assert eka("cat", A).stdout_bytes == b"a" * 100
    _fails(eka("cat", C), 20, "is a directory", "hint: ")


def test_info_has_the_keys_of_nix(eka: Eka, stream: bytes) -> None:
    (record,) = _records(eka("info", "--json", C))
    sizes = {path: _records(eka("info", "--json", path))[0]["narSize"] for path in (A, B, C)}
    assert record.pop("registrationTime") > 0
    assert record["narHash"].startswith("sha256-")
    assert record["node"]["type"] == "directory"
    assert record["node"]["digest"].startswith("blake3-")
    assert {key: value for key, value in record.items() if key not in ("narHash", "node")} == {
        "path": str(C),
        "narSize": sizes[C],
        "references": [str(B)],
        "deriver": f"/nix/store/{'d' * 32}-c.drv",
        "signatures": [],
        "ca": None,
        "closureSize": sum(sizes.values()),
        "artifacts": [],
    }
    lines = _lines(eka("info", A, B))
    assert f"path: {A}" in lines
    assert f"references: {A}" in lines
    _fails(eka("info", A, ABSENT), 20, ABSENT.base, "hint: ")


def test_graph_queries(eka: Eka, stream: bytes) -> None:
    assert _lines(eka("closure", B)) == [str(A), str(B)]
    assert _lines(eka("referrers", A, B)) == [str(B), str(C)]
    assert _lines(eka("why", C, A)) == [str(C), str(B), str(A)]
    assert _records(eka("why", C, A, "--json"))[0] == {"path": str(C)}
    _fails(eka("why", A, C), 1, f"`{A}` does not refer to `{C}`")
    _fails(eka("closure", ABSENT), 20, "hint: ")


def test_paths_may_be_links_and_parts(
    eka: Eka, stream: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "result").symlink_to(str(C))
    (tmp_path / "again").symlink_to("result")
    (tmp_path / "absolute").symlink_to(tmp_path / "again")
    (tmp_path / "deep").symlink_to(f"{C}/sub")
    (tmp_path / "here").symlink_to(".")
    (tmp_path / "loop").symlink_to("loop")
    for text in ("result", "./result", "again/", tmp_path / "absolute", "here/here/result"):
        assert _lines(eka("ls", text)) == ["run", "sub"]
    assert eka("cat", "result/run").stdout_bytes == b"#!/bin/sh\n"
    assert _lines(eka("ls", "deep")) == ["l"]
    for text in ("loop", "absent", "tree", "/etc/passwd", ".", ""):
        _fails(eka("ls", text), 2, f"`{text}` is not a store path", "hint: ")
    _fails(eka("ls", "/nix/store/nonsense"), 21)


def test_du(eka: Eka, stream: bytes) -> None:
    (record,) = _records(eka("du", "--json"))
    assert (record["paths"], record["blobs"], record["blobBytes"]) == (3, 2, 110)
    assert record["savedBytes"] == record["narBytes"] - record["diskBytes"]
    words = [line.split()[-1 if line.startswith(" ") else 0] for line in _lines(eka("du"))]
    parts = ["blobs", "packs", "views", "database"]
    assert words == ["paths", "blobs", "on", *parts, "saved"]


def test_verify(eka: Eka, tree: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    assert _lines(eka("add", tree, "--store", broken))
    result = eka("verify", "--deep", "--store", broken)
    assert (_lines(result), result.stderr) == ([], "1 path, 1 blob: no problems\n")
    (pack,) = (broken / "packs").iterdir()
    pack.unlink()
    result = eka("verify", "--store", broken)
    _fails(result, 25, "1 problem in the store", "hint: ")
    assert result.stdout.startswith("blob blake3-")
    (record,) = [
        json.loads(line) for line in eka("verify", "--json", "--store", broken).stdout.splitlines()
    ]
    assert sorted(record) == ["detail", "kind", "subject"]
    result = eka("verify", "--repair", "--store", broken)
    _fails(result, 25, "hint: fetch the damaged paths from somewhere else")
    assert _lines(eka("add", tree, "--store", broken))
    assert eka("verify", "--deep", "--store", broken).exit_code == 0


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("path", ["list"]),
        ("path", ["closure", str(C)]),
        ("info", ["info", str(A), str(B), str(C)]),
        ("entry", ["ls", "-R", str(C)]),
        ("usage", ["du"]),
    ],
)
def test_json_is_as_specified(eka: Eka, stream: bytes, kind: str, words: list[str]) -> None:
    schema = json.loads((REPOSITORY / "spec" / "store-output.schema.json").read_text())
    validator = Draft202012Validator({"$defs": schema["$defs"], "$ref": f"#/$defs/{kind}"})
    records = _records(eka(*words, "--json"))
    assert records
    for record in records:
        validator.validate(record)
        Draft202012Validator(schema).validate(record)


def test_without_a_store_nothing_is_made(eka: Eka, store_dir: Path) -> None:
    for words in (["list"], ["verify"], ["du"], ["info", A], ["export", A]):
        _fails(eka(*words), 22, "there is no store at", "hint: ")
    assert not store_dir.exists()


def _command(store_dir: Path, *arguments: str | Path) -> list[str | Path]:
    return [sys.executable, "-m", "eka", "store", "--store", store_dir, *arguments]


def _eka(store_dir: Path, *arguments: str | Path) -> subprocess.CompletedProcess[bytes]:
    command = _command(store_dir, *arguments)
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)


def test_the_real_program(store_dir: Path, tree: Path) -> None:
    added = _eka(store_dir, "add", tree)
    assert (added.returncode, added.stderr) == (0, b"")
    path = added.stdout.decode().strip()
    with open(tree.parent / "stream", "wb") as file:
        subprocess.run(_command(store_dir, "export", path), stdout=file, check=True)
    imported = _eka(tree.parent / "second", "import", tree.parent / "stream")
    assert imported.stdout == added.stdout
    assert _eka(store_dir, "cat", f"{path}/run").stdout == b"#!/bin/sh\n"
    failed = _eka(store_dir, "info", "nonsense")
    assert failed.returncode == 2
    assert b"hint: " in failed.stderr


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["import"], b"stdin is a terminal"),
        (["export", str(A)], b"stdout is a terminal"),
        (["nar", str(A)], b"stdout is a terminal"),
    ],
)
def test_binary_and_terminals_do_not_mix(store_dir: Path, words: list[str], text: bytes) -> None:
    ours, theirs = os.openpty()
    try:
        command = _command(store_dir, *words)
        done = subprocess.run(
            command, stdin=theirs, stdout=theirs, stderr=subprocess.PIPE, check=False
        )
    finally:
        os.close(theirs)
        os.close(ours)
    assert done.returncode == 2
    assert text in done.stderr
    assert b"hint: " in done.stderr
    assert not store_dir.exists()


def test_a_reader_that_goes_away(store_dir: Path, tree: Path) -> None:
    (tree / "big").write_bytes(bytes(8 << 20))
    big = _eka(store_dir, "add", tree / "big").stdout.decode().strip()
    command = _command(store_dir, "cat", big)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(1)
        process.stdout.close()
        assert process.wait() == 141
        assert process.stderr.read() == b""


def test_interrupting_an_import_leaves_a_clean_store(store_dir: Path, stream: bytes) -> None:
    other = store_dir.parent / "other"
    command = _command(other, "import")
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(stream[:-100])
        process.stdin.flush()
        # From here on it waits for the rest of the third path, which never comes.
        printed = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        printed += process.stdout.read()
        assert process.wait() == 130
        # Ends the line of a terminal's ^C.
        assert process.stderr.read() == b"\n"
    assert printed.decode().split() in ([str(A)], [str(A), str(B)])
    assert _eka(other, "list").stdout == printed
    assert_clean(other)
