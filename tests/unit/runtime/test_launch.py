from __future__ import annotations

import json
import marshal
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from eka_runtime.errors import HostError, SpecError
from eka_runtime.linux.seccomp import compile_filter
from eka_runtime.runtime.host import Host
from eka_runtime.runtime.init import Init, find_init
from eka_runtime.runtime.launch import default_state_directory, plan, run_bundle
from eka_runtime.runtime.planned import Plan
from tests.requirements import lacking

USER = Host("outer", "/usr/bin/crun", "crun", 1000, 100)
ROOT = Host("outer", "/usr/bin/crun", "crun", 0, 0)
KINDS = ("crun", "runc")


def bundle(**linux: Any) -> dict[str, Any]:
    """config.json of a bundle for user 1000:100."""
    namespaces = ("user", "pid", "mount", "ipc", "uts", "network", "cgroup")
    return {
        "ociVersion": "1.0.2",
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "eka",
        "process": {
            "terminal": True,
            "consoleSize": {"height": 1, "width": 2},
            "user": {"uid": 1000, "gid": 100},
            "args": ["own"],
            "env": ["OWN=1"],
            "cwd": "/",
        },
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nodev"]},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro", "nodev"]},
            {"destination": "/data", "type": "bind", "source": "data", "options": ["rbind"]},
        ],
        "linux": {
            "namespaces": [{"type": kind} for kind in namespaces],
            "uidMappings": [{"containerID": 1000, "hostID": 1000, "size": 1}],
            "gidMappings": [{"containerID": 100, "hostID": 100, "size": 1}],
            "resources": {"devices": []},
            "cgroupsPath": "/x",
            **linux,
        },
    }


def planned(tmp_path: Path, host: Host, spec: dict[str, Any] | None = None, **more: Any) -> Plan:
    return plan(spec or bundle(), tmp_path / "bundle", host, state=tmp_path / "state", **more)


def config(made: Plan) -> dict[str, Any]:
    """The template with its holes filled."""
    holes = {"args": '"ARG"', "env": '"ENV=1"', "terminal": "false", "limits": "1"}
    pieces = (p.decode() if isinstance(p, bytes) else holes[p] for p in made["template"])
    filled: dict[str, Any] = json.loads("".join(pieces))
    return filled


def mount(made: Plan, destination: str) -> dict[str, Any]:
    (found,) = [m for m in config(made)["mounts"] if m["destination"] == destination]
    assert isinstance(found, dict)
    return found


def namespaces(made: Plan) -> set[str]:
    return {entry["type"] for entry in config(made)["linux"]["namespaces"]}


def test_a_plan_can_be_kept(tmp_path: Path) -> None:
    made: Any = dict(planned(tmp_path, USER))
    assert marshal.loads(marshal.dumps(made)) == made


def test_what_belongs_to_a_start_is_left_open(tmp_path: Path) -> None:
    made = planned(tmp_path, USER)
    assert {piece for piece in made["template"] if isinstance(piece, str)} == {
        *("args", "env", "terminal")
    }
    process = config(made)["process"]
    assert (process["args"], process["env"], process["terminal"]) == (["ARG"], ["ENV=1"], False)
    assert "consoleSize" not in process


def test_the_spec_given_is_not_changed(tmp_path: Path) -> None:
    spec = bundle()
    before = json.dumps(spec)
    for mode in ("outer", "direct", "degraded"):
        for kind in KINDS:
            planned(tmp_path, USER._replace(mode=mode, kind=kind), spec)
    assert json.dumps(spec) == before


def test_outer_mode_nests_the_user_namespace_and_has_processes_numbered_outside(
    tmp_path: Path,
) -> None:
    made = planned(tmp_path, USER)
    linux = config(made)["linux"]
    assert linux["uidMappings"] == [{"containerID": 1000, "hostID": 0, "size": 1}]
    assert linux["gidMappings"] == [{"containerID": 100, "hostID": 0, "size": 1}]
    assert namespaces(made) == {"user", "mount", "ipc", "uts", "network", "cgroup"}
    assert mount(made, "/proc") == {
        "destination": "/proc",
        "type": "bind",
        "source": "/proc",
        "options": ["rbind", "nosuid", "noexec", "nodev"],
    }
    assert not {"resources", "cgroupsPath"} & set(linux)
    assert (made["init"], made["path"]) == ((), "")


