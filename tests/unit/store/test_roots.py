"""Roots of every kind: how long they live, what they keep, and whose names and texts are taken."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eka_runtime.errors import InvalidStorePath, StoreError, UsageError
from eka_runtime.nix.path import StorePath
from eka_runtime.store.gc import collect, preview
from eka_runtime.store.roots import Root, bundle_root, kept, paths_in, root_for
from eka_runtime.store.store import Store
from tests.stores import insert, link_info, public_directory, unprivileged

A, B, C = (StorePath(letter * 32, f"{letter}-1.0") for letter in "abc")


@contextmanager
def locked(directory: Path, kind: int = fcntl.LOCK_SH) -> Iterator[None]:
    """As a running program has the directory of its bundle."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(fd, kind)
        yield
    finally:
        os.close(fd)


def place(path: Path) -> bytes:
    return os.fsencode(os.path.realpath(path.parent)) + b"/" + os.fsencode(path.name)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    made = tmp_path / "bundle"
    made.mkdir()
    (made / "config.json").write_text("{}")
    return made


def test_a_named_root_keeps_its_path_until_it_is_removed(store: Store) -> None:
    root = root_for(str(A), None)
    assert root == Root("a-1.0", "named", b"", (A,))
    assert kept(root) == (A,)
    assert root_for(str(A), "mine").name == "mine"
    store.roots.add(root)
    assert list(store.roots.all()) == [root]
    assert store.roots.remove("a-1.0")
    assert not store.roots.remove("a-1.0")
    assert list(store.roots.all()) == []


def test_a_link_keeps_what_it_leads_to(tmp_path: Path) -> None:
    link = tmp_path / "result"
    link.symlink_to(str(A))
    root = root_for(os.fspath(link), None)
    assert (root.kind, root.place, root.paths) == ("link", place(link), ())
    assert kept(root) == (A,)
    link.unlink()
    link.symlink_to(f"{B}/bin/program")
    assert kept(root) == (B,)
    link.unlink()
    link.symlink_to(tmp_path)
    assert kept(root) is None
    link.rename(tmp_path / "moved")
    assert kept(root) is None


def test_a_link_becomes_a_file_or_loses_its_directory(tmp_path: Path) -> None:
    directory = tmp_path / "directory"
    directory.mkdir()
    link = directory / "result"
    link.symlink_to(str(A))
    root = root_for(os.fspath(link), None)
    directory.rename(tmp_path / "moved")
    assert kept(root) is None
    directory.write_text("a file now")
    assert kept(root) is None


def test_a_link_through_links(tmp_path: Path) -> None:
    (tmp_path / "profile-1").symlink_to(str(A))
    (tmp_path / "profile").symlink_to("profile-1")
    (tmp_path / "absolute").symlink_to(tmp_path / "profile")
    root = root_for(os.fspath(tmp_path / "absolute"), "profile")
    assert kept(root) == (A,)
    (tmp_path / "profile").unlink()
    (tmp_path / "profile").symlink_to("profile-2")
    assert kept(root) is None
    (tmp_path / "profile-2").symlink_to(str(B))
    assert kept(root) == (B,)


def test_relative_names_mean_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("result").symlink_to(str(A))
    Path("sub").mkdir()
    root = root_for("result", None)
    assert root == root_for("./sub/../result", None)
    monkeypatch.chdir("/")
    assert kept(root) == (A,)


def test_a_file_keeps_the_paths_that_it_names(tmp_path: Path) -> None:
    file = tmp_path / "script.lock"
    file.write_text(f'paths = ["{A}", "{B}/bin/x"]\n')
    root = root_for(os.fspath(file), None)
    assert (root.kind, root.place, kept(root)) == ("file", place(file), (A, B))
    file.write_text(f"{C}\n{C}\n")
    assert kept(root) == (C,)
    file.write_text("nothing any more")
    assert kept(root) == ()
    file.unlink()
    assert kept(root) is None


def test_a_bundle_lives_until_it_is_removed(bundle: Path) -> None:
    root = bundle_root(bundle, [B, A], running=False)
    assert (root.kind, root.place) == ("bundle", place(bundle))
    assert kept(root) == (A, B)
    with locked(bundle, fcntl.LOCK_EX):
        assert kept(root) == (A, B)
    (bundle / "config.json").unlink()
    assert kept(root) is None
    bundle.rmdir()
    assert kept(root) is None


def test_a_cached_bundle_lives_while_something_runs_from_it(bundle: Path) -> None:
    root = bundle_root(bundle, [B, A], running=True)
    assert (root.kind, root.place) == ("run", place(bundle))
    assert kept(root) is None
    with locked(bundle), locked(bundle):
        assert kept(root) == (A, B)
        with locked(bundle):
            assert kept(root) == (A, B)
        assert kept(root) == (A, B)
    assert kept(root) is None
    (bundle / "config.json").unlink()
    bundle.rmdir()
    assert kept(root) is None


