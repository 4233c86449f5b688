"""What is granted, what is refused, and where it appears inside."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import permutations
from pathlib import Path

import pytest

from eka_runtime.errors import GrantError
from eka_runtime.oci.grants import DEFAULT_CWD, SCRIPT, EnvGrant, Grant, Grants, resolve_grants


class World:
    """A home with a project and some data, and a directory outside of it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.home = root / "home"
        self.project = self.home / "project"
        self.data = self.home / "data"
        self.outside = root / "outside"
        for directory in (self.project / "sub", self.data / "deep", self.outside):
            directory.mkdir(parents=True)
        self.script = self.project / "tool.py"
        self.script.write_text("#!/usr/bin/env eka-run\n")

    def resolve(
        self,
        read: Sequence[str] = (),
        write: Sequence[str] = (),
        *,
        cwd: Path | str | None = None,
        grant_cwd: bool = True,
        script: Path | None = None,
        env: Sequence[str] = (),
        network: str | None = None,
    ) -> Grants:
        return resolve_grants(
            [(text, "flag --read") for text in read],
            [(text, "flag --write") for text in write],
            self.project,
            os.fspath(self.home),
            os.fspath(cwd or self.project),
            grant_cwd,
            script,
            [(text, "flag --env") for text in env],
            network,
        )

    def refused(self, *read: str) -> GrantError:
        with pytest.raises(GrantError) as caught:
            self.resolve(read, grant_cwd=False)
        return caught.value


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def tree(path: Path, *, write: bool, origin: str, source: Path | None = None) -> Grant:
    return Grant(os.fspath(path), write, origin, os.fspath(source or path), True)


def test_nothing_asked_grants_the_working_directory_only(world: World) -> None:
    assert world.resolve() == Grants(
        paths=(tree(world.project, write=True, origin=DEFAULT_CWD),),
    )


def test_a_profile_may_not_grant_the_working_directory(world: World) -> None:
    assert world.resolve(grant_cwd=False) == Grants()


def test_relative_and_home_paths(world: World) -> None:
    found = world.resolve(["~/data", "../data/deep"], ["./sub"], grant_cwd=False).paths
    assert found == (
        tree(world.data, write=False, origin="flag --read"),
        tree(world.data / "deep", write=False, origin="flag --read"),
        tree(world.project / "sub", write=True, origin="flag --write"),
    )


def test_a_file_is_granted_as_a_file(world: World) -> None:
    (grant,) = world.resolve(["tool.py"], grant_cwd=False).paths
    assert grant == Grant(
        os.fspath(world.script), False, "flag --read", os.fspath(world.script), False
    )


def test_the_script_is_read_only_on_top_of_the_working_directory(world: World) -> None:
    directory, script = world.resolve(script=Path("tool.py")).paths
    assert directory.write
    assert script == Grant(os.fspath(world.script), False, SCRIPT, os.fspath(world.script), False)


def test_an_explicit_grant_replaces_the_default_one(world: World) -> None:
    (directory,) = world.resolve(["."]).paths
    assert directory == tree(world.project, write=False, origin="flag --read")
    _, script = world.resolve((), ["tool.py"], script=world.script).paths
    assert script.write


def test_of_two_explicit_grants_writing_wins_and_both_origins_are_kept(world: World) -> None:
    (grant,) = world.resolve(["~/data"], ["~/data/"], grant_cwd=False).paths
    assert grant == tree(world.data, write=True, origin="flag --read, flag --write")


@pytest.mark.parametrize("write_parent", [True, False])
def test_nested_grants_keep_their_own_access_parents_first(
    world: World, write_parent: bool
) -> None:
    parent, child = ["~/data"], ["~/data/deep"]
    found = world.resolve(*((child, parent) if write_parent else (parent, child)), grant_cwd=False)
    assert [(Path(grant.path), grant.write) for grant in found.paths] == [
        (world.data, write_parent),
        (world.data / "deep", not write_parent),
    ]


def test_the_order_of_asking_makes_no_difference(world: World) -> None:
    texts = ["~/data", "~/data/deep", ".", "./sub", "../../outside"]
    results = {world.resolve(order) for order in permutations(texts)}
    assert len(results) == 1


def test_a_name_sorts_after_the_directories_above_it_whatever_its_characters(world: World) -> None:
    # "/" sorts after "-": a plain sort would put a-b between a and a/c.
    for name in ("a/c", "a-b"):
        (world.project / name).mkdir(parents=True)
    found = world.resolve(["a-b", "a/c", "a"], grant_cwd=False).paths
    assert [os.path.relpath(grant.path, world.project) for grant in found] == ["a", "a/c", "a-b"]


def test_a_symlink_is_resolved_now_and_shown_under_its_name(world: World) -> None:
    link = world.home / "link"
    link.symlink_to(world.outside)
    (world.outside / "file").touch()
    found = world.resolve(["~/link/file", "~/link"], grant_cwd=False).paths
    assert found == (
        tree(link, write=False, origin="flag --read", source=world.outside),
        Grant(f"{link}/file", False, "flag --read", f"{world.outside}/file", False),
    )


