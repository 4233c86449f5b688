"""Operations that only look. A store path on the wire is a whole one; "" stands for none."""

from __future__ import annotations

from collections.abc import Iterable

from eka_runtime.daemon.peer import Handler, Peer
from eka_runtime.daemon.protocol import Op
from eka_runtime.daemon.wire import Values
from eka_runtime.errors import FormatError
from eka_runtime.nix import base32
from eka_runtime.nix.narinfo import NarInfo
from eka_runtime.nix.path import HASH_LENGTH, StorePath
from eka_runtime.store.pathinfo import PathInfo


def texts(paths: Iterable[StorePath]) -> list[str]:
    """As Nix sends sets."""
    return sorted(map(str, paths))


def wire_info(info: PathInfo) -> Values:
    """A ValidPathInfo. `ultimate` is a claim about who built it, which this store does not keep."""
    return {
        "path": str(info.path),
        "deriver": str(info.deriver or ""),
        "narHash": info.nar_hash.hex(),
        "references": texts(info.references),
        "registrationTime": info.registered,
        "narSize": info.nar_size,
        "ultimate": False,
        "sigs": list(info.signatures),
        "ca": info.ca or "",
    }


def _is_valid_path(peer: Peer, request: Values) -> Values:
    return {"valid": peer.known(StorePath.parse(request["path"])) is not None}


def _query_path_info(peer: Peer, request: Values) -> Values:
    info = peer.known(StorePath.parse(request["path"]))
    return {"info": info and wire_info(info)}


def _query_path_hash(peer: Peer, request: Values) -> Values:
    return {"hash": _info(peer, request).nar_hash.hex()}


def _query_references(peer: Peer, request: Values) -> Values:
    return {"paths": texts(_info(peer, request).references)}


def _query_deriver(peer: Peer, request: Values) -> Values:
    return {"path": str(_info(peer, request).deriver or "")}


def _info(peer: Peer, request: Values) -> PathInfo:
    return peer.info(StorePath.parse(request["path"]))


def _query_referrers(peer: Peer, request: Values) -> Values:
    return {"paths": texts(peer.store.paths.referrers(StorePath.parse(request["path"])))}


def _query_valid_derivers(peer: Peer, request: Values) -> Values:
    info = peer.known(StorePath.parse(request["path"]))
    deriver = info and info.deriver
    return {"paths": [str(deriver)] if deriver and peer.known(deriver) else []}


def _query_all_valid_paths(peer: Peer, request: Values) -> Values:
    return {"paths": texts(info.path for info in peer.store.paths.all())}


def _query_valid_paths(peer: Peer, request: Values) -> Values:
    paths = list(map(StorePath.parse, request["paths"]))
    if request.get("substitute"):
        peer.bring(paths)
    return {"paths": texts(path for path in paths if peer.known(path))}


def _query_path_from_hash_part(peer: Peer, request: Values) -> Values:
    part: str = request["part"]
    if len(part) != HASH_LENGTH or set(part) - set(base32.ALPHABET):
        raise FormatError(f"{part[:64]!r} is not the hash part of a store path")
    found = peer.store.paths.by_hash(part)
    info = peer.known(found.path) if found else None
    return {"path": str(info.path) if info else ""}


def _nar_from_path(peer: Peer, request: Values) -> Values:
    path = _info(peer, request).path
    peer.stream = lambda write: peer.store.write_nar(path, write)
    return {}


def _substitutable(peer: Peer, texts: Iterable[str]) -> dict[StorePath, NarInfo]:
    """What caches have of these paths."""
    paths = list(map(StorePath.parse, texts))
    return peer.supply.find(paths, peer.say) if peer.supply and paths else {}


def _wire_substitutable(info: NarInfo) -> Values:
    return {
        "deriver": str(info.deriver or ""),
        "references": texts(info.references),
        "downloadSize": info.file_size or 0,
        "narSize": info.nar_size,
    }


def _has_substitutes(peer: Peer, request: Values) -> Values:
    return {"has": bool(_substitutable(peer, [request["path"]]))}


def _query_substitutable_paths(peer: Peer, request: Values) -> Values:
    return {"paths": texts(_substitutable(peer, request["paths"]))}


def _query_substitutable_path_info(peer: Peer, request: Values) -> Values:
    found = list(_substitutable(peer, [request["path"]]).values())
    return {"info": _wire_substitutable(found[0]) if found else None}


def _query_substitutable_path_infos(peer: Peer, request: Values) -> Values:
    asked = request.get("paths") or request.get("addresses") or ()
    found = _substitutable(peer, asked)
    return {"infos": {str(path): _wire_substitutable(found[path]) for path in sorted(found)}}


HANDLERS: dict[Op, Handler] = {
    Op.IsValidPath: _is_valid_path,
    Op.HasSubstitutes: _has_substitutes,
    Op.QueryPathHash: _query_path_hash,
    Op.QueryReferences: _query_references,
    Op.QueryReferrers: _query_referrers,
    Op.QueryDeriver: _query_deriver,
    Op.QuerySubstitutablePathInfo: _query_substitutable_path_info,
    Op.QueryAllValidPaths: _query_all_valid_paths,
    Op.QueryPathInfo: _query_path_info,
    Op.QueryPathFromHashPart: _query_path_from_hash_part,
    Op.QuerySubstitutablePathInfos: _query_substitutable_path_infos,
    Op.QueryValidPaths: _query_valid_paths,
    Op.QuerySubstitutablePaths: _query_substitutable_paths,
    Op.QueryValidDerivers: _query_valid_derivers,
    Op.NarFromPath: _nar_from_path,
}
