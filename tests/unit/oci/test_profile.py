"""Profiles: the built-in ones, inheritance, and clear refusal of everything else."""

from __future__ import annotations

from pathlib import Path

import pytest
import tomli
from hypothesis import given, settings
from hypothesis import strategies as st

from eka_runtime.errors import ProfileError
from eka_runtime.oci.judge import judge
from eka_runtime.oci.profile import (
    Default,
    Limit,
    NetworkFile,
    Passed,
    Profile,
    ProfileMount,
    load_profile,
)
from eka_runtime.oci.profile_read import MAX_SIZE, builtin_files, judge_profile, read_filter
from eka_runtime.oci.spec_seccomp import Seccomp

MINIMAL = 'description = "x"\nnamespaces = ["mount", "user"]\n'


def load(tmp_path: Path, text: str) -> Profile:
    file = tmp_path / "mine.toml"
    file.write_text(text, "utf-8")
    return load_profile(str(file))


def refused(tmp_path: Path, text: str) -> str:
    with pytest.raises(ProfileError) as caught:
        load(tmp_path, text)
    assert str(tmp_path / "mine.toml") in str(caught.value)
    return str(caught.value).replace(str(tmp_path), "")


def test_run_isolates_everything_and_gives_no_privilege() -> None:
    profile = load_profile("run")
    assert set(profile.namespaces) == {"cgroup", "ipc", "mount", "network", "pid", "user", "uts"}
    assert profile.capabilities == ()
    assert profile.no_new_privileges
    assert profile.grant_cwd
    # For root inside these are the kernel's own switches.
    assert {"/proc/sys", "/proc/sysrq-trigger"} <= set(profile.readonly_paths)


def test_shell_is_run_with_a_prompt() -> None:
    run, shell = load_profile("run"), load_profile("shell")
    assert shell.name == "shell"
    assert set(shell.environment) - set(run.environment) == {
        Default("PS1", "[eka] \\w \\$ ", "profile shell")
    }
    assert shell.mounts == run.mounts
    assert shell.origin("namespaces") == "profile run"
    assert shell.origin("description") == "profile shell"


def test_mounts_come_parents_first() -> None:
    places = [mount.destination for mount in load_profile("run").mounts]
    assert places.index("/dev") < places.index("/dev/pts")


def test_host_paths_are_what_compiling_needs_to_know() -> None:
    paths = load_profile("run").host_paths()
    assert "/sys/devices/system/cpu" in paths
    assert "/etc/resolv.conf" in paths
    assert list(paths) == sorted(set(paths))


