"""Hashes modulo and output paths: vectors, and everything in derivations.nix against real Nix."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from eka_runtime.errors import FormatError
from eka_runtime.nix.derivation import Derivation, Output, derivation_name
from eka_runtime.nix.derivation_json import from_json, to_json
from eka_runtime.nix.outputs import (
    Modulos,
    input_placeholder,
    output_placeholder,
    resolve,
)
from eka_runtime.nix.path import StorePath
from tests.requirements import require
from tests.seed import NixStore
from tests.unit.nix.test_derivation import of_vector
from tests.unit.nix.vectors import of_kind

EXPRESSIONS = Path(__file__).parents[2] / "vectors" / "derivations.nix"
FEATURES = (
    "--option",
    "experimental-features",
    "nix-command ca-derivations impure-derivations",
)

VECTORS = {
    StorePath.parse(expected["drv_path"]): (of_vector(given), expected)
    for given, expected in (vector.values for vector in of_kind("derivation"))
}


def read_vector(path: StorePath) -> Derivation:
    return Derivation.parse(derivation_name(path), VECTORS[path][0])


@pytest.mark.parametrize("path", VECTORS, ids=str)
def test_vectors(path: StorePath) -> None:
    expected: dict[str, Any] = VECTORS[path][1]
    modulos, drv = Modulos(read_vector), read_vector(path)
    assert set(modulos.of_path(path).digests.values()) == {
        bytes.fromhex(expected["modulo_full_hex"])
    }
    modulos.check(drv)
    paths = modulos.output_paths(drv)
    assert {name: str(found) for name, found in paths.items()} == expected["outputs"]
    blank = drv._replace(
        outputs={name: output._replace(path="") for name, output in drv.outputs.items()},
        env=drv.env | dict.fromkeys(drv.outputs, ""),
    )
    assert modulos.fill(blank) == drv


def test_placeholder_vector() -> None:
    (vector,) = of_kind("placeholder")
    assert output_placeholder(str(vector.values[0])) == vector.values[1]


@pytest.fixture(scope="module")
def nix(tmp_path_factory: pytest.TempPathFactory) -> NixStore:
    require("nix-instantiate")
    return NixStore(tmp_path_factory.mktemp("nix"))


@pytest.fixture(scope="module")
def instantiated(nix: NixStore) -> dict[StorePath, Derivation]:
    """Every derivation of derivations.nix and their inputs, from Nix's own files."""
    nix.run("nix-instantiate", *FEATURES, EXPRESSIONS)
    found = {}
    for file in (nix.directory / "nix/store").glob("*.drv"):
        path = StorePath.from_base(file.name)
        found[path] = Derivation.parse(derivation_name(path), file.read_bytes())
    assert len(found) > 70
    return found


def test_texts_and_paths_are_those_of_nix(
    nix: NixStore, instantiated: dict[StorePath, Derivation]
) -> None:
    modulos = Modulos(instantiated.__getitem__)
    for path, drv in instantiated.items():
        assert drv.path == path
        assert drv.to_bytes() == (nix.directory / "nix/store" / path.base).read_bytes()
        modulos.check(drv)


def test_json_is_that_of_nix(nix: NixStore, instantiated: dict[StorePath, Derivation]) -> None:
    shown = json.loads(nix.run("nix", *FEATURES, "show-derivation", *map(str, instantiated)))
    for path, drv in instantiated.items():
        assert to_json(drv) == _as_by_nix_2_8(shown[str(path)])
        assert from_json(shown[str(path)], drv.name) == drv


def _as_by_nix_2_8(shown: dict[str, Any]) -> dict[str, Any]:
    """Newer ones add a name, and what is wanted of the outputs' outputs."""
    inputs = {
        path: wanted["outputs"] if isinstance(wanted, dict) else wanted
        for path, wanted in shown["inputDrvs"].items()
    }
    older = {key: value for key, value in shown.items() if key != "name"}
    older["inputDrvs"] = inputs
    for output in older["outputs"].values():
        method = output.pop("method", None)
        if method in ("nar", "text"):
            output["hashAlgo"] = {"nar": "r:", "text": "text:"}[method] + output["hashAlgo"]
    return older


