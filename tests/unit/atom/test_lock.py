"""atom.lock: the vectors, canonical text, and ids that are checked."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eka.atom.identity import atom_id
from eka.atom.lock import (
    NIX_LOCK,
    Lock,
    LockedAtom,
    LockedFile,
    LockedGit,
    LockedNix,
    LockedSet,
    LockedSource,
    LockedStatic,
    LockedWith,
    dependency_key,
    parse_lock,
)
from eka.atom.lock_text import lock_text
from eka.atom.version import Version
from eka_runtime.errors import LockError
from eka_runtime.nix.hashes import parse_hash
from tests.unit.atom.vectors import VECTORS

CASES = VECTORS["locks"]
EVERYTHING: str = CASES[1]["toml"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_locks_of_the_vectors(case: dict[str, Any]) -> None:
    if not case["accept"]:
        with pytest.raises(LockError, match=r"^atom\.lock:\d+:\d+: "):
            parse_lock(case["toml"].encode())
        return
    lock = parse_lock(case["toml"].encode())
    assert (lock_text(lock) == case["toml"]) is case["canonical"]
    assert parse_lock(lock_text(lock).encode()) == lock


@pytest.mark.parametrize("case", VECTORS["nix_hashes"], ids=lambda case: case["input"])
def test_hashes_of_the_vectors(case: dict[str, str]) -> None:
    assert parse_hash(case["input"]).sri() == case["sri"]


def test_published_locks_without_locker_can_be_read() -> None:
    text = 'version = 1\n\n[compose]\nuse = "nix"\nentry = "."\n'
    assert parse_lock(text.encode(), lenient=True) == Lock(LockedNix("."), locker=None)


def test_the_locker_is_a_consistent_one() -> None:
    assert NIX_LOCK.id == atom_id(NIX_LOCK.set, NIX_LOCK.label)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('label = "dev"', 'label = "dov"', "the id of `dov` is not that of its set and label"),
        ('label = "atom-nix"', 'label = "atom-nux"', "the id of `atom-nux` is not"),
        ('name = "b-src"', 'name = "a-file"', "`a-file` is locked twice"),
        ("version = 1\n", "version = 2\n", "`version` must be 1, not 2"),
        ('type = "nix"\n', "", "the table has no `type`"),
        ('rev = "9b3d', 'rev = "xb3d', "is not a git object id"),
    ],
)
def test_bad_locks(old: str, new: str, message: str) -> None:
    assert old in EVERYTHING
    with pytest.raises(LockError, match=r"^atom\.lock:\d+:\d+: ") as caught:
        parse_lock(EVERYTHING.replace(old, new, 1).encode())
    assert message in str(caught.value)


LABELS = st.sampled_from(["a", "b-c", "λ", "x1"])
HEX = st.sampled_from(["4abbd2644bc3585e9be95deb277ccf48f6ed26ac", "0" * 40, "f" * 40])
MIRRORS = st.sampled_from(["::", "https://e.org/r", "git@h.org:o/r", "/srv/r", "ssh://h/r"])
URLS = st.just("https://e.org/x")
HASHES = st.just("sha256-Oz0x4va1T66qY5v1q+s03iVJRvM6o0dFML6b0DUV7Oo=")
VERSIONS = st.sampled_from([Version(1, 2, 3), Version(0, 1, 0, "local"), Version(1, 0, 0, "", "x")])


@st.composite
def atoms(draw: st.DrawFn) -> LockedAtom:
    label, genesis, local = draw(LABELS), draw(HEX), draw(st.booleans())
    rev, mirror = (None, None) if local else (draw(HEX), "https://e.org/r")
    return LockedAtom(label, draw(VERSIONS), genesis, rev, mirror, atom_id(genesis, label))


DEPS = st.one_of(
    atoms(),
    st.builds(
        LockedFile, st.sampled_from(["nix", "nix+tar"]), LABELS, URLS, HASHES, st.just(False)
    ),
    st.builds(LockedFile, st.just("nix+src"), LABELS, URLS, HASHES, st.booleans()),
    st.builds(LockedGit, LABELS, URLS, st.none() | VERSIONS, HEX),
    st.builds(LockedSource, LABELS, HEX),
)
COMPOSES = st.one_of(
    st.builds(LockedWith, atoms(), st.just("src")),
    st.builds(LockedNix, st.just(".")),
    st.just(LockedStatic()),
)


@settings(deadline=None)
@given(
    COMPOSES,
    st.dictionaries(HEX, st.tuples(LABELS, st.lists(MIRRORS, unique=True)), max_size=3),
    st.lists(DEPS, unique_by=dependency_key, max_size=6),
    st.randoms(),
)
def test_locks_survive_their_text(
    compose: Any, sets: dict[str, Any], deps: list[Any], random: Any
) -> None:
    built = {genesis: LockedSet(tag, tuple(mirrors)) for genesis, (tag, mirrors) in sets.items()}
    text = lock_text(Lock(compose, built, deps=tuple(deps)))
    lock = parse_lock(text.encode())
    assert lock_text(lock) == text or any(len(found.mirrors) > 1 for found in built.values())
    random.shuffle(deps)
    assert lock_text(lock._replace(deps=tuple(deps))) == lock_text(lock)
    assert parse_lock(lock_text(lock).encode()) == lock
