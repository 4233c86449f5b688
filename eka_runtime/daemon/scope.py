"""A client that is confined to the paths of its session: what it was given, and what it adds.

An evaluator is such a client. It has no business with the rest of the store, and what it can learn
of it would be an input that nobody stated: whether a path is there, or a derivation that mentions
one. So only the operations that evaluating takes are served, and paths outside of the session are
answered for as if they were not there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from eka_runtime.daemon.peer import View
from eka_runtime.daemon.protocol import Op
from eka_runtime.daemon.wire import Values
from eka_runtime.errors import PathNotFound, StoreAccessError
from eka_runtime.nix.path import STORE_DIR, split

# These answer for paths that are not there without an error.
_ASKING = {Op.IsValidPath, Op.QueryPathInfo, Op.QueryValidPaths, Op.AddTempRoot}
_WITH_PATHS = {
    Op.AddTextToStore,
    Op.AddToStore,
    Op.AddToStoreNar,
    Op.BuildPaths,
    Op.BuildPathsWithResults,
    Op.EnsurePath,
    Op.NarFromPath,
    Op.QueryDerivationOutputMap,
    Op.QueryMissing,
    Op.QueryReferences,
}
_HARMLESS = {
    Op.SetOptions,
    Op.QuerySubstitutablePathInfos,
    Op.QuerySubstitutablePaths,
    Op.QueryRealisation,
    Op.SyncWithGC,
}


def check_scope(view: View, op: Op, request: Values) -> None:
    """Raises PathNotFound for a path outside, StoreAccessError for an operation."""
    if op in _ASKING or op in _HARMLESS:
        return
    if op not in _WITH_PATHS:
        raise StoreAccessError(f"an evaluation has no need of {op.name}")
    for text in _paths(request):
        path, _ = split(text.partition("!")[0].partition("^")[0])
        if not view.allows(path):
            raise PathNotFound(f"'{path}' is not an input of this evaluation")


def _paths(request: Values) -> Iterator[str]:
    info = request.get("info") or {}
    for found in (request, info):
        for key in ("paths", "references", "targets"):
            yield from _store_paths(found.get(key, ()))
    yield from _store_paths([request.get("path", "")])


def _store_paths(texts: Iterable[str]) -> Iterator[str]:
    return (text for text in texts if text.startswith(STORE_DIR + "/"))