def test_a_name_through_a_link_inside_another_grant_is_mounted_where_the_link_leads(
    world: World,
) -> None:
    (world.project / "link").symlink_to(world.outside)
    (world.outside / "deep").mkdir()
    found = world.resolve([".", "./link/deep"], grant_cwd=False).paths
    assert found == (
        tree(world.project, write=False, origin="flag --read"),
        tree(world.outside / "deep", write=False, origin="flag --read"),
    )


@pytest.mark.parametrize("text", ["./link", "./link/deep", "./link/..", "./inner/../link/deep"])
def test_a_link_out_of_what_can_be_written_is_not_followed(world: World, text: str) -> None:
    (world.project / "link").symlink_to(world.outside)
    (world.project / "inner").mkdir(exist_ok=True)
    (world.outside / "deep").mkdir()
    with pytest.raises(GrantError, match="which the program may write to") as caught:
        world.resolve([text])
    assert "grant the place itself" in (caught.value.hint or "")
    assert world.resolve([text], grant_cwd=False).paths


def test_a_link_within_what_can_be_written_is_followed(world: World) -> None:
    (world.project / "inner").mkdir(exist_ok=True)
    (world.project / "link").symlink_to("inner")
    assert [grant.source for grant in world.resolve(["./link"]).paths][1:] == [
        str(world.project / "inner")
    ]


def test_dots_after_a_link_go_where_the_kernel_goes(world: World) -> None:
    (world.outside / "inner").mkdir()
    (world.home / "link").symlink_to(world.outside / "inner")
    (grant,) = world.resolve(["~/link/.."], grant_cwd=False).paths
    assert grant == tree(world.outside, write=False, origin="flag --read")


@pytest.mark.parametrize("where", ["home", "."])
def test_the_home_directory_and_its_parents_are_not_granted_by_default(
    world: World, where: str
) -> None:
    found = world.resolve(cwd=world.root / where)
    assert found.paths == ()
    (note,) = found.notes
    assert "home directory" in note
    assert "--write" in note


def test_home_reached_through_a_link_is_still_home(world: World) -> None:
    alias = world.root / "alias"
    alias.symlink_to(world.home)
    found = resolve_grants([], [], Path(), os.fspath(alias), os.fspath(world.home), True)
    assert found.paths == ()
    assert len(found.notes) == 1


def test_the_home_directory_is_granted_when_asked_for(world: World) -> None:
    found = world.resolve((), ["~"], cwd=world.home)
    assert found.paths == (tree(world.home, write=True, origin="flag --write"),)
    assert found.notes == ()


def test_who_asks_for_paths_is_not_told_about_the_home_directory(world: World) -> None:
    """Such a script may be started from there every day, as a cron job is."""
    assert world.resolve(["~/data"], cwd=world.home).notes == ()


@pytest.mark.parametrize("cwd", ["/", "/tmp", "/etc", "/usr", "/proc/self", "/nix", "/dev"])
def test_system_directories_are_not_granted_by_default(world: World, cwd: str) -> None:
    found = world.resolve(cwd=cwd)
    assert found.paths == ()
    assert len(found.notes) == 1


@pytest.mark.parametrize(
    "path",
    ["/", "/proc", "/proc/self", "/sys", "/dev", "/bin", "/etc", "/tmp", "/usr", "/usr/bin", "//",
     "/usr/bin/env", "/bin/sh", "/dev/pts", "/etc/../etc", "/tmp/.", "//etc"],
)  # fmt: skip
def test_what_the_bundle_has_of_its_own_cannot_be_granted(world: World, path: str) -> None:
    error = world.refused(path)
    assert path in str(error)
    assert "flag --read" in str(error)
    assert error.exit_code == 42


@pytest.mark.parametrize("path", ["/etc/passwd", "/usr/share"])
def test_what_lies_below_system_directories_can_be_granted(world: World, path: str) -> None:
    (grant,) = world.resolve([path], grant_cwd=False).paths
    assert grant.path == path


def resolve_devices(world: World, *names: str) -> Grants:
    asked = [(name, "flag --device") for name in names]
    known = ("/dev/null", "/dev/ze*", "/dev/shm")
    place = os.fspath(world.project)
    return resolve_grants(
        (), (), world.project, place, place, False, devices=asked, device_names=known
    )


def test_devices_are_granted_by_the_names_of_the_profile(world: World) -> None:
    first, second = resolve_devices(world, "/dev/zero", "/dev/null").paths
    assert first == Grant("/dev/null", True, "flag --device", "/dev/null", False, True)
    assert (second.path, second.device) == ("/dev/zero", True)


@pytest.mark.parametrize("name", ["/dev/mem", "/dev/full", "/dev/zebra", "/dev/ze/../mem", "null"])
def test_other_devices_are_not(world: World, name: str) -> None:
    with pytest.raises(GrantError) as caught:
        resolve_devices(world, name)
    assert name in str(caught.value)


