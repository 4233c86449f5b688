"""Errors as a user meets them: what went wrong and where, a hint, an exit code of its own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from eka_runtime import errors
from tests.cli.world import Done, World

ABSENT = "/nix/store/00000000000000000000000000000000-absent-1.0"


def says(done: Done, kind: type[errors.EkaError], *texts: str) -> None:
    shown = done.err.decode()
    assert done.status == kind.exit_code, shown
    # /bin/sh, which starts eka-run, may have had a word of its own about the directory.
    assert any(line.startswith("error: ") for line in shown.splitlines()[:2]), shown
    assert "\nhint: " in shown, shown
    assert "Traceback" not in shown
    for text in texts:
        assert text in shown


def test_no_runtime(world: World, box: Path) -> None:
    script = world.script(box, "true")
    done = world.run(script, env={"EKA_RUNTIME": str(box / "no-such-runtime")})
    says(done, errors.RuntimeMissing, "no-such-runtime", "install crun")


def test_a_path_that_is_not_in_the_store(world: World, box: Path) -> None:
    script = world.script(box, "true", f'packages = ["{ABSENT}"]')
    says(world.run(script), errors.PathNotFound, ABSENT, "script:3:")


def test_a_mentioned_path_that_is_not_in_the_store(world: World, box: Path) -> None:
    script = world.file(box / "script", f"#!/usr/bin/env eka-run\n\n  {ABSENT}/bin/x\n", 0o755)
    says(world.run(script), errors.PathNotFound, "script:3:3", ABSENT)


def test_a_malformed_header(world: World, box: Path) -> None:
    text = "#!/usr/bin/env eka-run\n# /// eka\n# packages = [\n# network = nope\n# ///\n"
    script = world.file(box / "script", text, 0o755)
    done = world.run(script)
    assert done.status == errors.HeaderError.exit_code
    assert b"script:4:" in done.err


def test_an_unknown_key(world: World, box: Path) -> None:
    script = world.script(box, "true", "netwrok = true")
    says(world.run(script), errors.HeaderError, "script:4:3", "`netwrok`", "`network`")


def test_an_unknown_flag(world: World, box: Path) -> None:
    says(world.run("eka-run", "--nett", "x"), errors.UsageError, "`--nett`", "`--net`")


def test_a_missing_interpreter(world: World, box: Path) -> None:
    script = world.script(box, "true", 'interpreter = "python9"')
    says(world.run(script), errors.InterpreterNotFound, "`python9`", "not in the packages")


def test_a_missing_file(world: World, box: Path) -> None:
    done = world.run("eka-run", box / "nothing")
    assert done.status == errors.UsageError.exit_code
    assert b"no such file" in done.err


def test_a_grant_of_what_is_not_there(world: World, box: Path) -> None:
    script = world.script(box, "true", 'read = ["./nothing"]')
    says(world.run(script), errors.GrantError, "nothing", "script:4:")


@pytest.mark.parametrize("path", ["/", "/nix/store", "/proc", "/usr"])
def test_a_grant_of_what_cannot_be_given(world: World, box: Path, path: str) -> None:
    script = world.script(box, "true", f'write = ["{path}"]')
    says(world.run(script), errors.GrantError, f"`{path}`")


def test_a_working_directory_that_is_gone(world: World, box: Path) -> None:
    script = world.script(box, "true")
    gone = box / "gone"
    line = f"mkdir {gone} && cd {gone} && rmdir {gone} && exec {script}"
    says(world.run("/bin/sh", "-c", line), errors.CwdError, "working directory", "-C DIR")


def test_no_static_shell(world: World, box: Path) -> None:
    script = world.file(box / "script", "#!/usr/bin/env eka-run\necho\n", 0o755)
    done = world.run(script, env={"EKA_SHELL": "/usr/bin/env"})
    says(done, errors.ShellMissing, "not statically linked", "busybox-static")


def test_an_unknown_setting(world: World, box: Path) -> None:
    config = world.directory(f"{box.name}-config")
    (config / "eka").mkdir()
    (config / "eka" / "eka.toml").write_text('shel = "/bin/x"\n')
    os.chmod(config / "eka", 0o755)
    done = world.run("eka", "store", "list", env={"XDG_CONFIG_HOME": str(config)})
    says(done, errors.ConfigError, "`shel`", "eka.toml")


def test_user_namespaces_are_forbidden(world: World, box: Path) -> None:
    script = world.script(box, "true")
    forbid = "echo 0 > /proc/sys/user/max_user_namespaces"
    line = f"mount -t proc proc /proc && {forbid} && exec {script}"
    namespaces = ["unshare", "--user", "--map-root-user", "--mount", "--pid", "--fork"]
    env = {"XDG_CACHE_HOME": str(box / "cache")}
    done = world.run(*namespaces, "sh", "-c", line, env=env)
    says(done, errors.UsernsForbidden, "user namespaces", "max_user_namespaces")


def test_a_pipe_is_no_script(world: World, box: Path) -> None:
    pipe = box / "pipe"
    os.mkfifo(pipe)
    os.chown(pipe, world.user.uid, world.user.gid)
    says(world.run("eka-run", pipe), errors.UsageError, "not a regular file")
