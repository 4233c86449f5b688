"""Operations about derivations: what they give, what is there of it, and building the rest.

A target is a store path, or a derivation with outputs: `/nix/store/….drv!out,dev`, `!*` for all.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from eka_runtime.build.derivations import read_derivation
from eka_runtime.build.goals import Goals, NoSubstitutes
from eka_runtime.daemon.peer import Handler, Peer
from eka_runtime.daemon.protocol import Op, Status
from eka_runtime.daemon.queries import texts
from eka_runtime.daemon.realising import (
    failure,
    parse_realisation,
    plain_result,
    realisation,
    realise,
    result_of,
)
from eka_runtime.daemon.wire import Values
from eka_runtime.errors import FormatError
from eka_runtime.nix.derivation import EXTENSION, Derivation, Output, derivation_name
from eka_runtime.nix.narinfo import NarInfo
from eka_runtime.nix.path import StorePath
from eka_runtime.store.realisations import Realisations

# Since 1.30 a target without outputs is a path like any other.
_EXPLICIT_OUTPUTS = 30
# Since 1.31 realisations are JSON.
_AS_JSON = 31


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


def _outputs(peer: Peer, request: Values) -> dict[str, str]:
    path = StorePath.parse(request["path"])
    derivation = read_derivation(peer.store, path)
    return {name: str(_place(peer, path, derivation, name) or "") for name in derivation.outputs}


def _place(peer: Peer, path: StorePath, drv: Derivation, output: str) -> StorePath | None:
    """Also of one without a path of its own, if it is known what it has become."""
    if found := drv.outputs[output].store_path:
        return found
    return Goals(peer.store, NoSubstitutes()).realised(path, drv, output)


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
        self.fetch: dict[StorePath, NarInfo] = {}

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
            if not valid and not self._can_fetch([target.path]):
                self.unknown.add(target.path)
            return []
        derivation = read_derivation(self._peer.store, target.path)
        absent = absent_outputs(self._peer, derivation, target)
        if not absent or self._can_fetch([derivation.outputs[name].store_path for name in absent]):
            return []
        self.build.add(target.path)
        return [Target(path, names) for path, names in derivation.input_drvs.items()]

    def _can_fetch(self, paths: list[StorePath | None]) -> bool:
        """Whether caches have all of these, with what they refer to; then that is to be fetched."""
        known = [path for path in paths if path is not None]
        if self._peer.supply is None or len(known) < len(paths):
            return False
        plan = self._peer.supply.plan(self._peer.store, known, self._peer.say)
        if plan.absent:
            return False
        self.fetch.update((found.path, found.info) for found in plan.found)
        return True


def absent_outputs(peer: Peer, derivation: Derivation, target: Target) -> list[str]:
    """Names of the wanted outputs that are not valid. Raises FormatError for one it has not."""
    wanted = target.outputs or tuple(derivation.outputs)
    if strange := set(wanted).difference(derivation.outputs):
        raise FormatError(f"derivation `{target.path}` has no output `{min(strange)}`")
    paths = ((name, _place(peer, target.path, derivation, name)) for name in wanted)
    return [name for name, path in paths if path is None or not peer.known(path)]


def _query_missing(peer: Peer, request: Values) -> Values:
    missing = _Missing(peer)
    missing.look(parse_target(text, peer.version) for text in request["targets"])
    return {
        "willBuild": texts(missing.build),
        "willSubstitute": texts(missing.fetch),
        "unknown": texts(missing.unknown),
        "downloadSize": sum(info.file_size or 0 for info in missing.fetch.values()),
        "narSize": sum(info.nar_size for info in missing.fetch.values()),
    }


def _build_paths(peer: Peer, request: Values) -> Values:
    targets = [parse_target(text, peer.version) for text in request["targets"]]
    outcomes = realise(peer, _wanted(targets), request["mode"])
    failed = [outcome for outcome in outcomes.values() if outcome.error is not None]
    if failed:
        raise failure(failed)
    plain = [target.path for target in targets if target.outputs is None]
    peer.bring(plain)
    peer.keep(plain)
    return {"one": 1}


def _wanted(targets: Iterable[Target]) -> dict[StorePath, set[str]]:
    wanted: dict[StorePath, set[str]] = {}
    whole = {path for path, outputs in targets if outputs == ()}
    for path, outputs in targets:
        if outputs is not None:
            wanted.setdefault(path, set()).update(() if path in whole else outputs)
    return wanted


def _build_paths_with_results(peer: Peer, request: Values) -> Values:
    texts_of = {text: parse_target(text, peer.version) for text in request["targets"]}
    outcomes = realise(peer, _wanted(texts_of.values()), request["mode"])
    results = []
    for text, (path, outputs) in texts_of.items():
        if outputs is None:
            peer.bring([path])
            peer.keep([path])
            result = plain_result(Status.AlreadyValid)
        else:
            result = result_of(peer, outcomes[path], outputs or None)
        results.append({"path": text, "result": result})
    return {"results": results}


def _build_derivation(peer: Peer, request: Values) -> Values:
    path, drv = StorePath.parse(request["path"]), _basic(request)
    if drv.fixed is None and not drv.floating:
        # Who could name any inputs for an output's path could put anything there.
        peer.require_trust("build derivations without their inputs' derivations")
    outcomes = realise(peer, {path: set()}, request["mode"], {path: drv})
    return {"result": result_of(peer, outcomes[path], None)}


def _basic(request: Values) -> Derivation:
    """Raises FormatError."""
    stated = request["derivation"]
    outputs = {
        name: Output(output["path"], output["methodAlgo"], output["hash"])
        for name, output in stated["outputs"].items()
    }
    return Derivation(
        name=derivation_name(StorePath.parse(request["path"])),
        outputs=outputs,
        system=stated["platform"],
        builder=stated["builder"],
        args=tuple(stated["args"]),
        env=stated["env"],
        input_srcs=tuple(map(StorePath.parse, stated["inputSrcs"])),
    ).checked()


def _query_realisation(peer: Peer, request: Values) -> Values:
    path = Realisations(peer.store.database).get(request["id"])
    if path is None or not peer.known(path):
        return {"realisations": []}
    text = realisation(request["id"], path) if peer.version >= _AS_JSON else str(path)
    return {"realisations": [text]}


def _register_drv_output(peer: Peer, request: Values) -> Values:
    peer.require_trust("say what outputs have become")
    if peer.version >= _AS_JSON:
        key, path = parse_realisation(request["realisation"])
    else:
        key, path = request["id"], StorePath.parse(request["path"])
    peer.keep([path])
    Realisations(peer.store.database).put({key: path})
    return {}


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
