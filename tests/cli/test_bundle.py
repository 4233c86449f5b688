"""`eka bundle show|validate|diff`, as typed: stdout, stderr and exit status."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from eka_runtime.oci.bundle import ShellFiles, compile_bundle, write_bundle
from eka_runtime.oci.grants import Grant, Grants
from tests.unit.oci.requests import request

ROOT = Path(__file__).parents[2]
DATA = Grant("/srv/data", False, "flag --read", "/srv/data", True)
NO_SHELL = ShellFiles(None, None)


def eka(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    words = [os.fspath(word) for word in arguments]
    command = [sys.executable, "-m", "eka", "bundle", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    write_bundle(compile_bundle(request(shell=NO_SHELL)), tmp_path / "plain")
    return tmp_path / "plain"


@pytest.fixture
def granted(tmp_path: Path) -> Path:
    made = request(shell=NO_SHELL, grants=Grants(paths=(DATA,)))
    write_bundle(compile_bundle(made), tmp_path / "granted")
    return tmp_path / "granted"


def edit(bundle: Path, **changes: Any) -> None:
    data = json.loads((bundle / "config.json").read_bytes())
    (bundle / "config.json").write_text(json.dumps({**data, **changes}))


def test_show_prints_the_canonical_form(plain: Path) -> None:
    written = (plain / "config.json").read_text()
    edit(plain)
    for place in (plain, plain / "config.json"):
        shown = eka("show", place)
        assert (shown.returncode, shown.stdout, shown.stderr) == (0, written, "")


def test_show_as_one_line_of_json(plain: Path) -> None:
    shown = eka("show", plain, "--json")
    assert shown.stdout.count("\n") == 1
    assert json.loads(shown.stdout) == json.loads((plain / "config.json").read_bytes())


def test_validate_accepts_what_eka_makes(plain: Path) -> None:
    result = eka("validate", plain)
    assert (result.returncode, result.stdout) == (0, "")
    assert f"`{plain}` is valid" in result.stderr


def test_validate_prints_every_problem_with_its_place(plain: Path) -> None:
    edit(plain, hostname=None, root={"path": 1})
    result = eka("validate", plain)
    assert result.returncode == 41
    assert result.stdout.splitlines() == [
        ".hostname: expected string, got null",
        ".root.path: expected string, got integer",
    ]


def test_validate_knows_rules_beyond_the_schema(plain: Path) -> None:
    mount = {"destination": "relative", "type": "tmpfs"}
    edit(plain, mounts=[mount])
    result = eka("validate", "--json", plain)
    assert result.returncode == 41
    assert json.loads(result.stdout) == {
        "path": ".mounts[0].destination",
        "message": "must be an absolute path: relative",
    }


def test_validate_misses_the_rootfs_of_a_bundle_but_not_of_a_file(plain: Path) -> None:
    (plain / "rootfs").rename(plain / "elsewhere")
    assert ".root.path: there is no directory" in eka("validate", plain).stdout
    assert eka("validate", plain / "config.json").returncode == 0


@pytest.mark.parametrize("command", ["show", "validate"])
def test_what_cannot_be_read_is_an_error(tmp_path: Path, command: str) -> None:
    result = eka(command, tmp_path / "absent")
    assert result.returncode == 41
    assert result.stdout == ""
    assert "No such file" in result.stderr
    assert "hint: " in result.stderr


def test_diff_of_equal_bundles_says_nothing(plain: Path) -> None:
    result = eka("diff", plain, plain)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_diff_names_mounts_and_paths(plain: Path, granted: Path) -> None:
    result = eka("diff", plain, granted)
    assert result.returncode == 1
    assert [line.split(": ")[0] for line in result.stdout.splitlines()] == [
        '+ .mounts["/srv/data"]',
        "+ rootfs/srv",
        "+ rootfs/srv/data",
    ]
    back = eka("diff", granted, plain)
    assert [line[0] for line in back.stdout.splitlines()] == ["-"] * 3


def test_diff_shows_both_values_of_a_change(plain: Path, granted: Path) -> None:
    edit(granted, **json.loads((plain / "config.json").read_bytes()) | {"hostname": "other"})
    (granted / "eka.json").unlink()
    result = eka("diff", plain, granted)
    assert result.stdout == '- .hostname: "eka"\n+ .hostname: "other"\n'
    (line,) = eka("diff", "--json", plain, granted).stdout.splitlines()
    assert json.loads(line) == {
        "change": "changed",
        "path": ".hostname",
        "before": "eka",
        "after": "other",
    }
