"""What every evaluator must do, whichever program it is; and that one can be named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.cli.world import World

EXPRESSION = """
{ numbers ? [ 1 2.5 ], cfg, system, ... }:
{
  inherit numbers system;
  text = "a\\n\\"é\\"";
  nested = { a = null; b = [ true { } ]; };
  read = builtins.readFile ./data;
  imported = import ./lib.nix 20;
  outside = builtins.readFile ../outside;
  failing = throw "on purpose";
}
"""


# There is no package of snix to ask for, so where it is not, it is no capability that is lacking.
@pytest.fixture(params=["nix", *(["snix"] if shutil.which("snix") else [])])
def evaluator(request: pytest.FixtureRequest, world: World, box: Path) -> dict[str, str]:
    """Variables that name it."""
    if request.param == "nix":
        return {}
    program = shutil.which("snix")
    assert program is not None
    (box / "snix" / "bin").mkdir(parents=True)
    shutil.copy(program, box / "snix" / "bin" / "snix")
    added = world.run("eka", "store", "add", str(box / "snix"))
    return {"EKA_EVALUATOR": added.out.decode().strip()}


@pytest.fixture
def tree(world: World, box: Path) -> Path:
    made = box / "tree"
    made.mkdir(mode=0o755)
    world.file(made / "default.nix", EXPRESSION)
    world.file(made / "data", "data")
    world.file(made / "lib.nix", "x: x + 1")
    world.file(box / "outside", "of the host")
    return made


def test_values(world: World, tree: Path, evaluator: dict[str, str]) -> None:
    def value(attribute: str, *more: str) -> object:
        done = world.run("eka", "eval", f"{tree}#{attribute}", "--json", *more, env=evaluator)
        assert done.status == 0, done.err.decode()
        return json.loads(done.out)

    assert value("text") == 'a\n"é"'
    assert value("nested") == {"a": None, "b": [True, {}]}
    assert value("read") == "data"
    assert value("imported") == 21
    assert value("numbers", "--set", "numbers=[3, 0.5]") == [3, 0.5]
    assert value("system", "--system", "riscv64-linux") == "riscv64-linux"


def test_failures(world: World, tree: Path, evaluator: dict[str, str]) -> None:
    failing = world.run("eka", "eval", f"{tree}#failing", env=evaluator)
    assert (failing.status, failing.out) == (66, b"")
    assert b"on purpose" in failing.err
    outside = world.run("eka", "eval", f"{tree}#outside", env=evaluator)
    assert outside.status in (66, 67)
    assert bytes(tree.parent / "outside") in outside.err


def test_one_that_is_none(world: World, tree: Path) -> None:
    for named, message in ((world.busybox, b"has neither"), ("nonsense", b"nonsense")):
        done = world.run("eka", "eval", f"{tree}#text", env={"EKA_EVALUATOR": named})
        assert done.status == 68, done.err.decode()
        assert message in done.err