def test_direct_mode_is_the_bundle_as_it_was_written(tmp_path: Path) -> None:
    made = planned(tmp_path, USER._replace(mode="direct"))
    linux = config(made)["linux"]
    assert linux["uidMappings"] == [{"containerID": 1000, "hostID": 1000, "size": 1}]
    assert "pid" in namespaces(made)
    assert mount(made, "/proc")["type"] == "proc"
    assert config(made)["hostname"] == "eka"
    assert not made["cover"]
    assert not made["readonly"]
    assert not made["protect"]


def test_degraded_mode_shows_the_callers_processes_and_keeps_his_host_name(tmp_path: Path) -> None:
    made = planned(tmp_path, USER._replace(mode="degraded"))
    assert mount(made, "/proc")["source"] == "/proc"
    assert "hostname" not in config(made)
    assert "pid" in namespaces(made)


def test_an_init_is_bound_where_the_runtime_makes_the_pid_namespace(tmp_path: Path) -> None:
    init = find_init()
    if init is None:
        lacking("no static init")
    made = planned(tmp_path, USER._replace(mode="direct"))
    assert made["init"] == ("/dev/init", *init.options)
    assert mount(made, "/dev/init")["source"] == init.path
    spec = bundle()
    spec["mounts"] = [m for m in spec["mounts"] if m["destination"] != "/dev"]
    assert planned(tmp_path, USER._replace(mode="direct"), spec)["init"] == ()


def test_a_found_init_is_static() -> None:
    found = find_init()
    if found is None:
        lacking("no static init")
    assert isinstance(found, Init)
    assert os.access(found.path, os.X_OK)
    assert found.options[-1] == "--"


def test_paths_in_a_bundle_are_relative_to_it(tmp_path: Path) -> None:
    (tmp_path / "real" / "rootfs").mkdir(parents=True)
    (tmp_path / "bundle").symlink_to("real")
    made = planned(tmp_path, USER)
    assert config(made)["root"]["path"] == os.fspath(tmp_path / "real" / "rootfs")
    assert mount(made, "/data")["source"] == os.fspath(tmp_path / "bundle" / "data")


def test_a_bundle_without_a_user_namespace_gets_one(tmp_path: Path) -> None:
    spec = bundle(namespaces=[{"type": "mount"}], uidMappings=None, gidMappings=[])
    made = planned(tmp_path, USER, spec)
    assert namespaces(made) == {"mount", "user"}
    linux = config(made)["linux"]
    assert linux["uidMappings"] == [{"containerID": 1000, "hostID": 0, "size": 1}]
    direct = planned(tmp_path, USER._replace(mode="direct"), spec)
    assert config(direct)["linux"]["gidMappings"] == [
        {"containerID": 100, "hostID": 100, "size": 1}
    ]
    assert namespaces(direct) == {"mount", "user", "pid"}


@pytest.mark.parametrize(
    "mapping",
    [
        [{"containerID": 0, "hostID": 100000, "size": 65536}],
        [
            {"containerID": 1000, "hostID": 1000, "size": 1},
            {"containerID": 0, "hostID": 100000, "size": 1000},
        ],
    ],
)
def test_more_ids_than_ones_own_need_the_runtimes_helpers(
    tmp_path: Path, mapping: list[dict[str, int]]
) -> None:
    made = planned(tmp_path, USER, bundle(uidMappings=mapping))
    assert made["mode"] == "direct"
    assert config(made)["linux"]["uidMappings"] == mapping
    assert "/usr/bin" in made["path"].split(":")


def test_runc_must_have_a_user_zero(tmp_path: Path) -> None:
    made = planned(tmp_path, USER._replace(kind="runc"))
    assert config(made)["process"]["user"] == {"uid": 0, "gid": 0}
    assert config(made)["linux"]["uidMappings"] == [{"containerID": 0, "hostID": 0, "size": 1}]
    assert config(planned(tmp_path, USER))["process"]["user"] == {"uid": 1000, "gid": 100}


def test_runc_cannot_mount_sysfs_on_the_hosts_network(tmp_path: Path) -> None:
    runc = USER._replace(kind="runc")
    assert mount(planned(tmp_path, runc), "/sys")["type"] == "sysfs"
    shared = bundle(namespaces=[{"type": "user"}, {"type": "mount"}])
    assert mount(planned(tmp_path, runc, shared), "/sys") == {
        "destination": "/sys",
        "type": "bind",
        "source": "/sys",
        "options": ["nodev", "rbind", "rro"],
    }
    assert mount(planned(tmp_path, USER, shared), "/sys")["type"] == "sysfs"


