"""Starts inside podman containers, from the default one, where the better modes are denied, to a
privileged one."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from eka_runtime.runtime.init import find_init
from tests.host.conftest import busybox_bundle
from tests.host.contained import container, run
from tests.users import get_user

START = """
import os, sys
from pathlib import Path
from eka_runtime.runtime.launch import run_bundle
from eka_runtime.runtime.probe import probe
bundle = Path(sys.argv[1])
os._exit(run_bundle(bundle, probe(), state=bundle / "state"))
"""

# The last word: whether processes outside of the bundle are seen.
LOOK = """\
id -u; echo $WORD; hostname; echo $$
if grep -q run[_]bundle /proc/[0-9]*/cmdline; then echo seen; else echo hidden; fi"""


class Inside(NamedTuple):
    """A container, and the mode that is in force there."""

    options: tuple[str, ...]
    mode: str


UNMASKED = ("--security-opt", "unmask=ALL")
UNFILTERED = ("--security-opt", "seccomp=unconfined")
KINDS = {
    "default": Inside((), "degraded"),
    "unmasked": Inside(UNMASKED, "degraded"),
    "unfiltered": Inside(UNFILTERED, "degraded"),
    "open": Inside((*UNMASKED, *UNFILTERED), "outer"),
    "privileged": Inside(("--privileged",), "outer"),
}


@pytest.fixture(scope="module", params=KINDS)
def inside(request: pytest.FixtureRequest) -> tuple[list[str], Inside]:
    kind = KINDS[request.param]
    return container(*kind.options), kind


@pytest.fixture
def place() -> Iterator[Path]:
    """/tmp is often a file system of its own, which the container would not see."""
    made = Path(tempfile.mkdtemp(prefix="eka-container-", dir="/var/tmp"))
    yield made
    shutil.rmtree(made)


def doctor(command: list[str]) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(run([*command, "-m", "eka", "doctor", "--json"]).stdout)
    return report


def test_the_doctor_says_what_the_container_should_be_given(
    inside: tuple[list[str], Inside],
) -> None:
    command, kind = inside
    report = doctor(command)
    assert report["mode"] == kind.mode, report
    if kind.mode == "outer":
        assert (report["refused"], report["remedy"]) == ([], None)
    else:
        (better,) = re.findall("`(.*?)` \\(podman\\)", report["remedy"])
        assert doctor(container(*kind.options, *shlex.split(better)))["mode"] == "outer"


def test_a_bundle_starts_in_a_container(
    inside: tuple[list[str], Inside], place: Path, rootfs: Path
) -> None:
    command, kind = inside
    shutil.copytree(rootfs, place / "rootfs", symlinks=True)
    spec = busybox_bundle(Path("rootfs"), get_user("root"))
    spec["process"] |= {
        "args": ["/bin/sh", "-c", f"{LOOK}; exit 42"],
        "env": ["PATH=/bin", "WORD=hello"],
    }
    (place / "config.json").write_text(json.dumps(spec))
    done = run([*command, "-c", START, place])
    assert done.returncode == 42, done
    uid, word, host, pid, launcher = done.stdout.decode().split()
    assert (uid, word) == ("0", "hello")
    # What degraded mode is said to lose, and the other one not.
    assert (host == "eka", launcher == "hidden") == ((kind.mode == "outer",) * 2)
    assert (pid == "1") == (kind.mode != "outer" and find_init() is None)
