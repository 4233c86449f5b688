"""eka in eka: a program that may nest starts bundles of its own, which see less than it does."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.world import World
from tests.requirements import lacking, require

BODY = """\
unset XDG_RUNTIME_DIR
export HOME="$PWD/home" EKA_STORE="$PWD/store" XDG_CACHE_HOME="$PWD/cache" XDG_CONFIG_HOME="$PWD"
export PATH={bin}:$PATH
eka doctor --json
for _ in cold warm; do ./inner word; echo "status $?"; done
"""
INNER = """\
echo "$1 $(ls /nix/store | wc -l)"
if [ -e {bin} ]; then echo "what only the outer one was granted"; fi
exit 7
"""


def chain(program: Path) -> Iterator[str]:
    """A program, and every link on the way to it."""
    yield os.fspath(program)
    while program.is_symlink():
        program = program.parent / os.readlink(program)
        yield os.fspath(program)


@pytest.mark.parametrize("runtime", ["crun", "runc"])
def test_eka_in_eka(world: World, box: Path, runtime: str) -> None:
    libraries = ["/usr/lib", "/lib", "/lib64"]
    python = [*chain(world.bin / "python3")]
    if not python[-1].startswith("/usr/bin/") or not all(map(os.path.isdir, libraries)):
        lacking("no Python in /usr/bin with its libraries in /lib")
    own = [os.fspath(world.bin.parent), *python[1:], *libraries]
    # runc wants to see control groups, which no bundle does.
    own += [require("crun"), os.path.realpath(require("busybox"))]
    require(runtime)
    for name in ("home", "cache"):
        made = box / name
        made.mkdir()
        os.chown(made, world.user.uid, world.user.gid)
    # Of the store in force a program sees its closure only, so the inner one has another.
    words = ("eka", "store", "copy", "--from", world.place / "store", world.busybox)
    assert world.run(*words, env={"EKA_STORE": os.fspath(box / "store")}).status == 0
    world.script(box, INNER.format(bin=world.bin), name="inner")
    header = f"nesting = true\nread = {json.dumps(own)}"
    script = world.script(box, BODY.format(bin=world.bin), header, name="outer")
    done = world.run(script, cwd=box, env={"EKA_RUNTIME": runtime, "TMPDIR": "/tmp"})
    report, *lines = done.out.decode().splitlines()
    # /proc of a bundle is masked, so another one is denied; the doctor knows.
    assert json.loads(report)["mode"] == "degraded", done
    assert lines == ["word 1", "status 7"] * 2, done.err.decode()