def test_an_own_profile_replaces_and_adds(tmp_path: Path) -> None:
    profile = load(
        tmp_path,
        """
        description = "mine"
        extends = "run"
        hostname = "mine"
        [environment]
        pass = ["TERM"]
        [environment.set]
        LANG = "C"
        [files]
        "/etc/motd" = "hello {user}"
        [network-files]
        "/etc/hosts" = ["/etc/hosts.mine"]
        [[rlimits]]
        type = "RLIMIT_NOFILE"
        soft = 10
        hard = 20
        [[mounts]]
        destination = "/tmp"
        type = "tmpfs"
        source = "tmpfs"
        options = ["size=1m"]
        why = "small"
        """,
    )
    origin = f"profile {tmp_path}/mine.toml"
    run = load_profile("run")
    assert (profile.hostname, profile.origin("hostname")) == ("mine", origin)
    assert Passed("TERM", False, origin) in profile.passed
    assert Passed("COLORTERM", True, "profile run") in profile.passed
    assert Default("LANG", "C", origin) in profile.environment
    assert Default("/etc/motd", "hello {user}", origin) in profile.files
    assert NetworkFile("/etc/hosts", ("/etc/hosts.mine",), origin) in profile.network_files
    assert profile.rlimits == (Limit("RLIMIT_NOFILE", 10, 20, origin),)
    assert set(profile.mounts) - set(run.mounts) == {
        ProfileMount("/tmp", "tmpfs", "tmpfs", ("size=1m",), True, False, "small", origin)
    }
    assert len(profile.mounts) == len(run.mounts)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('description = "x"\nfoo = 1\n', "line 2: .foo: unknown key"),
        ("description = 1\n", "line 1: .description: expected string, got integer"),
        ('description = ""\n', "line 1: .description: "),
        ("extends = 'run'\n", ".description: required field is missing"),
        (MINIMAL + "grant-cwd = 1\n", "line 3: .grant-cwd: expected boolean, got integer"),
        (MINIMAL + "grant_cwd = true\n", "line 3: .grant_cwd: unknown key"),
        (MINIMAL + "capabilities = ['SYS_ADMIN']\n", "line 3: .capabilities[0]: must match"),
        (MINIMAL + "masked-paths = ['proc']\n", "line 3: .masked-paths[0]: must be an absolute"),
        (MINIMAL + "readonly-paths = ['/a/../b']\n", "line 3: .readonly-paths[0]: must be"),
        (MINIMAL + "hostname = 'a b'\n", "line 3: .hostname: must match"),
        (MINIMAL + "home = 'real'\n", "line 3: .home: expected 'private' or 'none'"),
        (MINIMAL + "[environment.set]\n'A-B' = 'x'\n", "must match"),
        (MINIMAL + "[environment.set]\nA = '{secret}'\n", "line 4: .environment.set.A: unknown"),
        (MINIMAL + '[environment.set]\nA = "\\u0000"\n', "line 4: .environment.set.A: must not"),
        (MINIMAL + "[files]\n'/etc/../x' = ''\n", "line 4: "),
        (MINIMAL + "[files]\n'/nix/store/x' = ''\n", "`/nix` is made by eka"),
        (MINIMAL + "[files]\n'/bin/sh' = ''\n", "`/bin/sh` is made by eka"),
        (MINIMAL + f"[files]\n'/a' = '{'x' * 70_000}'\n", 'line 4: .files["/a"]: '),
        (MINIMAL + "[network-files]\n'/etc/x' = []\n", "line 4: "),
        (MINIMAL + "[[rlimits]]\ntype = 'RLIMIT_NOFILE'\nsoft = 2\nhard = 1\n", "must not exceed"),
        ("description = [\n", "is not valid TOML"),
        ("x = " + "[" * 50_000, "nested too deeply"),
        ('description = "x"\nnamespaces = ["user"]\n', "namespaces must include `mount`"),
        ('description = "x"\nnamespaces = ["mount"]\n', "namespaces must include `user`"),
        ('description = "x"\nnamespaces = ["mount", "user", "user"]\n', "`user` occurs twice"),
        ('description = "x"\nnamespaces = ["mount", "all"]\n', "line 2: .namespaces[1]: expected"),
        (MINIMAL + "hostname = 'x'\n", "hostname needs the `uts` namespace"),
        ('description = "x"\nextends = "absent"\n', "there is no profile `absent`"),
    ],
)
def test_a_mistake_is_named_with_file_line_and_key(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(text, "utf-8")
    with pytest.raises(ProfileError) as caught:
        load_profile(str(file))
    assert message in str(caught.value)
    assert caught.value.exit_code == 40


MOUNT = '[[mounts]]\ndestination = "/a"\ntype = "tmpfs"\nsource = "x"\nwhy = "y"\n'


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('"/a"', '"/nix/store"'), "line 9: .mounts[1].destination: `/nix` is made by eka"),
        (('"/a"', '"a"'), "line 9: .mounts[1].destination: must be an absolute path"),
        (('"/a"', '"/"'), "line 9: .mounts[1].destination: must be an absolute path"),
        (('"/a"', '"/b/"'), "line 9: .mounts[1].destination: must be an absolute path"),
        (('"/a"', '"/b\\n"'), "line 9: .mounts[1].destination: must not have control"),
        (('"tmpfs"', '"overlay"'), "line 10: .mounts[1].type: expected 'bind'"),
        (('"tmpfs"', '"bind"'), "line 8: .mounts[1]: must be an absolute path"),
        (('"tmpfs"\nsource = "x"', '"bind"\nsource = "/x"'), "a bind needs `bind` or `rbind`"),
        (('why = "y"', ""), "line 8: .mounts[1].why: required field is missing"),
        (('why = "y"', 'why = "y"\noptional = true'), "belong to binds"),
        (('why = "y"', 'why = "y"\noptions = "ro"'), "line 13: .mounts[1].options: expected array"),
        (("", ""), "`/a` occurs twice in `mounts`"),
        (('"/a"\ntype = "tmpfs"', '"/p"\ntype = "proc"'), "needs the `pid` namespace"),
    ],
)
def test_hostile_mounts_are_refused(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    assert message in refused(tmp_path, MINIMAL + MOUNT + MOUNT.replace(*change))


def test_extending_in_a_circle_ends(tmp_path: Path) -> None:
    here = tmp_path / "mine.toml"
    assert "circle" in refused(tmp_path, f'description = "x"\nextends = "{here}"\n')


@pytest.mark.parametrize("name", ["", "Run", "run.toml", "a b", "..", "absent"])
def test_a_name_that_is_no_profile_says_which_there_are(name: str) -> None:
    with pytest.raises(ProfileError) as caught:
        load_profile(name)
    assert caught.value.hint is not None
    assert "run, shell" in caught.value.hint


def test_a_file_that_is_missing_too_large_or_not_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match="No such file"):
        load_profile(str(tmp_path / "absent.toml"))
    assert "larger than 256 KiB" in refused(tmp_path, "#" * (MAX_SIZE + 1))
    (tmp_path / "mine.toml").write_bytes(b"\xff")
    with pytest.raises(ProfileError, match="not UTF-8"):
        load_profile(str(tmp_path / "mine.toml"))


@settings(deadline=None)
@given(st.text(alphabet='[]{}="\n ab.mounts', max_size=60))
def test_any_text_is_loaded_or_refused_as_a_profile(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    file = tmp_path_factory.mktemp("profile") / "mine.toml"
    file.write_text(text, "utf-8")
    with pytest.raises(ProfileError):
        load_profile(str(file))


def test_built_in_profiles_are_plain_toml_with_a_description() -> None:
    directory = Path(__file__).parents[3] / "bundles"
    names = sorted(file.stem for file in directory.glob("*.toml"))
    assert {"run", "shell"} <= set(names)
    for name in names:
        stated = tomli.loads((directory / f"{name}.toml").read_text("utf-8"))
        assert load_profile(name).description == stated["description"]


@pytest.mark.parametrize("file", builtin_files(), ids=lambda file: file.name)
def test_what_ships_with_eka_is_as_right_as_what_is_judged_at_each_start(file: Path) -> None:
    if file.suffix == ".json":
        assert read_filter(file) == judge(Seccomp, file.read_bytes())
    else:
        text = file.read_text("utf-8")
        judge_profile(file, text, tomli.loads(text))


def test_a_copy_of_a_built_in_profile_says_the_same(tmp_path: Path) -> None:
    """The copies are judged, since they are a user's."""
    for file in builtin_files():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    for name in ("build", "eval", "fetch", "run", "shell"):
        copy, own = load_profile(str(tmp_path / f"{name}.toml")), load_profile(name)
        assert copy.mounts == own.mounts or copy.name != own.name
        assert copy.seccomp == own.seccomp
