"""A store that CI saved and restored: a tar archive, unpacked elsewhere."""

from __future__ import annotations

from pathlib import Path

from tests.cli.world import World


def test_a_store_comes_back_from_an_archive_and_runs(world: World, box: Path) -> None:
    packed = world.run("tar", "-C", world.place, "-cf", box / "store.tar", "store")
    assert packed.status == 0, packed.err.decode()
    fresh = world.directory("restored")  # a short name: there is a socket below it
    unpacked = world.run("tar", "-C", fresh, "-xf", box / "store.tar")
    assert unpacked.status == 0, unpacked.err.decode()
    env = {"EKA_STORE": str(fresh / "store"), "XDG_CACHE_HOME": str(fresh / "cache")}
    verified = world.run("eka", "store", "verify", "--deep", env=env)
    assert verified.status == 0, verified.out.decode()
    ran = world.run("eka", "run", world.greet, "you", env=env)
    assert ran.out.startswith(b"Hello, you!"), ran.err.decode()
