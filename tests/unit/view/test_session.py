"""A session sees what it was given and what it adds, and the daemon answers it for nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from eka_runtime.daemon.protocol import Op
from eka_runtime.daemon.scope import check_scope
from eka_runtime.errors import PathNotFound, StoreAccessError
from eka_runtime.store.store import Store
from eka_runtime.view.session import session_view


def test_what_a_session_sees(store: Store, tmp_path: Path) -> None:
    for name in ("given", "added", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    given, added, other = (store.add_tree(tmp_path / n) for n in ("given", "added", "other"))
    with session_view(store, [given]) as (view, plan):
        assert [mount.destination for mount in plan.mounts] == ["/nix/store", str(given.path)]
        assert view.allows(given.path)
        assert not view.allows(added.path)
        view.show(added)
        assert (view.directory / added.path.base / "file").read_text() == "added"
        check_scope(view, Op.EnsurePath, {"path": str(added.path)})
        check_scope(view, Op.IsValidPath, {"path": str(other.path)})
        for op, request in (
            (Op.EnsurePath, {"path": str(other.path)}),
            (Op.NarFromPath, {"path": str(other.path)}),
            (Op.AddTextToStore, {"references": [str(given.path), str(other.path)]}),
            (Op.BuildPaths, {"targets": [f"{other.path}!out"]}),
        ):
            with pytest.raises(PathNotFound, match="not an input"):
                check_scope(view, op, request)
        for op in (Op.CollectGarbage, Op.QueryAllValidPaths, Op.AddIndirectRoot, Op.FindRoots):
            with pytest.raises(StoreAccessError, match="no need"):
                check_scope(view, op, {})
        place = view.directory
    assert not place.exists()
