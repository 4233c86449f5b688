"""Compiling: what a bundle contains, why, and that nothing but the request decides it."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eka_runtime.errors import SpecError
from eka_runtime.oci.bundle import Bundle, Caller, Process, ShellFiles, compile_bundle
from eka_runtime.oci.check import check
from eka_runtime.oci.explain import Reason
from eka_runtime.oci.grants import EnvGrant, Grant, Grants
from eka_runtime.oci.judge import StringMap
from eka_runtime.oci.profile import Passed, Profile, load_profile
from eka_runtime.oci.spec import Mount, Spec
from eka_runtime.oci.spec import Process as SpecProcess
from eka_runtime.oci.spec_linux import Linux
from eka_runtime.view.plan import ViewPlan
from tests.unit.oci.official import accepts
from tests.unit.oci.requests import ALICE, FILE, LINK, SHELL, TREE, VIEW, request

PROJECT = Grant("/home/alice/project", True, "default: working directory", "/mnt/project", True)
SCRIPT = Grant("/home/alice/project/x", False, "the script itself", "/mnt/project/x", False)


def process_of(bundle: Bundle) -> SpecProcess:
    assert bundle.spec.process is not None
    return bundle.spec.process


def linux_of(bundle: Bundle) -> Linux:
    assert bundle.spec.linux is not None
    return bundle.spec.linux


def mounts_of(bundle: Bundle) -> dict[str, Mount]:
    return {mount.destination: mount for mount in bundle.spec.mounts or ()}


def env_of(bundle: Bundle) -> StringMap:
    return dict(text.split("=", 1) for text in process_of(bundle).env or ())


def entries_of(bundle: Bundle) -> dict[str, tuple[str, str]]:
    return {entry.path: (entry.kind, entry.text) for entry in bundle.rootfs}


def reasons_of(bundle: Bundle, kind: str, subject: str) -> list[tuple[str, str]]:
    return [
        (reason.origin, reason.detail)
        for reason in bundle.reasons
        if (reason.kind, reason.subject) == (kind, subject)
    ]


def test_the_caller_stays_himself_and_has_no_privilege() -> None:
    bundle = compile_bundle(request())
    process, linux = process_of(bundle), linux_of(bundle)
    assert process.to_data()["user"] == {"uid": 1234, "gid": 5678}
    assert linux.to_data()["uidMappings"] == [{"containerID": 1234, "hostID": 1234, "size": 1}]
    assert linux.to_data()["gidMappings"] == [{"containerID": 5678, "hostID": 5678, "size": 1}]
    sets = ("bounding", "effective", "inheritable", "permitted", "ambient")
    assert process.to_data()["capabilities"] == {name: [] for name in sets}
    assert process.noNewPrivileges
    assert bundle.spec.to_data()["root"] == {"path": "rootfs", "readonly": True}
    assert bundle.spec.hostname == "eka"


def test_root_inside_for_runtimes_that_need_it() -> None:
    bundle = compile_bundle(request(root_inside=True))
    assert process_of(bundle).to_data()["user"] == {"uid": 0, "gid": 0}
    assert linux_of(bundle).to_data()["uidMappings"] == [
        {"containerID": 0, "hostID": 1234, "size": 1}
    ]
    assert entries_of(bundle)["etc/passwd"][1].startswith("alice:x:0:0::/home/alice:/bin/sh\nroot:")


def test_network_is_its_own_unless_granted() -> None:
    own = compile_bundle(request(host_files=("/etc/resolv.conf",)))
    shared = compile_bundle(
        request(host_files=("/etc/resolv.conf",), grants=Grants(network="header network"))
    )
    assert "network" in {namespace.type for namespace in linux_of(own).namespaces or ()}
    assert "network" not in {namespace.type for namespace in linux_of(shared).namespaces or ()}
    assert "/etc/resolv.conf" not in mounts_of(own)
    assert mounts_of(shared)["/etc/resolv.conf"].options == ("bind", "ro", "nosuid", "nodev")
    assert reasons_of(shared, "namespace", "network")[0][0] == "header network"
    assert reasons_of(shared, "mount", "/etc/resolv.conf")[0][0] == "header network"
    assert reasons_of(own, "namespace", "network")[0][0] == "profile run"


def test_certificates_are_shown_where_programs_look_for_them() -> None:
    fedora = "/etc/pki/tls/certs/ca-bundle.crt"
    bundle = compile_bundle(request(host_files=(fedora,), grants=Grants(network="x")))
    mount = mounts_of(bundle)["/etc/ssl/certs/ca-certificates.crt"]
    assert mount.source == fedora


def test_a_grant_wins_over_a_file_for_the_network() -> None:
    grant = Grant("/etc/ssl", False, "flag --read", "/etc/ssl", True)
    bundle = compile_bundle(
        request(
            host_files=("/etc/ssl/certs/ca-certificates.crt",),
            grants=Grants(network="x", paths=(grant,)),
        )
    )
    assert "/etc/ssl" in mounts_of(bundle)
    assert "/etc/ssl/certs/ca-certificates.crt" not in mounts_of(bundle)


def test_mounts_are_in_mountable_order_and_recursively_read_only() -> None:
    bundle = compile_bundle(
        request(grants=Grants(paths=(PROJECT, SCRIPT)), host_files=("/sys/devices/system/cpu",))
    )
    assert [mount.destination for mount in bundle.spec.mounts or ()] == [
        "/dev",
        "/dev/pts",
        "/dev/shm",
        "/proc",
        "/sys/devices/system/cpu",
        "/tmp",
        "/home/alice",
        str(TREE),
        str(FILE),
        "/home/alice/project",
        "/home/alice/project/x",
    ]
    mounts = mounts_of(bundle)
    assert mounts[str(TREE)].options == ("rbind", "rro", "rnosuid", "rnodev")
    assert mounts[str(FILE)].options == ("bind", "ro", "nosuid", "nodev")
    assert mounts[PROJECT.path].options == ("rbind", "rnosuid", "rnodev")
    assert mounts[PROJECT.path].source == "/mnt/project"
    assert mounts[SCRIPT.path].options == ("bind", "ro", "nosuid", "nodev")


def test_what_the_host_lacks_is_left_out() -> None:
    assert "/sys/devices/system/cpu" not in mounts_of(compile_bundle(request()))


def test_a_granted_device_is_still_a_device() -> None:
    device = Grant("/dev/fuse", True, "flag --device", "/dev/fuse", False, True)
    several = Grant("/dev/dri", True, "flag --device", "/dev/dri", True, True)
    bundle = compile_bundle(request(grants=Grants(paths=(device, several))))
    assert mounts_of(bundle)["/dev/fuse"].options == ("bind", "nosuid")
    assert mounts_of(bundle)["/dev/dri"].options == ("rbind", "rnosuid")


def test_a_grant_replaces_the_base_mount_at_its_place() -> None:
    grant = Grant("/dev/shm", True, "flag --write", "/dev/shm", True)
    bundle = compile_bundle(request(grants=Grants(paths=(grant,))))
    assert mounts_of(bundle)["/dev/shm"].type == "bind"
    assert check(bundle.spec) == []


def test_home_is_empty_and_private_until_granted() -> None:
    private = compile_bundle(request())
    home = mounts_of(private)["/home/alice"]
    assert (home.type, home.options) == ("tmpfs", ("nosuid", "nodev", "mode=0700"))
    # runc gives a tmpfs the mode of its mount point.
    assert {entry.path: entry.mode for entry in private.rootfs}["home/alice"] == 0o700
    for path in ("/home/alice", "/home"):
        grant = Grant(path, True, "flag --write", path, True)
        granted = compile_bundle(request(grants=Grants(paths=(grant,))))
        assert [m.type for m in granted.spec.mounts or () if "home" in m.destination] == ["bind"]


@pytest.mark.parametrize("home", ["/", "/tmp", "/etc", "/nix/store", "relative", "/a/../b", "/usr"])
def test_a_home_in_an_impossible_place_becomes_tmp(home: str) -> None:
    bundle = compile_bundle(request(caller=ALICE._replace(home=home)))
    assert env_of(bundle)["HOME"] == "/tmp"
    assert home not in set(mounts_of(bundle)) - {"/tmp"}
    assert check(bundle.spec) == []


@pytest.mark.parametrize("field", ["user", "group", "home"])
@pytest.mark.parametrize("value", ["", "a:b", "a\nroot:x:0:0::/:/bin/sh", "a\0"])
def test_a_caller_cannot_write_his_own_accounts(field: str, value: str) -> None:
    values: dict[str, Any] = {**ALICE._asdict(), field: value}
    caller = Caller(**values)
    with pytest.raises(SpecError, match=f"the caller's {field}"):
        compile_bundle(request(caller=caller))


def test_braces_in_a_callers_name_are_not_placeholders() -> None:
    bundle = compile_bundle(request(caller=ALICE._replace(user="{home}")))
    assert env_of(bundle)["USER"] == "{home}"


@pytest.mark.parametrize(
    ("caller", "names"),
    [
        (ALICE, ["alice", "root", "nobody"]),
        (Caller(0, 0, "root", "root", "/root"), ["root", "nobody"]),
        (Caller(65534, 65534, "nobody", "nogroup", "/x"), ["nobody", "root"]),
    ],
)
def test_accounts_name_everybody_once_the_caller_first(caller: Caller, names: list[str]) -> None:
    text = entries_of(compile_bundle(request(caller=caller)))["etc/passwd"][1]
    assert [line.split(":")[0] for line in text.splitlines()] == names
    assert text.startswith(f"{caller.user}:x:{caller.uid}:{caller.gid}::{caller.home}:/bin/sh\n")


def test_variables_and_who_asked_for_them() -> None:
    bundle = compile_bundle(
        request(
            process=Process(("/bin/sh",), (("PATH", "/p/bin"), ("LANG", "C")), "/", False),
            grants=Grants(
                env=(
                    EnvGrant("MODE", "fast", "flag --env"),
                    EnvGrant("LANG", "de", "header env"),
                    EnvGrant("TOKEN", None, "header env"),
                )
            ),
        )
    )
    assert env_of(bundle) == {
        "HOME": "/home/alice",
        "LANG": "de",
        "LOGNAME": "alice",
        "MODE": "fast",
        "PATH": "/p/bin",
        "SHELL": "/bin/sh",
        "USER": "alice",
    }
    assert process_of(bundle).env == tuple(sorted(process_of(bundle).env or ()))
    assert reasons_of(bundle, "env", "PATH") == [("packages", "/p/bin")]
    assert reasons_of(bundle, "env", "LANG") == [("header env", "de")]
    assert reasons_of(bundle, "env", "TOKEN") == [("header env", "yours at each launch, if set")]
    assert Passed("TOKEN", False, "header env") in bundle.passed
    assert Passed("TERM", True, "profile run") in bundle.passed


def test_a_stated_value_ends_passing_on() -> None:
    grants = Grants(env=(EnvGrant("TERM", "dumb", "flag --env"),))
    assert "TERM" not in {one.name for one in compile_bundle(request(grants=grants)).passed}


@pytest.mark.parametrize("pair", [("A=B", "x"), ("A\0", "x"), ("A", "x\0")])
def test_a_variable_no_program_can_have_is_refused(pair: tuple[str, str]) -> None:
    with pytest.raises(SpecError, match="cannot be passed"):
        compile_bundle(request(process=Process(("/x",), (pair,), "/", False)))


@pytest.mark.parametrize(
    ("cwd", "inside"),
    [
        ("/", "/"),
        ("/tmp", "/tmp"),
        ("/home", "/home"),
        ("/home/alice", "/home/alice"),
        ("/home/alice/project", "/home/alice/project"),
        ("/home/alice/project/deep/er", "/home/alice/project/deep/er"),
        ("/home/alice/other", "/"),
        ("/etc", "/etc"),
        ("/etc/passwd", "/"),
        ("/srv", "/"),
        ("/tmp/x", "/"),
    ],
)
def test_the_working_directory_is_kept_where_it_exists_inside(cwd: str, inside: str) -> None:
    bundle = compile_bundle(
        request(process=Process(("/x",), (), cwd, False), grants=Grants(paths=(PROJECT,)))
    )
    assert process_of(bundle).cwd == inside
    ((origin, detail),) = reasons_of(bundle, "process", "cwd")
    assert (origin == "caller") == (cwd == inside)
    assert cwd in detail


def test_every_mount_point_is_in_the_rootfs_or_below_another_mount() -> None:
    grant = Grant("/srv/data", False, "flag --read", "/srv/data", True)
    file = Grant("/opt/tool.cfg", False, "flag --read", "/opt/tool.cfg", False)
    entries = entries_of(compile_bundle(request(grants=Grants(paths=(file, PROJECT, grant)))))
    assert entries["srv/data"] == ("directory", "")
    assert entries["opt/tool.cfg"] == ("file", "")
    assert entries[str(TREE)[1:]] == ("directory", "")
    assert entries[str(FILE)[1:]] == ("file", "")
    assert entries[str(LINK)[1:]] == ("symlink", str(TREE))
    assert "home/alice" in entries
    assert "home/alice/project" not in entries  # its mount point is in the tmpfs


def test_entries_come_parents_first() -> None:
    seen = {""}
    for entry in compile_bundle(request()).rootfs:
        assert entry.path.rpartition("/")[0] in seen
        seen.add(entry.path)


def test_shell_files() -> None:
    bundle = compile_bundle(request())
    assert entries_of(bundle)["bin/sh"] == ("host", "/usr/bin/busybox")
    assert entries_of(bundle)["usr/bin/env"] == ("symlink", "/x")
    assert bundle.spec.annotations is not None
    assert bundle.spec.annotations["dev.eka.shell"] == "host:busybox#blake3-x"
    without = compile_bundle(request(shell=ShellFiles(None, None)))
    assert "bin/sh" not in entries_of(without)
    assert "dev.eka.shell" not in (without.spec.annotations or {})


def test_things_that_cannot_both_be_are_refused() -> None:
    grant = Grant("/etc/passwd", False, "flag --read", "/srv/dir", True)
    with pytest.raises(SpecError, match="needed as a directory"):
        compile_bundle(request(grants=Grants(paths=(grant,))))
    grant = Grant("/usr/bin", False, "flag --read", "/srv/file", False)
    with pytest.raises(SpecError, match="needed as a file"):
        compile_bundle(request(grants=Grants(paths=(grant,))))


def test_who_asked_for_a_store_path() -> None:
    bundle = compile_bundle(request(packages={str(TREE): "header packages"}))
    assert reasons_of(bundle, "mount", str(TREE))[0][0] == "header packages"
    assert reasons_of(bundle, "mount", str(FILE))[0][0] == "closure"


def test_terminal_umask_and_limits_only_when_asked(tmp_path: Path) -> None:
    plain = process_of(compile_bundle(request())).to_data()
    assert plain["terminal"] is False
    assert "rlimits" not in plain
    assert "umask" not in plain["user"]
    file = tmp_path / "limited.toml"
    file.write_text(
        'description = "x"\nextends = "run"\n'
        '[[rlimits]]\ntype = "RLIMIT_CORE"\nsoft = 0\nhard = 0\n'
    )
    bundle = compile_bundle(
        request(profile=str(file), process=Process(("/x",), (), "/", True, umask=0o27))
    )
    asked = process_of(bundle).to_data()
    assert asked["terminal"] is True
    assert asked["user"]["umask"] == 0o27
    assert asked["rlimits"] == [{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]
    assert reasons_of(bundle, "limit", "RLIMIT_CORE") == [(f"profile {file}", "0 to 0")]


def test_annotations_say_what_it_was_made_of() -> None:
    annotations = compile_bundle(request()).spec.annotations or {}
    assert annotations["dev.eka.version"] == "1"
    assert annotations["dev.eka.profile"] == "run"
    assert annotations["dev.eka.view"] == "bind"
    assert annotations["dev.eka.closure"].startswith("blake3-")
    other = compile_bundle(request(closure=(TREE,))).spec.annotations or {}
    assert annotations["dev.eka.closure"] != other["dev.eka.closure"]


def test_everything_in_the_spec_has_a_reason() -> None:
    bundle = compile_bundle(
        request(
            grants=Grants(network="flag --net", paths=(PROJECT, SCRIPT)),
            host_files=load_profile("run").host_paths(),
        )
    )
    found = {(reason.kind, reason.subject) for reason in bundle.reasons}
    linux = linux_of(bundle)
    expected = {("mount", place) for place in mounts_of(bundle)}
    expected |= {("env", name) for name in env_of(bundle)}
    expected |= {("env", passed.name) for passed in bundle.passed}
    expected |= {("namespace", one.type) for one in linux.namespaces or ()}
    expected |= {("mask", path) for path in (linux.maskedPaths or ()) + (linux.readonlyPaths or ())}
    expected |= {
        ("file", f"/{entry.path}")
        for entry in bundle.rootfs
        if entry.kind != "directory" and f"/{entry.path}" not in mounts_of(bundle)
    }
    expected |= {("process", one) for one in ("args", "cwd", "hostname", "privileges", "user")}
    expected |= {
        ("capabilities", "all sets"),
        ("seccomp", "filter"),
        ("namespace", "network"),
        ("file", "/etc/hosts"),
    }
    assert found == expected
    assert all(isinstance(one, Reason) and one.origin and one.detail for one in bundle.reasons)


def variants() -> list[dict[str, Any]]:
    return [
        {},
        {"profile": "shell"},
        {"root_inside": True},
        {"view": ViewPlan("bind", (), ()), "closure": ()},
        {"shell": ShellFiles(None, None)},
        {"caller": Caller(0, 0, "root", "root", "/root")},
        {"process": Process(("/bin/sh", "-c", "é"), (), "/", True, 0o77)},
        {"grants": Grants("flag --net", (PROJECT, SCRIPT), (EnvGrant("A", "b", "x"),))},
        {"host_files": load_profile("run").host_paths()},
    ]


@pytest.mark.parametrize("changes", variants(), ids=lambda one: "-".join(one) or "plain")
def test_every_bundle_meets_the_official_schema_and_our_rules(changes: dict[str, Any]) -> None:
    spec = compile_bundle(request(**changes)).spec
    assert accepts(spec.to_data())
    assert Spec.from_json(spec.to_json()) == spec
    assert check(spec) == []


@pytest.mark.parametrize("changes", variants(), ids=lambda one: "-".join(one) or "plain")
def test_the_same_request_gives_the_same_bytes(changes: dict[str, Any]) -> None:
    first, second = (compile_bundle(request(**changes)) for _ in range(2))
    assert first == second
    assert first.spec.to_json() == second.spec.to_json()
    assert first.digest() == second.digest()


def test_different_requests_have_different_digests() -> None:
    digests = [compile_bundle(request(**changes)).digest() for changes in variants()]
    assert len(set(digests)) == len(digests)


def test_the_digest_covers_the_rootfs_but_not_the_reasons() -> None:
    bundle = compile_bundle(request())
    other = compile_bundle(request(packages={str(TREE): "header packages"}))
    assert other.reasons != bundle.reasons
    assert other.digest() == bundle.digest()
    shell = SHELL._replace(env=None)
    assert compile_bundle(request(shell=shell)).digest() != bundle.digest()


@settings(deadline=None)
@given(st.randoms(use_true_random=False))
def test_the_order_of_the_request_makes_no_difference(random: Any) -> None:
    def shuffled(values: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(random.sample(values, len(values)))

    process = Process(("/x",), (("A", "1"), ("B", "2")), "/", False)
    files = load_profile("run").host_paths()
    grants = Grants("flag --net", (), (EnvGrant("C", "3", "x"), EnvGrant("D", None, "y")))
    notes = {"a": "1", "b": "2"}
    first = request(process=process, host_files=files, grants=grants, annotations=notes)
    second = request(
        process=process._replace(env=shuffled(process.env)),
        host_files=shuffled(files),
        grants=grants._replace(env=shuffled(grants.env)),
        annotations=dict(shuffled(tuple(notes.items()))),
        closure=shuffled((TREE, FILE, LINK)),
        view=ViewPlan("bind", shuffled(VIEW.mounts), shuffled(VIEW.links)),
    )
    assert compile_bundle(first) == compile_bundle(second)
    assert compile_bundle(first).digest() == compile_bundle(second).digest()


def test_a_profile_that_shares_the_network_says_so_itself(tmp_path: Path) -> None:
    file = tmp_path / "fetch.toml"
    file.write_text(
        'description = "x"\nextends = "run"\nnamespaces = ["mount", "pid", "user", "uts"]\n'
    )
    bundle = compile_bundle(request(profile=str(file), host_files=("/etc/resolv.conf",)))
    assert "/etc/resolv.conf" in mounts_of(bundle)
    assert reasons_of(bundle, "namespace", "network")[0][0] == f"profile {file}"


def test_a_profile_without_a_home(tmp_path: Path) -> None:
    file = tmp_path / "bare.toml"
    file.write_text('description = "x"\nnamespaces = ["mount", "user"]\nhome = "none"\n')
    bundle = compile_bundle(request(profile=str(file)))
    assert [mount.destination for mount in bundle.spec.mounts or ()] == [str(TREE), str(FILE)]
    assert bundle.spec.hostname is None
    assert accepts(bundle.spec.to_data())


def test_grants_are_mounted_parents_first_in_whatever_order_they_come() -> None:
    for paths in permutations((PROJECT, SCRIPT)):
        places = list(mounts_of(compile_bundle(request(grants=Grants(paths=paths)))))
        assert places[-2:] == [PROJECT.path, SCRIPT.path]


def test_profiles_are_values() -> None:
    assert isinstance(load_profile("run"), Profile)
    assert load_profile("run") == load_profile("run")