def test_runc_is_told_the_callers_limit_unless_the_bundle_has_one(tmp_path: Path) -> None:
    runc = USER._replace(kind="runc")
    assert config(planned(tmp_path, runc))["process"]["rlimits"] == [1]
    infinite = ("RLIMIT_NOFILE", 2**64 - 1, 2**64 - 1)
    assert planned(tmp_path, runc)["rlimits"] == (infinite,)
    spec = bundle()
    spec["process"]["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": 1000, "hard": 2000}]
    assert planned(tmp_path, runc, spec)["rlimits"] == (("RLIMIT_NOFILE", 1000, 2000),)


def test_many_mounts_need_many_descriptors(tmp_path: Path) -> None:
    spec = bundle()
    assert planned(tmp_path, USER, spec)["descriptors"] == 0
    spec["mounts"] += [
        {"destination": f"/m/{n}", "type": "bind", "source": "/x", "options": ["rbind"]}
        for n in range(2000)
    ]
    assert planned(tmp_path, USER, spec)["descriptors"] > 2000
    assert planned(tmp_path, USER._replace(kind="runc"), spec)["descriptors"] > 2000


def test_only_roots_runc_is_kept_from_making_cgroups(tmp_path: Path) -> None:
    spec = bundle(uidMappings=None, gidMappings=None)
    assert planned(tmp_path, ROOT._replace(kind="runc"), spec)["readonly"] == ("/sys/fs/cgroup",)
    assert planned(tmp_path, ROOT, spec)["readonly"] == ()
    assert planned(tmp_path, USER._replace(kind="runc"), spec)["readonly"] == ()


def test_a_terminal_may_be_ruled_out(tmp_path: Path) -> None:
    assert planned(tmp_path, USER)["terminal"]
    assert not planned(tmp_path, USER, terminal=False)["terminal"]


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"root": None},
        {"root": {"path": 1}, "process": {}},
        {"root": {"path": "x"}, "process": {"user": {"uid": 1}}},
        {"root": {"path": "x"}, "process": {"user": {"uid": 1, "gid": 1}}, "linux": []},
    ],
)
def test_what_is_no_bundle_is_refused(tmp_path: Path, spec: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match=r"not a config\.json that can be started"):
        plan(spec, tmp_path, USER, state=tmp_path / "state")


