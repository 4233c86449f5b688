"""Writing bundles: the tree on disk, all or nothing, and safe against what is there already."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from eka_runtime.errors import EkaError, ShellMissing, SpecError, UsageError
from eka_runtime.oci.bundle import Bundle, ShellFiles, ShellSource, compile_bundle, write_bundle
from eka_runtime.oci.rootfs import Rootfs, RootfsEntry, write_entries
from eka_runtime.oci.spec import load_spec
from tests.requirements import lacking
from tests.unit.oci.requests import LINK, TREE, request


@pytest.fixture
def shell(tmp_path: Path) -> Path:
    file = tmp_path / "busybox"
    file.write_bytes(b"#!static\n")
    file.chmod(0o755)
    return file


@pytest.fixture
def bundle(shell: Path) -> Bundle:
    source = ShellSource("host", os.fspath(shell))
    return compile_bundle(request(shell=ShellFiles(source, source)))


def listing(root: Path) -> set[tuple[str, int]]:
    return {
        (os.path.relpath(path, root), stat.S_IMODE(path.lstat().st_mode))
        for path in root.rglob("*")
        if not path.is_symlink()
    }


def test_what_is_written_is_what_was_compiled(tmp_path: Path, bundle: Bundle) -> None:
    dest = tmp_path / "bundle"
    write_bundle(bundle, dest)
    assert sorted(os.listdir(dest)) == ["config.json", "eka.json", "rootfs"]
    assert load_spec(dest) == bundle.spec
    rootfs = dest / "rootfs"
    planned = {(entry.path, entry.mode) for entry in bundle.rootfs if entry.kind != "symlink"}
    assert listing(rootfs) == planned
    assert (rootfs / "tmp").stat().st_mode & 0o7777 == 0o1777
    assert os.readlink(rootfs / str(LINK)[1:]) == str(TREE)
    assert (rootfs / "etc/passwd").read_text().startswith("alice:x:1234:5678:")
    assert json.loads((dest / "eka.json").read_bytes())["digest"] == bundle.digest()


def test_modes_do_not_depend_on_the_umask(tmp_path: Path, bundle: Bundle) -> None:
    old = os.umask(0o077)
    try:
        write_bundle(bundle, tmp_path / "strict")
    finally:
        os.umask(old)
    write_bundle(bundle, tmp_path / "usual")
    strict, usual = (listing(tmp_path / name / "rootfs") for name in ("strict", "usual"))
    assert strict == usual
    assert stat.S_IMODE((tmp_path / "strict/rootfs").stat().st_mode) == 0o755


def test_the_shell_is_linked_once_for_both_names(
    tmp_path: Path, bundle: Bundle, shell: Path
) -> None:
    write_bundle(bundle, tmp_path / "bundle")
    sh, env = tmp_path / "bundle/rootfs/bin/sh", tmp_path / "bundle/rootfs/usr/bin/env"
    assert sh.samefile(shell)
    assert env.samefile(shell)


def test_a_shell_behind_a_symlink_is_linked_itself(tmp_path: Path, shell: Path) -> None:
    alias = tmp_path / "alias"
    alias.symlink_to(shell)
    source = ShellSource("host", os.fspath(alias))
    write_bundle(compile_bundle(request(shell=ShellFiles(source, None))), tmp_path / "bundle")
    assert not (tmp_path / "bundle/rootfs/bin/sh").is_symlink()


def test_a_shell_on_another_file_system_is_copied(tmp_path: Path, shell: Path) -> None:
    if not os.path.isdir("/dev/shm") or os.stat("/dev/shm").st_dev == tmp_path.stat().st_dev:
        lacking("there is no second file system at /dev/shm")
    root = Path("/dev/shm") / f"eka-test-{os.getpid()}"
    root.mkdir()
    try:
        for name in ("a", "b"):
            write_entries(root, [RootfsEntry(name, "host", 0o755, os.fspath(shell))])
            assert (root / name).read_bytes() == shell.read_bytes()
            assert stat.S_IMODE((root / name).stat().st_mode) == 0o755
    finally:
        for name in ("a", "b"):
            (root / name).unlink(missing_ok=True)
        root.rmdir()


def test_a_shell_that_went_away_leaves_nothing_behind(
    tmp_path: Path, bundle: Bundle, shell: Path
) -> None:
    shell.unlink()
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(ShellMissing):
        write_bundle(bundle, tmp_path / "bundle")
    assert sorted(os.listdir(tmp_path)) == before


def test_an_empty_directory_is_filled(tmp_path: Path, bundle: Bundle) -> None:
    (tmp_path / "bundle").mkdir()
    write_bundle(bundle, tmp_path / "bundle")
    assert (tmp_path / "bundle/config.json").exists()


@pytest.mark.parametrize("kind", ["full", "file", "dangling", "bundle"])
def test_what_is_there_is_never_touched(tmp_path: Path, bundle: Bundle, kind: str) -> None:
    dest = tmp_path / "bundle"
    match kind:
        case "full":
            dest.mkdir()
            (dest / "precious").touch()
        case "file":
            dest.touch()
        case "dangling":
            dest.symlink_to("nowhere")
        case "bundle":
            write_bundle(bundle, dest)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UsageError, match="there already") as caught:
        write_bundle(bundle, dest)
    assert caught.value.hint is not None
    assert sorted(tmp_path.rglob("*")) == before


def test_a_missing_parent_is_reported(tmp_path: Path, bundle: Bundle) -> None:
    with pytest.raises(EkaError, match="cannot write the bundle"):
        write_bundle(bundle, tmp_path / "absent" / "bundle")


def test_the_plan_refuses_two_things_in_one_place() -> None:
    rootfs = Rootfs()
    rootfs.file("/etc/x", "1")
    rootfs.file("/etc/x", "1")
    with pytest.raises(SpecError, match="two different things"):
        rootfs.file("/etc/x", "2")
    with pytest.raises(SpecError, match="as a directory"):
        rootfs.directory("/etc/x/y")
    with pytest.raises(SpecError, match="as a file"):
        rootfs.mount_point("/etc", directory=False)


def test_a_mount_point_may_be_a_file_that_is_there() -> None:
    rootfs = Rootfs()
    rootfs.file("/etc/hosts", "text")
    rootfs.mount_point("/etc/hosts", directory=False)
    assert rootfs.entries()[-1] == RootfsEntry("etc/hosts", "file", 0o644, "text")


def test_a_later_mode_changes_a_directory_but_a_later_parent_does_not() -> None:
    rootfs = Rootfs()
    rootfs.directory("/tmp")
    rootfs.directory("/tmp", 0o1777)
    rootfs.directory("/tmp/x")
    assert rootfs.entries()[0].mode == 0o1777
    assert rootfs.has_directory("/tmp")
    assert not rootfs.has_directory("/absent")
