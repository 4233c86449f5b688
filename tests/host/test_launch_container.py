"""Starts inside a default podman container, where the better modes are denied."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from eka_runtime.runtime.init import find_init
from tests.host.conftest import TIMEOUT, busybox_bundle
from tests.installed import REPOSITORY
from tests.requirements import lacking, require
from tests.users import get_user

START = """
import os, sys
from pathlib import Path
from eka_runtime.runtime.launch import run_bundle
from eka_runtime.runtime.probe import probe
bundle = Path(sys.argv[1])
os._exit(run_bundle(bundle, probe(), state=bundle / "state"))
"""


@pytest.fixture(scope="module")
def podman() -> list[str]:
    """Runs Python in a container whose files are the host's own, under a throw-away overlay."""
    if os.geteuid() != 0:
        lacking("only root can give a container the host's root directory")
    command = [require("podman"), "run", "--rm", "--network=none", "--cgroups=disabled"]
    command += [f"--workdir={REPOSITORY}", "--rootfs", "/:O", sys.executable]
    done = run([*command, "-c", "import eka_runtime"])
    if done.returncode != 0:
        lacking(f"podman does not work here: {done.stderr.decode(errors='replace')}")
    return command


@pytest.fixture
def place() -> Iterator[Path]:
    """/tmp is often a file system of its own, which the container would not see."""
    made = Path(tempfile.mkdtemp(prefix="eka-container-", dir="/var/tmp"))
    yield made
    shutil.rmtree(made)


def run(command: Sequence[str | Path]) -> subprocess.CompletedProcess[bytes]:
    null = subprocess.DEVNULL
    return subprocess.run(command, capture_output=True, stdin=null, timeout=TIMEOUT, check=False)


def test_the_doctor_says_what_the_container_should_be_given(podman: list[str]) -> None:
    report = json.loads(run([*podman, "-m", "eka", "doctor", "--json"]).stdout)
    assert report["mode"] == "degraded"
    assert "outer crun: mount /proc: Operation not permitted" in report["refused"]
    assert "--security-opt unmask=ALL" in report["remedy"]


def test_a_bundle_starts_in_a_container(podman: list[str], place: Path, rootfs: Path) -> None:
    shutil.copytree(rootfs, place / "rootfs", symlinks=True)
    spec = busybox_bundle(Path("rootfs"), get_user("root"))
    spec["process"] |= {
        "args": ["/bin/sh", "-c", "id -u; echo $WORD; hostname; echo $$; exit 42"],
        "env": ["PATH=/bin", "WORD=hello"],
    }
    (place / "config.json").write_text(json.dumps(spec))
    done = run([*podman, "-c", START, place])
    uid, word, _, pid = done.stdout.split()
    assert (uid, word, done.returncode) == (b"0", b"hello", 42)
    assert (pid == b"1") == (find_init() is None)