@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b'{"process": 1}', b"\xff"])
def test_a_bundle_on_disk_must_be_readable(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(SpecError, match=r"config\.json"):
        run_bundle(tmp_path, USER, state=tmp_path / "state")


def test_the_state_directory_is_the_users_alone(tmp_path: Path) -> None:
    state = tmp_path / "a" / "state"
    plan(bundle(), tmp_path, USER, state=state)
    assert state.stat().st_mode & 0o777 == 0o700
    state.chmod(0o770)
    with pytest.raises(HostError, match="others may write") as caught:
        plan(bundle(), tmp_path, USER, state=state)
    assert f"chmod 700 {state}" in str(caught.value.hint)


def test_the_state_directory_must_be_possible(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(HostError, match="Not a directory"):
        plan(bundle(), tmp_path, USER, state=tmp_path / "file" / "state")
    with pytest.raises(HostError, match="too long") as caught:
        plan(bundle(), tmp_path, USER, state=tmp_path / ("x" * 100))
    assert "XDG_RUNTIME_DIR" in str(caught.value.hint)


def test_where_state_goes_by_default(tmp_path: Path) -> None:
    runtime, cache = os.fspath(tmp_path), os.fspath(tmp_path / "cache")
    both = {"XDG_RUNTIME_DIR": runtime, "XDG_CACHE_HOME": cache}
    assert default_state_directory(both) == tmp_path / "eka"
    gone = both | {"XDG_RUNTIME_DIR": f"{runtime}/gone"}
    assert default_state_directory(gone) == tmp_path / "cache" / "eka" / "run"
    relative = {"XDG_RUNTIME_DIR": "run", "XDG_CACHE_HOME": "cache"}
    home = Path(os.path.expanduser("~"))
    assert default_state_directory(relative) == home / ".cache" / "eka" / "run"


def test_state_goes_where_names_are_short(tmp_path: Path) -> None:
    deep = {"XDG_CACHE_HOME": os.fspath(tmp_path / ("x" * 100))}
    assert default_state_directory(deep) == Path("/tmp", f"eka-{os.geteuid()}")


def test_the_state_directory_is_no_link(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to("mine")
    with pytest.raises(HostError, match="belongs to someone else"):
        plan(bundle(), tmp_path, USER, state=tmp_path / "link")


def test_what_dead_launchers_left_is_swept_and_nothing_else(tmp_path: Path) -> None:
    log = tmp_path / "log"
    runtime = tmp_path / "runtime"
    runtime.write_text(f'#!/bin/sh\necho "$@" >> {log}\n')
    runtime.chmod(0o755)
    state = tmp_path / "state"
    (state / "eka-999999999-0a1b").mkdir(parents=True)
    (state / f"eka-{os.getpid()}-0a1b").mkdir()
    (state / "eka-x-y").mkdir()
    # A runtime that was killed may have written down nothing of its container.
    zombie = os.posix_spawn("/bin/true", ["true"], {})
    os.waitid(os.P_PID, zombie, os.WEXITED | os.WNOWAIT)
    (state / f"eka-{zombie}-0a1b").mkdir()
    state.chmod(0o700)
    host = USER._replace(mode="direct", runtime=os.fspath(runtime))
    planned(tmp_path, host)
    os.waitpid(zombie, 0)
    lines = [line.split()[-3:] for line in log.read_text().splitlines()]
    left = [f"eka-{number}-0a1b" for number in (999999999, zombie)]
    assert sorted(lines) == sorted(["delete", "--force", name] for name in left)
    assert {place.name for place in state.iterdir()}.isdisjoint(left)


def test_granted_sources_are_opened_by_the_launcher_in_outer_mode(tmp_path: Path) -> None:
    made = planned(tmp_path, USER, granted={"/data"})
    ((source, target),) = made["pinned"]
    assert source == str(tmp_path / "bundle" / "data")
    assert target == f"{made['state']}/granted-0"
    assert mount(made, "/data")["source"] == target
    direct = planned(tmp_path, USER._replace(mode="direct"), granted={"/data"})
    assert (direct["pinned"], mount(direct, "/data")["source"]) == ((), source)


@pytest.mark.parametrize(
    ("mode", "network", "own"),
    [("outer", "off", True), ("outer", "loopback", False), ("direct", "off", False)],
)
def test_without_a_network_the_launcher_makes_the_namespace(
    tmp_path: Path, mode: str, network: str, own: bool
) -> None:
    spec = bundle() | {"annotations": {"dev.eka.network": network}}
    made = planned(tmp_path, USER._replace(mode=mode), spec)
    assert made["no_network"] is own
    assert ("network" in namespaces(made)) is not own


def test_limits_leave_what_the_runtime_cannot_do(tmp_path: Path) -> None:
    spec = bundle(resources={"pids": {"limit": 10}, "memory": {"limit": 1 << 28}})
    spec["annotations"] = {"dev.eka.limit.time": "1500"}
    spec["process"]["rlimits"] = [
        {"type": "RLIMIT_CPU", "soft": 3, "hard": 4},
        {"type": "RLIMIT_NOFILE", "soft": 40, "hard": 40},
    ]
    made = planned(tmp_path, USER, spec)
    assert made["milliseconds"] == 1500
    assert ("RLIMIT_CPU", 3, 4) in made["rlimits"]
    assert "ulimit -n 40 " in made["shell"]
    assert "resources" not in config(made)["linux"]
    by_group = {file for _, settings in made["groups"] for file, _ in settings}
    by_process = {name for name, _, _ in made["rlimits"]}
    assert "RLIMIT_DATA" in by_process or any("memory" in file for file in by_group)


def test_a_runtime_that_makes_groups_keeps_the_limits(tmp_path: Path) -> None:
    spec = bundle(resources={"pids": {"limit": 10}})
    host = ROOT._replace(mode="direct", kind="runc")
    made = planned(tmp_path, host, spec)
    assert config(made)["linux"]["resources"] == {"pids": {"limit": 11}}


def test_a_filter_is_compiled_where_the_runtime_takes_that(tmp_path: Path) -> None:
    rules = [{"names": ["read"], "action": "SCMP_ACT_ALLOW"}]
    seccomp = {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": rules}
    made = planned(tmp_path, USER, bundle(seccomp=seccomp))
    assert config(made)["linux"]["seccomp"] == seccomp
    if compile_filter(seccomp) is None:
        lacking("no libseccomp")
    made = planned(tmp_path, USER._replace(bpf=True), bundle(seccomp=seccomp))
    assert "seccomp" not in config(made)["linux"]
    assert set(config(made)["annotations"]) == {"run.oci.seccomp_bpf_data"}


OUT_OF_DESCRIPTORS = """
import os, resource
from eka_runtime.runtime.launch import _lives
resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
print(_lives(str(os.getpid())))
"""


def test_nobody_is_taken_for_dead_because_a_descriptor_is_lacking() -> None:
    words = [sys.executable, "-c", OUT_OF_DESCRIPTORS]
    assert subprocess.run(words, capture_output=True, check=True).stdout == b"True\n"
