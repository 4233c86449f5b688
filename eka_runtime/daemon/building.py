"""Operations about derivations: what they give, what is there of it, and that nothing is built yet.

A target is a store path, or a derivation with outputs: `/nix/store/….drv!out,dev`, `!*` for all.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import NamedTuple

from eka_runtime.daemon.peer import Handler, Peer
from eka_runtime.daemon.protocol import Op, Status
from eka_runtime.daemon.queries import texts
from eka_runtime.daemon.wire import Values
from eka_runtime.errors import FormatError, StoreError
from eka_runtime.nix.derivation import EXTENSION, MAX_SIZE, Derivation, derivation_name
from eka_runtime.nix.path import StorePath

# Since 1.30 a target without outputs is a path like any other.
_EXPLICIT_OUTPUTS = 30
# Clients look at the name behind the `!` only.
_NO_HASH = "sha256:" + "0" * 64


class Target(NamedTuple):
    """`outputs`: None for a path as it is, () for all."""

    path: StorePath
    outputs: tuple[str, ...] | None


def parse_target(text: str, version: int) -> Target:
    """Raises FormatError."""
    base, mark, names = text.partition("!")
    path = StorePath.parse(base)
    if not mark:
        is_drv = path.name.endswith(EXTENSION) and version < _EXPLICIT_OUTPUTS
        return Target(path, () if is_drv else None)
    if not path.name.endswith(EXTENSION):
        raise FormatError(f"`{path}` is no derivation and has no outputs")
    outputs = () if names == "*" else tuple(names.split(","))
    if "" in outputs:
        raise FormatError(f"{text[:300]!r} names no output")
    return Target(path, outputs)


def read_derivation(peer: Peer, path: StorePath) -> Derivation:
    """Raises PathNotFound, and FormatError when it is none."""
    name = derivation_name(path)
    if peer.info(path).nar_size > MAX_SIZE:
        raise FormatError(f"`{path}` is too large for a derivation")
    parts: list[bytes] = []
    peer.store.write_file(str(path), parts.append)
    return Derivation.parse(name, b"".join(parts))


def _outputs(peer: Peer, request: Values) -> dict[str, str]:
    derivation = read_derivation(peer, StorePath.parse(request["path"]))
    return {name: output.path for name, output in sorted(derivation.outputs.items())}


def _query_derivation_outputs(peer: Peer, request: Values) -> Values:
    return {"paths": sorted(filter(None, _outputs(peer, request).values()))}


def _query_derivation_output_names(peer: Peer, request: Values) -> Values:
    return {"names": list(_outputs(peer, request))}


def _query_derivation_output_map(peer: Peer, request: Values) -> Values:
    return {"outputs": _outputs(peer, request)}


class _Missing:
    """What would have to be done for some targets."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._seen: set[Target] = set()
        self.build: set[StorePath] = set()
        self.unknown: set[StorePath] = set()

    def look(self, targets: Iterable[Target]) -> None:
        waiting = list(targets)
        while waiting:
            target = waiting.pop()
            if target not in self._seen:
                self._seen.add(target)
                waiting += self._needs(target)

    def _needs(self, target: Target) -> list[Target]:
        """What must be there before; [] when nothing is to be done, or nothing can be."""
        valid = self._peer.known(target.path) is not None
        if target.outputs is None or not valid:
            if not valid:
                self.unknown.add(target.path)
            return []
        derivation = read_derivation(self._peer, target.path)
        if not absent_outputs(self._peer, derivation, target):
            return []
        self.build.add(target.path)
        return [Target(path, names) for path, names in derivation.input_drvs.items()]


def absent_outputs(peer: Peer, derivation: Derivation, target: Target) -> list[str]:
    """Names of the wanted outputs that are not valid. Raises FormatError for one it has not."""
    wanted = target.outputs or tuple(derivation.outputs)
    if strange := set(wanted).difference(derivation.outputs):
        raise FormatError(f"derivation `{target.path}` has no output `{min(strange)}`")
    paths = ((name, derivation.outputs[name].store_path) for name in wanted)
    return [name for name, path in paths if path is None or not peer.known(path)]


