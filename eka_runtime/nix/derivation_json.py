"""Derivations as JSON: written as Nix 2.8's `nix show-derivation`, read as any Nix writes them.

Newer versions add `name`, a layer in `inputDrvs`, `method` beside `hashAlgo`, and leave the store
directory out of paths. Texts that are not UTF-8 have no such form.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from eka_runtime.errors import FormatError
from eka_runtime.nix.derivation import Derivation, Output
from eka_runtime.nix.path import STORE_DIR, StorePath

_PREFIXES = {"flat": "", "nar": "r:", "recursive": "r:", "text": "text:"}


class _Output(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    path: str | None = None
    hash_algo: Annotated[str | None, Field(alias="hashAlgo")] = None
    hash: str | None = None
    method: str | None = None
    impure: bool = False

    def output(self) -> Output:
        prefix = _PREFIXES.get(self.method or "flat")
        if prefix is None:
            raise FormatError(f"unknown method {self.method!r} of an output")
        algo = prefix + self.hash_algo if self.hash_algo else ""
        return Output(_full(self.path or ""), algo, self.hash or ("impure" if self.impure else ""))


class _Input(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    outputs: list[str]
    dynamic: Annotated[dict[str, object], Field(alias="dynamicOutputs", max_length=0)] = {}


class _Derivation(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)
    name: str | None = None
    outputs: dict[str, _Output]
    input_srcs: Annotated[list[str], Field(alias="inputSrcs")]
    input_drvs: Annotated[dict[str, _Input | list[str]], Field(alias="inputDrvs")]
    system: str
    builder: str
    args: list[str]
    env: dict[str, str]


def to_json(drv: Derivation) -> dict[str, Any]:
    """FormatError where a text is not UTF-8, which JSON cannot say."""
    texts = (drv.system, drv.builder, *drv.args, *drv.env, *drv.env.values())
    if any("\ud800" <= character <= "\udfff" for text in texts for character in text):
        raise FormatError(f"derivation {drv.name} has texts that are not UTF-8, nor JSON's")
    return {
        "outputs": {name: _output(output) for name, output in drv.outputs.items()},
        "inputSrcs": [str(path) for path in drv.input_srcs],
        "inputDrvs": {str(path): list(names) for path, names in drv.input_drvs.items()},
        "system": drv.system,
        "builder": drv.builder,
        "args": list(drv.args),
        "env": dict(drv.env),
    }


def from_json(value: object, name: str | None = None) -> Derivation:
    """Of one derivation; `name` is needed where the object, as in Nix 2.8, has none."""
    try:
        found = _Derivation.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the object"
        raise FormatError(f"derivation as JSON: {where}: {first['msg']}") from None
    if (name := name or found.name) is None:
        raise FormatError("derivation as JSON: it has no name")
    return Derivation(
        name=name,
        outputs={key: output.output() for key, output in found.outputs.items()},
        system=found.system,
        builder=found.builder,
        args=tuple(found.args),
        env=found.env,
        input_drvs={
            StorePath.parse(_full(path)): tuple(_names(wanted))
            for path, wanted in found.input_drvs.items()
        },
        input_srcs=tuple(StorePath.parse(_full(path)) for path in found.input_srcs),
    ).checked()


def _output(output: Output) -> dict[str, Any]:
    shown: dict[str, Any] = {"path": output.path} if output.path else {}
    if output.algo:
        shown["hashAlgo"] = output.algo
    if output.impure:
        shown["impure"] = True
    elif output.hash:
        shown["hash"] = output.hash
    return shown


def _names(wanted: _Input | list[str]) -> list[str]:
    return wanted.outputs if isinstance(wanted, _Input) else wanted


def _full(path: str) -> str:
    return path if not path or path.startswith("/") else f"{STORE_DIR}/{path}"
