"""Real software from source, offline, by a user without privileges."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.builds import VECTORS, Derivations, build, instantiate
from tests.cli.conftest import open_directory
from tests.cli.world import World
from tests.software import python, sdist, sources, toolchain, unpack
from tests.users import labels

# One is enough; he who has least.
pytestmark = pytest.mark.parametrize("world", [labels()[-1]], indirect=True, scope="session")


@pytest.fixture(scope="session")
def software() -> Iterator[Derivations]:
    zlib, lua, hello = sources("zlib", "lua5.4", "hello")
    with open_directory() as place:
        trees = {
            "toolchain": toolchain(place),
            "zlib": unpack(zlib, place / "zlib"),
            "lua": unpack(lua, place / "lua"),
            "hello": unpack(hello, place / "hello"),
            "python": python(place),
            "markupsafe": unpack(sdist("markupsafe"), place / "markupsafe"),
            "deflate": VECTORS / "deflate",
        }
        yield instantiate(place, "software.nix", **trees)


@pytest.mark.timeout(600)
def test_real_software_is_built_and_runs(world: World, software: Derivations) -> None:
    software.load(world)
    drvs = software.drvs
    wanted = [drvs[name] for name in ("interpreter", "program", "greeting", "wheel")]
    done = build(world, "-j", "2", *wanted)
    assert done.status == 0, done.err.decode()
    lua, program, hello, wheel = done.out.decode().split()
    said = world.run("eka", "run", f"{lua}/bin/lua", "-e", "print(_VERSION, 6 * 7)")
    assert said.out == b"Lua 5.4\t42\n", said.err.decode()
    said = world.run("eka", "run", f"{program}/bin/deflate")
    assert said.out.startswith(b"zlib 1."), said.err.decode()
    # Not its greeting, of which gcc 14 makes a crash.
    said = world.run("eka", "run", "--", f"{hello}/bin/hello", "--version")
    assert said.out.startswith(b"hello (GNU Hello) "), said.err.decode()
    listed = world.run("eka", "store", "ls", wheel).out.decode()
    assert re.fullmatch(r"markupsafe-\S+-linux_x86_64\.whl\n", listed)
    assert "&lt;hello&gt;" in world.run("eka", "log", drvs["wheel"]).out.decode()
    tested = world.run("eka", "log", drvs["libz"]).out.decode()
    assert "*** zlib test OK ***" in tested
    again = build(world, "--check", drvs["program"])
    assert again.status == 0, again.err.decode()