def test_bundles_have_names_of_their_own(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    names = {
        bundle_root(directory, [A], running=running).name
        for directory in (bundle, tmp_path / "other")
        for running in (False, True)
    }
    assert len(names) == 4
    (tmp_path / "link").symlink_to(bundle)
    assert bundle_root(tmp_path / "link", [A], running=False).name in names


def test_a_named_root_never_replaces_another(store: Store) -> None:
    store.roots.add(Root("x", "named", b"", (A,)))
    changes = store.database.connection.total_changes
    store.roots.add(Root("x", "named", b"", (A,)))
    assert store.database.connection.total_changes == changes
    with pytest.raises(UsageError, match="there is a root `x` already"):
        store.roots.add(Root("x", "named", b"", (B,)))
    assert [root.paths for root in store.roots.all()] == [(A,)]


def test_a_bundle_may_be_made_anew_at_the_same_place(store: Store, bundle: Path) -> None:
    for path in (A, B):
        store.roots.add(bundle_root(bundle, [path], running=False))
    assert [root.paths for root in store.roots.all()] == [(B,)]


def test_places_may_be_any_bytes(store: Store, tmp_path: Path) -> None:
    link = os.fsencode(tmp_path) + b"/\xff\n result"
    os.symlink(str(A), link)
    store.roots.add(root_for(os.fsdecode(link), None))
    [root] = store.roots.all()
    assert kept(root) == (A,)


@pytest.mark.parametrize("name", ["x", "link/0a1", "mail@host", "a.b_c+d=e?", "x" * 255])
def test_good_names(store: Store, name: str) -> None:
    store.roots.add(Root(name, "named", b"", (A,)))
    assert [root.name for root in store.roots.all()] == [name]


@pytest.mark.parametrize("name", ["", "-x", ".x", "/x", "a b", "ü", "x\n", "x\0", "x" * 256])
def test_bad_names(store: Store, name: str) -> None:
    with pytest.raises(UsageError, match="is not a name for a root") as caught:
        store.roots.add(Root(name, "named", b"", (A,)))
    assert caught.value.hint
    assert list(store.roots.all()) == []


def test_what_cannot_be_a_root(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").symlink_to(tmp_path / "text")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "text").write_text("no path at all")
    for name in ("elsewhere", "loop", "text", "absent", "text/below"):
        with pytest.raises(UsageError, match=name):
            root_for(os.fspath(tmp_path / name), None)
    with pytest.raises(UsageError):
        root_for(os.fspath(tmp_path), None)
    with pytest.raises(InvalidStorePath):
        root_for("/nix/store/nonsense", None)


HOSTILE = [
    b"",
    b"\0" * 100,
    b"/nix/store/",
    b"/nix/store/" + b"e" * 32 + b"-not-base32",
    b"/nix/store/" + b"a" * 31 + b"-short",
    b"/nix/store/" + b"a" * 32 + b"-",
    b"/nix/store/" + b"a" * 32 + b"/name",
    b"/nix/store/" + b"a" * 32 + b"-.",
    b"/nix/store/" + b"a" * 32 + b"-..",
    b"/nix/store/" + b"a" * 32 + b"-.-x",
    b"/nix/store/" + b"a" * 32 + b"-..-x",
    b"/nix/store/" + b"a" * 32 + b"-" + b"x" * 5000,
    "/nix/store/".encode("utf-16") + b"a" * 32 + b"-x",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_hides_no_path(tmp_path: Path, text: bytes) -> None:
    file = os.fsencode(tmp_path / "file")
    with open(file, "wb") as stream:
        stream.write(text + b"\n" + str(B).encode() + b"\xff" + str(C).encode() + b"\0" + text)
    found = set(paths_in(file))
    assert {B, C} <= found
    assert {path.hash for path in found} <= {A.hash, B.hash, C.hash}


@given(st.lists(st.sampled_from([b"/nix/store/", b"a" * 32, b"-", b".", b"x", b"\n"]), max_size=9))
def test_texts_made_of_the_parts_of_paths(
    tmp_path_factory: pytest.TempPathFactory, parts: list[bytes]
) -> None:
    file = tmp_path_factory.getbasetemp() / "hostile"
    file.write_bytes(b"".join(parts) + b"\n" + str(B).encode())
    assert B in set(paths_in(os.fsencode(file)))


@pytest.mark.parametrize("target", [f"/nix/store/{'a' * 32}-.", f"/nix/store/{'a' * 32}-..-x"])
def test_a_link_to_what_no_path_can_be_called(tmp_path: Path, target: str) -> None:
    (tmp_path / "link").symlink_to(target)
    assert not kept(Root("link", "link", place(tmp_path / "link"), ()))


def _rooted(store: Store, root: Root) -> list[StorePath]:
    """Two paths, of which the root may keep the second, and the first is nobody's."""
    first, second = link_info("first"), link_info("second")
    insert(store, first, second)
    store.roots.add(root)
    return [first.path, second.path]


def _unreadable(store: Store) -> None:
    """Nothing is deleted and no root is lost when it cannot be told what a root keeps."""
    valid, roots = [info.path for info in store.paths.all()], list(store.roots.all())
    for work in (preview, collect):
        with pytest.raises(
            StoreError, match="cannot tell whether the root `it` is alive"
        ) as caught:
            work(store)
        assert "eka store root remove it" in (caught.value.hint or "")
    assert [info.path for info in store.paths.all()] == valid
    assert list(store.roots.all()) == roots


@pytest.mark.parametrize("kind", ["link", "file", "bundle", "run"])
def test_a_place_that_may_not_be_looked_into(kind: str) -> None:
    with public_directory() as public, unprivileged_store(public) as store:
        hidden = public / "home" / "hidden"
        (hidden / "bundle").mkdir(parents=True)
        (hidden / "bundle" / "config.json").write_text("{}")
        (hidden / "link").symlink_to(str(link_info("second").path))
        (hidden / "file").write_text(str(link_info("second").path))
        paths = (link_info("second").path,) if kind in ("bundle", "run") else ()
        where = hidden / ("bundle" if paths else kind)
        _rooted(store, Root("it", kind, place(where), paths))  # type: ignore[arg-type]
        hidden.chmod(0)
        _unreadable(store)
        hidden.chmod(0o700)
        collect(store)
        left = [info.path for info in store.paths.all()]
        assert left == ([] if kind == "run" else [link_info("second").path])


@contextmanager
def unprivileged_store(public: Path) -> Iterator[Store]:
    """Permission bits mean nothing to root."""
    (public / "home").mkdir(mode=0o777)
    (public / "home").chmod(0o777)
    with unprivileged(), Store.open(public / "home" / "store") as store:
        yield store


def test_a_link_through_one_that_may_not_be_read() -> None:
    with public_directory() as public, unprivileged_store(public) as store:
        hidden = public / "home" / "hidden"
        hidden.mkdir()
        (hidden / "profile").symlink_to(str(link_info("second").path))
        (hidden.parent / "link").symlink_to("hidden/profile")
        _, second = _rooted(store, Root("it", "link", place(hidden.parent / "link"), ()))
        hidden.chmod(0)
        _unreadable(store)
        hidden.chmod(0o700)
        collect(store)
        assert [info.path for info in store.paths.all()] == [second]


@pytest.mark.parametrize("kind", ["link", "file"])
def test_a_place_that_cannot_be_read(store: Store, tmp_path: Path, kind: str) -> None:
    if kind == "link":
        (tmp_path / "it").symlink_to("it")
    else:
        (tmp_path / "it").mkdir()
    _rooted(store, Root("it", kind, place(tmp_path / "it"), ()))  # type: ignore[arg-type]
    _unreadable(store)
    store.roots.remove("it")
    assert collect(store).paths == 2


def test_a_link_that_became_a_file_is_no_root_any_more(store: Store, tmp_path: Path) -> None:
    first, second = _rooted(store, Root("it", "link", place(tmp_path / "it"), ()))
    (tmp_path / "it").symlink_to(str(second))
    assert collect(store).paths == 1
    (tmp_path / "it").unlink()
    (tmp_path / "it").write_text(str(first))
    assert collect(store).paths == 1
    assert list(store.roots.all()) == []


def test_dead_roots_are_forgotten(store: Store, tmp_path: Path, bundle: Path) -> None:
    for name, kind in (("l", "link"), ("f", "file"), ("b", "bundle")):
        store.roots.add(Root(name, kind, place(tmp_path / "absent"), ()))  # type: ignore[arg-type]
    store.roots.add(Root("n", "named", b"", (A,)))
    store.roots.add(bundle_root(bundle, [], running=True))
    before = [root.name for root in store.roots.all()]
    preview(store)
    assert [root.name for root in store.roots.all()] == before
    collect(store)
    assert [root.kind for root in store.roots.all()] == ["named", "run"]


def test_a_fifo_is_no_file_that_names_paths(store: Store, tmp_path: Path) -> None:
    fifo = tmp_path / "script.lock"
    os.mkfifo(fifo)
    with pytest.raises(UsageError, match="is no regular file"):
        root_for(os.fspath(fifo), None)
    store.roots.add(Root("lock", "file", os.fsencode(fifo), ()))
    with pytest.raises(StoreError, match="cannot tell whether the root `lock` is alive"):
        collect(store)