def _query_missing(peer: Peer, request: Values) -> Values:
    missing = _Missing(peer)
    missing.look(parse_target(text, peer.version) for text in request["targets"])
    return {
        "willBuild": texts(missing.build),
        "willSubstitute": [],
        "unknown": texts(missing.unknown),
        "downloadSize": 0,
        "narSize": 0,
    }


def _realised(peer: Peer, target: Target) -> dict[str, StorePath]:
    """Wanted outputs by name, kept from now on. Raises StoreError for what is not built."""
    if target.outputs is None:
        peer.keep([target.path])
        return {}
    derivation = read_derivation(peer, target.path)
    if absent := absent_outputs(peer, derivation, target):
        raise StoreError(
            f"`{target.path}` has to be built for its output `{absent[0]}`, and this daemon"
            " cannot build yet",
            hint="build it elsewhere and copy the outputs here",
        )
    wanted = target.outputs or tuple(derivation.outputs)
    paths = {name: path for name in wanted if (path := derivation.outputs[name].store_path)}
    peer.keep(paths.values())
    return paths


def _build_paths(peer: Peer, request: Values) -> Values:
    for text in request["targets"]:
        _realised(peer, parse_target(text, peer.version))
    return {"one": 1}


def _build_paths_with_results(peer: Peer, request: Values) -> Values:
    return {"results": [_keyed_result(peer, text) for text in request["targets"]]}


def _keyed_result(peer: Peer, text: str) -> Values:
    try:
        outputs = _realised(peer, parse_target(text, peer.version))
    except StoreError as error:
        return {"path": text, "result": _result(Status.MiscFailure, str(error))}
    return {"path": text, "result": _result(Status.AlreadyValid, "", outputs)}


def _build_derivation(peer: Peer, request: Values) -> Values:
    path = StorePath.parse(request["path"])
    outputs = {
        name: StorePath.parse(output["path"])
        for name, output in request["derivation"]["outputs"].items()
        if output["path"]
    }
    stated = request["derivation"]["outputs"]
    if len(outputs) < len(stated) or not all(map(peer.known, outputs.values())):
        reason = f"`{path}` has to be built, and this daemon cannot build yet"
        return {"result": _result(Status.MiscFailure, reason)}
    peer.keep(outputs.values())
    return {"result": _result(Status.AlreadyValid, "", outputs)}


def _result(status: Status, message: str, outputs: dict[str, StorePath] | None = None) -> Values:
    return {
        "status": status,
        "errorMsg": message,
        "timesBuilt": 0,
        "isNonDeterministic": False,
        "startTime": 0,
        "stopTime": 0,
        "cpuUser": None,
        "cpuSystem": None,
        "builtOutputs": {
            f"{_NO_HASH}!{name}": _realisation(name, path) for name, path in (outputs or {}).items()
        },
    }


def _realisation(name: str, path: StorePath) -> str:
    fields = {"dependentRealisations": {}, "id": f"{_NO_HASH}!{name}"}
    return json.dumps(fields | {"outPath": path.base, "signatures": []}, separators=(",", ":"))


def _query_realisation(peer: Peer, request: Values) -> Values:
    """There are none without builds of floating outputs."""
    return {"realisations": []}


def _register_drv_output(peer: Peer, request: Values) -> Values:
    raise StoreError("outputs of floating derivations cannot be registered yet")


HANDLERS: dict[Op, Handler] = {
    Op.BuildPaths: _build_paths,
    Op.BuildDerivation: _build_derivation,
    Op.QueryDerivationOutputs: _query_derivation_outputs,
    Op.QueryDerivationOutputNames: _query_derivation_output_names,
    Op.QueryMissing: _query_missing,
    Op.QueryDerivationOutputMap: _query_derivation_output_map,
    Op.RegisterDrvOutput: _register_drv_output,
    Op.QueryRealisation: _query_realisation,
    Op.BuildPathsWithResults: _build_paths_with_results,
}
