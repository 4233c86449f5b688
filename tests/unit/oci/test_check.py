"""Rules beyond the schema: each finds its mistake, and nothing that eka makes breaks one."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings

from eka_runtime.oci.bundle import compile_bundle
from eka_runtime.oci.check import check
from eka_runtime.oci.spec import Spec
from tests.unit.oci.official import GOOD, documents
from tests.unit.oci.requests import request


@pytest.fixture(scope="module")
def sound() -> dict[str, Any]:
    return compile_bundle(request()).spec.to_data()


END = -1


def put(*path: str | int, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(data: dict[str, Any]) -> None:
        holder: Any = data
        for key in path[:-1]:
            holder = holder[key]
        if value is None:
            del holder[path[-1]]
        elif path[-1] == END:
            holder.append(value)
        else:
            holder[path[-1]] = value

    return change


MISTAKES = [
    (put("ociVersion", value="latest"), ".ociVersion: must be a version such as 1.0.2"),
    (put("root", value=None), ".root: required to start a container on Linux"),
    (put("root", "path", value=""), ".root.path: must not be empty"),
    (put("process", value=None), ".process: required to start a container"),
    (put("process", "args", value=None), ".process.args: must name a program"),
    (put("process", "args", value=[]), ".process.args: must name a program"),
    (put("process", "args", value=["", "x"]), ".process.args[0]: must not be empty"),
    (put("process", "args", value=["a\0"]), ".process.args: must not have a null character"),
    (put("process", "cwd", value="tmp"), ".process.cwd: must be an absolute path: tmp"),
    (put("process", "cwd", value="/a/../b"), ".process.cwd: must not have `..`: /a/../b"),
    (put("process", "env", value=["A"]), ".process.env[0]: must be NAME=VALUE"),
    (put("process", "env", value=["=x"]), ".process.env[0]: must be NAME=VALUE"),
    (put("process", "env", value=["A=1", "A=2"]), ".process.env[1]: `A` occurs twice"),
    (
        put("process", "rlimits", value=[{"type": "RLIMIT_CORE", "soft": 2, "hard": 1}]),
        ".process.rlimits[0].soft: must not exceed hard",
    ),
    (
        put("process", "rlimits", value=[{"type": "RLIMIT_CORE", "soft": 1, "hard": 1}] * 2),
        ".process.rlimits[1]: `RLIMIT_CORE` occurs twice",
    ),
    (
        put("process", "capabilities", "bounding", value=["KILL"]),
        ".process.capabilities.bounding[0]: must begin with CAP_",
    ),
    (
        put("process", "capabilities", "effective", value=["CAP_KILL"]),
        ".process.capabilities.effective: CAP_KILL is not permitted",
    ),
    (put("mounts", 0, "destination", value="dev"), ".mounts[0].destination: must be an absolute"),
    (put("mounts", 0, "destination", value="/../x"), ".mounts[0].destination: must not have `..`"),
    (put("mounts", 1, "destination", value="/dev/"), ".mounts[1].destination: `/dev` occurs twice"),
    (put("mounts", 0, "type", value=None), ".mounts[0].type: required, unless the options have"),
    (put("mounts", 0, "options", value=["bind"]), None),
    (put("mounts", 0, "options", value=["ro", "rw"]), ".mounts[0].options: `ro` contradicts `rw`"),
    (
        put("mounts", END, value={"destination": "/a", "options": ["rbind"]}),
        ".mounts[8].source: a bind needs a source",
    ),
    (
        put("mounts", END, value={"destination": "/a", "source": "/b", "type": "bind"}),
        ".mounts[8].options: a bind needs `bind` or `rbind`",
    ),
    (
        put("mounts", END, value={"destination": "/a\0", "source": "/b", "options": ["bind"]}),
        ".mounts[8]: must not have a null character",
    ),
    (
        put("linux", "namespaces", END, value={"type": "pid"}),
        ".linux.namespaces[7].type: `pid` occ",
    ),
    (
        put("linux", "namespaces", 0, "path", value="ns"),
        ".linux.namespaces[0].path: must be an absolute path: ns",
    ),
    (put("linux", "uidMappings", value=[]), ".linux.uidMappings: required for a new user names"),
    (
        put("linux", "gidMappings", END, value={"containerID": 5678, "hostID": 1, "size": 1}),
        ".linux.gidMappings: id 5678 is mapped twice",
    ),
    (put("linux", "maskedPaths", value=["proc"]), ".linux.maskedPaths[0]: must be an absolute"),
    (
        put("linux", "devices", value=[{"path": "dev/x", "type": "p"}]),
        ".linux.devices[0].path: must be an absolute path",
    ),
    (
        put("linux", "devices", value=[{"path": "/dev/x", "type": "c", "major": 1}]),
        ".linux.devices[0]: needs major and minor",
    ),
    (put("hooks", value={"prestart": [{"path": "x"}]}), ".hooks.prestart[0].path: must be an abs"),
]


@pytest.mark.parametrize(
    ("change", "problem"), MISTAKES, ids=[str(number) for number in range(len(MISTAKES))]
)
def test_each_rule_finds_its_mistake(
    sound: dict[str, Any], change: Callable[[dict[str, Any]], None], problem: str | None
) -> None:
    data = copy.deepcopy(sound)
    change(data)
    found = [str(one) for one in check(Spec.from_json(json.dumps(data)))]
    if problem is None:
        assert found == []
    else:
        assert len(found) == 1
        assert found[0].startswith(problem)


def test_a_mapping_or_a_hostname_needs_its_namespace(sound: dict[str, Any]) -> None:
    data = copy.deepcopy(sound)
    kept = [one for one in data["linux"]["namespaces"] if one["type"] not in ("user", "uts")]
    data["linux"]["namespaces"] = kept
    assert [str(one) for one in check(Spec.from_json(json.dumps(data)))] == [
        ".hostname: needs a uts namespace",
        ".linux.uidMappings: needs a user namespace",
        ".linux.gidMappings: needs a user namespace",
    ]


def test_a_terminal_needs_devpts(sound: dict[str, Any]) -> None:
    data = copy.deepcopy(sound)
    data["process"]["terminal"] = True
    assert check(Spec.from_json(json.dumps(data))) == []
    data["mounts"] = [one for one in data["mounts"] if one["destination"] != "/dev/pts"]
    (problem,) = check(Spec.from_json(json.dumps(data)))
    assert problem.path == ".process.terminal"


def test_the_rootfs_of_a_bundle_must_be_there(tmp_path: Path) -> None:
    spec = compile_bundle(request()).spec
    (problem,) = check(spec, tmp_path)
    assert str(problem) == f".root.path: there is no directory `{tmp_path}/rootfs`"
    (tmp_path / "rootfs").mkdir()
    assert check(spec, tmp_path) == []


@settings(deadline=None)
@given(documents())
def test_every_document_of_the_schema_can_be_checked(data: Any) -> None:
    assert isinstance(check(Spec.from_json(json.dumps(data))), list)


@pytest.mark.parametrize("file", GOOD, ids=lambda file: file.stem)
def test_official_examples_are_checked(file: Path) -> None:
    problems = check(Spec.from_json(file.read_bytes()))
    # They are fragments: what they lack to start is said, and nothing else is wrong with them.
    allowed = (".process", ".linux", ".hostname", ".process.capabilities.ambient")
    assert all(problem.path.startswith(allowed) for problem in problems)
