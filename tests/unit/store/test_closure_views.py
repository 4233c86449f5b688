"""Views of whole closures: dropped with a path, and when they are not what their name says."""

from __future__ import annotations

from pathlib import Path

import pytest

from eka_runtime.store.closure_views import CLOSURE, closure_of, drop_closure_views, view_name
from eka_runtime.store.store import Store
from eka_runtime.view.fuse import FuseView
from eka_runtime.view.overlay import OverlayView
from tests.unit.nix.trees import File, directory
from tests.unit.store.graphs import add


def test_a_view_stays_while_its_paths_do(store: Store) -> None:
    info = add(store, "p", directory(a=File(b"a")))
    OverlayView(store).plan([info])
    drop_closure_views(store)
    name = view_name(closure_of([info]))
    assert (store.layout.overlay_view / name).is_dir()
    drop_closure_views(store, every=True)
    assert not (store.layout.overlay_view / name).exists()


def test_a_view_that_lost_what_it_is_to_a_power_cut_goes(store: Store) -> None:
    info = add(store, "p", directory(a=File(b"a")))
    OverlayView(store).plan([info])
    view = store.layout.overlay_view / view_name(closure_of([info]))
    # No bytes are the encoding of an empty directory, which lacks no path.
    (view / CLOSURE).write_bytes(b"")
    drop_closure_views(store)
    assert not view.exists()


@pytest.mark.parametrize("kind", [OverlayView, FuseView])
@pytest.mark.parametrize("left", [b"", None])
def test_a_start_puts_right_what_a_power_cut_took(
    store: Store, kind: type[OverlayView] | type[FuseView], left: bytes | None
) -> None:
    info = add(store, "p", directory(a=File(b"a")))
    plan = kind(store).plan([info])
    file = Path(plan.mounts[0].source).parent / CLOSURE
    whole = file.read_bytes()
    file.unlink()
    if left is not None:
        file.write_bytes(left)
    assert kind(store).plan([info]) == plan
    assert file.read_bytes() == whole
    assert len(list(file.parent.iterdir())) == 2
