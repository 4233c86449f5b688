from __future__ import annotations

import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest

from eka_runtime.linux.userns import IdRange, subordinate_ids
from tests.installed import REPOSITORY
from tests.requirements import lacking

IN_NAMESPACE = """
import os
from eka_runtime.linux.mounts import mount_tmpfs
from eka_runtime.linux.syscalls import CLONE_NEWNS
from eka_runtime.linux.userns import enter_user_namespace
from pathlib import Path
import sys
enter_user_namespace(CLONE_NEWNS)
place = Path(sys.argv[1])
mount_tmpfs(place)
(place / "inside").touch()
setgroups = Path("/proc/self/setgroups").read_text()
print(os.geteuid(), os.getegid(), place.stat().st_mode & 0o777, setgroups)
"""


def in_namespace(place: Path) -> subprocess.CompletedProcess[str]:
    command: list[str | Path] = [sys.executable, "-c", IN_NAMESPACE, place]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=REPOSITORY)


def test_its_root_may_mount_and_the_host_sees_nothing_of_it(tmp_path: Path) -> None:
    done = in_namespace(tmp_path)
    if done.returncode != 0:
        lacking(f"no user namespaces: {done.stderr.splitlines()[-1]}")
    assert done.stdout.split() == ["0", "0", str(0o700), "deny"]
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("text", "ranges"),
    [
        ("", ()),
        ("NAME:100000:65536\n", (IdRange(100000, 65536),)),
        ("UID:7:1\nNAME:100:2\n", (IdRange(7, 1), IdRange(100, 2))),
        ("other:100000:65536\n1NAME:1:2\nNAMEx:1:2\n", ()),
        ("# comment\n\nNAME\nNAME:1\nNAME:1:2:3\nNAME:-1:2\nNAME:x:2\nNAME:5:6", (IdRange(5, 6),)),
    ],
)
def test_ranges_are_given_to_names_and_numbers(
    tmp_path: Path, text: str, ranges: tuple[IdRange, ...]
) -> None:
    file = tmp_path / "subuid"
    own = pwd.getpwuid(os.geteuid())
    file.write_text(text.replace("NAME", own.pw_name).replace("UID", str(own.pw_uid)))
    assert subordinate_ids(file, own.pw_uid) == ranges


def test_a_number_without_a_name_may_have_ranges(tmp_path: Path) -> None:
    file = tmp_path / "subuid"
    file.write_bytes(b"\xff:1:2\n3999999999:100:200\n")
    assert subordinate_ids(file, 3999999999) == (IdRange(100, 200),)


def test_no_file_gives_no_ranges(tmp_path: Path) -> None:
    assert subordinate_ids(tmp_path / "absent", os.geteuid()) == ()