@pytest.mark.parametrize("name", ["/dev/null", "./link"])
def test_a_device_is_not_granted_as_a_file(world: World, name: str) -> None:
    (world.project / "link").symlink_to("/dev/null")
    error = world.refused(name)
    assert "is a device, not a file" in str(error)
    assert "--device /dev/null" in (error.hint or "")


def test_a_double_slash_is_one(world: World) -> None:
    (grant,) = world.resolve(["//usr/share"], grant_cwd=False).paths
    assert grant.path == "/usr/share"


@pytest.mark.parametrize("target", ["/", "/proc/self"])
def test_a_link_cannot_smuggle_in_the_whole_host(world: World, target: str) -> None:
    (world.project / "innocent").symlink_to(target)
    assert "of the host" in str(world.refused("./innocent"))


def test_a_link_inside_a_grant_cannot_lead_onto_the_bundles_own_places(world: World) -> None:
    (world.project / "innocent").symlink_to("/etc")
    with pytest.raises(GrantError, match="the bundle has its own `/etc`"):
        world.resolve(["./innocent"])


def test_store_paths_are_packages(world: World) -> None:
    (world.project / "result").symlink_to("/nix/store/00000000000000000000000000000000-absent")
    for text in ("./result", "/nix/store/00000000000000000000000000000000-absent"):
        error = world.refused(text)
        assert error.hint is not None
        assert "-p" in error.hint


def test_what_does_not_exist_cannot_be_granted(world: World) -> None:
    error = world.refused("~/absent")
    assert str(error) == "cannot grant `~/absent` (flag --read): No such file or directory"
    assert error.hint == "create it first, or drop the grant"


def test_a_loop_of_links_is_refused(world: World) -> None:
    (world.project / "loop").symlink_to("loop")
    assert "symbolic links" in str(world.refused("./loop"))


@pytest.mark.parametrize("text", ["", "a\0b", "~root", "~root/x"])
def test_what_is_not_a_path_is_refused(world: World, text: str) -> None:
    assert "(flag --read)" in str(world.refused(text))


def test_the_script_must_be_a_regular_file_of_its_own(world: World) -> None:
    with pytest.raises(GrantError, match="is a directory"):
        world.resolve(script=world.project)
    with pytest.raises(GrantError) as caught:
        world.resolve(script=Path("/proc/self/status"))
    assert caught.value.hint == "save the script to a regular file"


def test_variables(world: World) -> None:
    found = world.resolve(env=["TOKEN", "MODE=a=b", "EMPTY=", "TOKEN"], grant_cwd=False)
    assert found.env == (
        EnvGrant("EMPTY", "", "flag --env"),
        EnvGrant("MODE", "a=b", "flag --env"),
        EnvGrant("TOKEN", None, "flag --env"),
    )


def test_the_last_value_of_a_variable_wins(world: World) -> None:
    (grant,) = world.resolve(env=["A=1", "A=2"], grant_cwd=False).env
    assert grant.value == "2"


@pytest.mark.parametrize("text", ["", "=x", "1A", "A B", "A-B=1", "A=\0", "é=1"])
def test_what_is_not_a_variable_is_refused(world: World, text: str) -> None:
    with pytest.raises(GrantError, match=r"\(flag --env\)"):
        world.resolve(env=[text])


def test_the_network_keeps_who_asked_for_it(world: World) -> None:
    assert world.resolve(network="header network").network == "header network"
    assert world.resolve().network is None


def test_directories_that_decide_what_runs_outside_are_not_granted(tmp_path: Path) -> None:
    own = tmp_path / "home/.cache/eka"
    (own / "launch").mkdir(parents=True)
    home = str(tmp_path / "home")

    def resolve(cwd: Path, write: list[tuple[str, str]]) -> Grants:
        return resolve_grants([], write, tmp_path, home, str(cwd), True, own=[str(own)])

    for cwd in (own, own / "launch", own.parent):
        grants = resolve(cwd, [])
        assert grants.paths == ()
        assert "where eka keeps its own files" in grants.notes[0]
    for place in (own, own / "launch"):
        with pytest.raises(GrantError, match="runs outside of the sandbox"):
            resolve(tmp_path, [(str(place), "--write")])
    noted = resolve(tmp_path, [(str(own.parent), "--write")])
    assert "is not held by the sandbox" in noted.notes[0]


def test_a_hidden_directory_is_covered_where_a_grant_would_show_it(tmp_path: Path) -> None:
    store = tmp_path / "project/.eka"
    store.mkdir(parents=True)
    (tmp_path / "link").symlink_to("project")
    read = [(str(tmp_path / "link"), "--read")]
    cwd = str(tmp_path / "project")
    grants = resolve_grants(read, [], tmp_path, "/home/x", cwd, True, hidden=[str(store)])
    assert set(grants.covered) == {str(store), str(tmp_path / "link/.eka")}
