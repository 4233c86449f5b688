"""The live view: everything is in one directory, and after a loss of power nothing half is."""

from __future__ import annotations

from pathlib import Path

from eka_runtime.nix.path import STORE_DIR
from eka_runtime.store.store import Store
from eka_runtime.view.bind import UNSETTLED, BindView
from eka_runtime.view.live import LiveView, growing
from tests.stores import insert, link_info, store

__all__ = ["store"]


def _marks(store: Store) -> list[str]:
    return [file.name for file in store.layout.views.iterdir() if file.name.startswith(UNSETTLED)]


def test_all_paths_are_below_the_root(store: Store, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "file").write_text("contents")
    added = store.add_tree(tree).path
    link = link_info("target")
    insert(store, link)
    view = LiveView(store)
    view.show_all()
    shown = Path(f"{view.root()}{STORE_DIR}")
    assert sorted(place.name for place in shown.iterdir()) == sorted([added.base, link.path.base])
    assert (shown / added.base / "file").read_text() == "contents"
    assert (shown / link.path.base).readlink() == Path("target")


def test_a_path_comes_with_its_closure(store: Store) -> None:
    below = link_info("below")
    above = link_info("above", [below.path])
    insert(store, below, above)
    LiveView(store).show(above)
    assert (store.layout.bind_view / below.path.base).is_symlink()


def test_the_mark_is_there_while_files_are_added(store: Store) -> None:
    with growing(store.layout):
        assert len(_marks(store)) == 1
    assert _marks(store) == []


def test_checkouts_of_another_boot_are_dropped(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("whole")
    info = store.info(store.add_tree(file).path)
    with growing(store.layout) as view:
        (store.layout.bind_view / info.path.base).write_text("ha")
        (mark,) = _marks(store)
        BindView(store).check_out([info])
        assert (store.layout.bind_view / info.path.base).read_text() == "ha"
        (store.layout.views / mark).write_text("the boot before this one")
        BindView(store).check_out([info])
        assert (store.layout.bind_view / info.path.base).read_text() == "whole"
        assert _marks(store) == []
        assert view is LiveView
