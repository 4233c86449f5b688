"""RFC 8785 by its own fixtures; hashes and ids that are written down once and for all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eka.evaluate.canonical import (
    artifact_id,
    canonical_json,
    config_digest,
    config_hash_text,
    normalize,
    parse_config_hash,
)
from eka_runtime.errors import FormatError, OptionError

_NAMES = ("arrays", "french", "structures", "unicode", "values", "weird")
_ATOM = "e5nvfs21g1dblt0fe2q8vq3ltnbdu0c65i0mn74tkqmvala1bo20"

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False, min_value=-1e15, max_value=1e15)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
)
keys = st.text("abcé\U0001f600", min_size=1, max_size=4)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3)
)


@pytest.mark.parametrize("name", _NAMES)
def test_fixtures_of_the_rfc(vectors: Path, name: str) -> None:
    given_text = (vectors / f"rfc8785/input/{name}.json").read_text("utf-8")
    expected = (vectors / f"rfc8785/output/{name}.json").read_bytes()
    assert canonical_json(json.loads(given_text)) == expected


def test_hash_and_id_are_what_they_were() -> None:
    digest = config_digest({"b": [1, 2.5, "é"], "a": None})
    assert config_hash_text(digest) == "blake3-y0izxxEzqLn08u5VkEQPwZMZfLKWO5+KnI8HwrHZHZo="
    assert parse_config_hash(config_hash_text(digest)) == digest
    assert artifact_id(_ATOM, "0.1.0", digest) == (
        "uk0eailkpmsjsqka9hklnnonannkjhuc22dj0mki3uo8ntobqbh0"
    )


@given(st.dictionaries(keys, values, max_size=4))
def test_order_and_spelling_do_not_count_but_values_do(config: dict[str, object]) -> None:
    plain = normalize(config, "config")
    assert isinstance(plain, dict)
    turned = dict(reversed(list(plain.items())))
    spelled = json.loads(json.dumps(turned), parse_int=float)
    assert config_digest(turned) == config_digest(plain)
    again = normalize(spelled, "config")
    assert isinstance(again, dict)
    assert config_digest(again) == config_digest(plain)
    for key in plain:
        assert config_digest({**plain, key: ["something else"]}) != config_digest(plain)


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), 2**53, -(2.0**60), "\ud800", "a\0b", object(), {1: 2}]
)
def test_what_json_cannot_say_is_refused(value: object) -> None:
    with pytest.raises(OptionError, match="key"):
        normalize({"key": value}, "key")


def test_nesting_is_bounded() -> None:
    value: object = 1
    for _ in range(100):
        value = [value]
    with pytest.raises(OptionError, match="too deeply"):
        normalize(value, "key")


@pytest.mark.parametrize("text", ["", "blake3-", "blake3-AAAA", "sha256-" + "A" * 43 + "="])
def test_no_config_hash(text: str) -> None:
    with pytest.raises(OptionError):
        parse_config_hash(text)


def test_an_artifact_has_an_atom() -> None:
    with pytest.raises(FormatError):
        artifact_id("nonsense", "1.0.0", bytes(32))
