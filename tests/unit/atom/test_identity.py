"""Atom ids and the walk to a repository's genesis."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eka.atom.identity import NO_GENESIS, atom_id, decode_id, encode_id, find_genesis
from eka_runtime.errors import FormatError
from tests.unit.atom.vectors import VECTORS


@pytest.mark.parametrize("case", VECTORS["atom_ids"], ids=lambda case: case["label"])
def test_ids_of_the_vectors(case: dict[str, str]) -> None:
    assert atom_id(case["genesis"], case["label"]) == case["id"]
    assert decode_id(case["id"]).hex() == case["hash_hex"]


def test_sets_outside_git_share_a_name_space() -> None:
    assert atom_id(NO_GENESIS, "foo") == "e5nvfs21g1dblt0fe2q8vq3ltnbdu0c65i0mn74tkqmvala1bo20"


@pytest.mark.parametrize("case", VECTORS["id_decoding"], ids=lambda case: case["input"][:8])
def test_decoding(case: dict[str, Any]) -> None:
    if case["ok"]:
        assert encode_id(decode_id(case["input"])) == case["input"]
    else:
        with pytest.raises(FormatError):
            decode_id(case["input"])


@given(st.binary(min_size=32, max_size=32))
def test_ids_survive_their_text(digest: bytes) -> None:
    assert decode_id(encode_id(digest)) == digest


@pytest.mark.parametrize("case", VECTORS["genesis_walk"], ids=lambda case: case["expected"])
def test_the_walk_is_upstreams(case: dict[str, Any]) -> None:
    commits = case["commits"]
    genesis = find_genesis(
        case["start"], lambda commit: commits[commit][0], lambda commit: commits[commit][1]
    )
    assert genesis == case["expected"]