def _named(drvs: dict[StorePath, Derivation], name: str) -> tuple[StorePath, Derivation]:
    return next((path, drv) for path, drv in drvs.items() if drv.name == name)


def test_inputs_of_equal_hash_are_merged(instantiated: dict[StorePath, Derivation]) -> None:
    _, drv = _named(instantiated, "merged")
    assert len(drv.input_drvs) == 2
    modulos = Modulos(instantiated.__getitem__)
    assert len({modulos.of_path(path).digests["out"] for path in drv.input_drvs}) == 1


def test_placeholders_are_those_of_nix(instantiated: dict[StorePath, Derivation]) -> None:
    path, floating = _named(instantiated, "floating")
    assert floating.env["dev"] == output_placeholder("dev")
    _, user = _named(instantiated, "floating-by-floating")
    assert user.env["floating"] == input_placeholder(path, "out")
    assert user.env["dev"] == input_placeholder(path, "dev")


def test_what_floats_defers_what_uses_it(instantiated: dict[StorePath, Derivation]) -> None:
    modulos = Modulos(instantiated.__getitem__)
    waiting = {drv.name for path, drv in instantiated.items() if modulos.of_path(path).deferred}
    assert waiting == {
        "floating",
        "impure",
        "deferred",
        "after-deferred",
        "d",
        "floating-by-floating",
    }


def test_a_resolved_derivation_has_its_path(instantiated: dict[StorePath, Derivation]) -> None:
    path, _ = _named(instantiated, "floating")
    _, drv = _named(instantiated, "deferred")
    built = StorePath(path.hash, "floating")
    resolved = resolve(drv, lambda drv_path, output: built)
    assert resolved.input_drvs == {}
    assert resolved.input_srcs == (built,)
    assert resolved.env["floating"] == str(built)
    assert resolved.outputs["out"].path == resolved.env["out"] != ""
    Modulos(instantiated.__getitem__).check(resolved)


def test_wrong_paths_are_refused(instantiated: dict[StorePath, Derivation]) -> None:
    modulos = Modulos(instantiated.__getitem__)
    _, drv = _named(instantiated, "plain")
    wrong = drv._replace(outputs={"out": Output(f"/nix/store/{'0' * 32}-plain")})
    with pytest.raises(FormatError, match="states the path"):
        modulos.check(wrong)
    with pytest.raises(FormatError, match="states the path none"):
        modulos.check(drv._replace(outputs={"out": Output()}))


def test_an_output_that_an_input_lacks_is_refused(
    instantiated: dict[StorePath, Derivation],
) -> None:
    path, _ = _named(instantiated, "several")
    _, drv = _named(instantiated, "plain")
    with pytest.raises(FormatError, match="no output nothing"):
        Modulos(instantiated.__getitem__).of(drv._replace(input_drvs={path: ("nothing",)}))


def test_cycles_are_refused() -> None:
    path = StorePath("0" * 32, "x.drv")
    drv = Derivation("x", {"out": Output()}, "s", "b", input_drvs={path: ("out",)})
    with pytest.raises(FormatError, match="depends on itself"):
        Modulos(lambda _: drv).of_path(path)


def test_depth_is_no_limit() -> None:
    drvs: dict[StorePath, Derivation] = {}
    above: dict[StorePath, tuple[str, ...]] = {}
    for index in range(3000):
        drv = Derivation(f"x{index}", {"out": Output()}, "s", "b", input_drvs=above)
        path = drv.path
        drvs[path], above = drv, {path: ("out",)}
    assert not Modulos(drvs.__getitem__).of_path(path).deferred


def test_realisation_ids_do_not_depend_on_own_paths(
    instantiated: dict[StorePath, Derivation],
) -> None:
    modulos = Modulos(instantiated.__getitem__)
    _, drv = _named(instantiated, "several")
    bare = drv._replace(outputs=dict.fromkeys(drv.outputs, Output()))
    assert modulos.realisation_ids(bare) == modulos.realisation_ids(drv)
    assert set(modulos.realisation_ids(drv)) == {"out", "lib", "a.b"}
