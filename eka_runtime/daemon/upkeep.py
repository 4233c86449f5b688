"""Operations that keep, delete, and look after the store."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

from eka_runtime.daemon.peer import Handler, Peer
from eka_runtime.daemon.protocol import Op
from eka_runtime.daemon.queries import texts
from eka_runtime.daemon.wire import Values
from eka_runtime.errors import FormatError, StoreError, UsageError
from eka_runtime.nix.path import StorePath
from eka_runtime.store.roots import Root, kept, link_root

_LIVE, _DEAD, _DELETE, _DELETE_THESE = range(4)
_DONE: Values = {"one": 1}
# What clients send for "no limit": the largest number, signed or not.
_UNLIMITED = 1 << 62


def _set_options(peer: Peer, request: Values) -> Values:
    """A client that wants nothing from caches gets nothing; the rest is about builds."""
    peer.options = request
    if not request.get("useSubstitutes", True):
        peer.supply = None
    return {}


def _touch(peer: Peer, request: Values) -> Values:
    """A temporary root; Nix takes paths that are not there, too, to keep them when they come."""
    path = StorePath.parse(request["path"])
    if peer.known(path):
        peer.keep([path])
    return _DONE


def _ensure_path(peer: Peer, request: Values) -> Values:
    path = StorePath.parse(request["path"])
    peer.bring([path])
    peer.keep([path])
    return _DONE


def _add_indirect_root(peer: Peer, request: Values) -> Values:
    peer.store.roots.add(link_root(_absolute(request["link"])))
    return _DONE


def _add_perm_root(peer: Peer, request: Values) -> Values:
    peer.require_trust("have links made")
    path, link = StorePath.parse(request["path"]), _absolute(request["link"])
    peer.keep([path])
    fresh = f"{link}.{os.urandom(8).hex()}"
    try:
        if os.path.lexists(link) and not os.path.islink(link):
            raise UsageError(f"`{link}` exists and is no link", hint="name another one")
        os.symlink(str(path), fresh)
        os.rename(fresh, link)
    except OSError as error:
        raise UsageError(f"cannot make the link `{link}`: {error.strerror}") from error
    peer.store.roots.add(link_root(link))
    return {"link": link}


def _absolute(link: str) -> str:
    if not link.startswith("/") or "\0" in link or link.endswith("/"):
        raise FormatError(f"{link[:300]!r} is not the absolute name of a link")
    return link


def _sync_with_gc(peer: Peer, request: Values) -> Values:
    return _DONE


def _find_roots(peer: Peer, request: Values) -> Values:
    return {"roots": dict(_named_roots(peer.store.roots.all()))}


def _named_roots(roots: Iterable[Root]) -> Iterator[tuple[str, str]]:
    """As Nix has it, each by the place where it is; several paths of one root by its own names."""
    for root in roots:
        paths = kept(root) or ()
        place = os.fsdecode(root.place) or f"{{eka:{root.name}}}"
        for path in paths:
            yield (place if len(paths) == 1 else f"{place}#{path.base}", str(path))


def _collect_garbage(peer: Peer, request: Values) -> Values:
    from eka_runtime.store.gc import Limits, collect, preview

    action = request["action"]
    if request["ignoreLiveness"]:
        raise StoreError("paths that are in use are never deleted", hint="remove their roots")
    only = frozenset(map(StorePath.parse, request["paths"]))
    most = request["maxFreed"] if request["maxFreed"] < _UNLIMITED else None
    limits = Limits(most=most, only=only if action == _DELETE_THESE else None)
    found: list[StorePath] = []
    if action in (_LIVE, _DEAD):
        preview(peer.store, report=found.append)
        if action == _LIVE:
            dead = set(found)
            found = [info.path for info in peer.store.paths.all() if info.path not in dead]
        return {"paths": texts(found), "freed": 0, "obsolete": 0}
    if action not in (_DELETE, _DELETE_THESE):
        raise FormatError(f"{action} is not an action of a collection")
    peer.require_trust("collect garbage")
    done = collect(peer.store, limits, found.append)
    return {"paths": texts(found), "freed": done.freed + done.pending, "obsolete": 0}


def _optimise_store(peer: Peer, request: Values) -> Values:
    """Equal files are kept once from the start."""
    return _DONE


def _verify_store(peer: Peer, request: Values) -> Values:
    from eka_runtime.store.repair import repair

    def report(problem: object) -> None:
        peer.say(f"error: {problem}\n")

    result = peer.store.verify(deep=request["checkContents"], report=report)
    if request["repair"] and result.problems:
        peer.require_trust("repair")
        repair(peer.store, result.lost)
        result = peer.store.verify(deep=request["checkContents"], report=report)
    return {"errors": bool(result.problems)}


HANDLERS: dict[Op, Handler] = {
    Op.SetOptions: _set_options,
    Op.EnsurePath: _ensure_path,
    Op.AddTempRoot: _touch,
    Op.AddIndirectRoot: _add_indirect_root,
    Op.AddPermRoot: _add_perm_root,
    Op.SyncWithGC: _sync_with_gc,
    Op.FindRoots: _find_roots,
    Op.CollectGarbage: _collect_garbage,
    Op.OptimiseStore: _optimise_store,
    Op.VerifyStore: _verify_store,
}
