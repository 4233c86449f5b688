"""Versions and requirements, as Rust's semver crate has them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eka.atom.version import (
    Comparator,
    Requirement,
    Version,
    parse_requirement,
    parse_version,
    sort_key,
)
from eka_runtime.errors import FormatError
from tests.unit.atom.vectors import VECTORS

NUMBERS = st.integers(0, (1 << 64) - 1)
IDENTIFIERS = st.lists(
    st.one_of(
        st.integers(0, 99).map(str), st.from_regex(r"[a-zA-Z-][0-9a-z-]{0,4}", fullmatch=True)
    ),
    max_size=3,
).map(".".join)
VERSIONS = st.builds(Version, NUMBERS, NUMBERS, NUMBERS, IDENTIFIERS, IDENTIFIERS)
OPS = (">", ">=", "<", "<=", "=", "~", "^")
COMPARATORS = st.one_of(
    st.builds(lambda op, n: Comparator(op, n), st.sampled_from([*OPS, "*"]), NUMBERS),
    st.builds(
        lambda op, n, m: Comparator(op, n, m), st.sampled_from([*OPS, "*"]), NUMBERS, NUMBERS
    ),
    st.builds(Comparator, st.sampled_from(OPS), NUMBERS, NUMBERS, NUMBERS, IDENTIFIERS),
)


@pytest.mark.parametrize("case", VECTORS["version_reqs"], ids=lambda case: case["req"])
def test_requirements_of_the_vectors(case: dict[str, Any]) -> None:
    requirement = parse_requirement(case["req"])
    assert str(requirement) == case["canonical"]
    assert all(requirement.matches(parse_version(text)) for text in case["matches"])
    assert not any(requirement.matches(parse_version(text)) for text in case["rejects"])


MORE_BAD = [
    "1.*.2",
    "1,",
    ",1",
    "1 2",
    "=>1",
    "*.1",
    "01",
    "1.2-a",
    "1.2.3-01",
    f"{1 << 64}",
    ">=*",
]


@pytest.mark.parametrize("text", [*VECTORS["version_req_errors"], *MORE_BAD, ",".join("1" * 33)])
def test_bad_requirements(text: str) -> None:
    with pytest.raises(FormatError, match="is not a version requirement"):
        parse_requirement(text)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("1.0", "^1.0"),
        ("1.*", "1.*"),
        ("1.x.X", "1.*"),
        ("1.2.*", "1.2.*"),
        ("^1.*", "^1"),
        (" X ", "*"),
        (">= 1 , <2", ">=1, <2"),
        ("1.2.3-a.1+b", "^1.2.3-a.1"),
    ],
)
def test_canonical_text(text: str, canonical: str) -> None:
    assert str(parse_requirement(text)) == canonical


@pytest.mark.parametrize(
    ("requirement", "matches", "rejects"),
    [
        ("^0.0.3", "0.0.3", "0.0.4 0.0.2"),
        ("^0.0", "0.0.9", "0.1.0"),
        ("^0", "0.9.9", "1.0.0"),
        ("~1", "1.9.9", "2.0.0"),
        ("~1.2.3", "1.2.4", "1.2.2 1.3.0"),
        ("<=1.2", "1.2.9 0.1.0", "1.3.0"),
        (">=1.2.3-b", "1.2.3-b 1.2.3-c 1.2.3 2.0.0", "1.2.3-a 1.2.4-a"),
        ("<1.0.0-b", "1.0.0-a 0.9.0", "1.0.0-b 1.0.0 0.9.0-a"),
        ("=1.2", "1.2.7", "1.3.0"),
    ],
)
def test_matching(requirement: str, matches: str, rejects: str) -> None:
    wanted = parse_requirement(requirement)
    assert [v for v in matches.split() if not wanted.matches(parse_version(v))] == []
    assert [v for v in rejects.split() if wanted.matches(parse_version(v))] == []


def test_precedence() -> None:
    ordered = [
        "0.9.0",
        "1.0.0-1",
        "1.0.0-2",
        "1.0.0-11",
        "1.0.0-alpha",
        "1.0.0-alpha.1",
        "1.0.0-alpha.beta",
        "1.0.0-beta",
        "1.0.0",
        "1.0.0+1",
        "1.0.0+2",
        "1.0.0+02",
        "1.0.0+a",
        "1.0.1",
        "1.10.0",
    ]
    versions = [parse_version(text) for text in ordered]
    assert sorted(reversed(versions), key=sort_key) == versions


@pytest.mark.parametrize(
    "text",
    ["", "1", "1.2", "v1.2.3", "1.2.3-", "1.2.3-01", "1.2.03", "1.2.3 ", "1.2.3+", "\u0661.2.3"],
)
def test_bad_versions(text: str) -> None:
    with pytest.raises(FormatError, match="is not a version"):
        parse_version(text)


@given(VERSIONS)
def test_versions_survive_their_text(version: Version) -> None:
    assert parse_version(str(version)) == version
    assert Requirement((Comparator("=", *version[:4]),)).matches(version)


@given(st.lists(COMPARATORS, max_size=4).map(tuple).map(Requirement))
def test_requirements_survive_their_text(requirement: Requirement) -> None:
    assert parse_requirement(str(requirement)) == requirement


@given(st.lists(VERSIONS, max_size=5), COMPARATORS)
def test_the_highest_matches_and_none_is_higher(versions: list[Version], one: Comparator) -> None:
    requirement = Requirement((one,))
    matching = [version for version in versions if requirement.matches(version)]
    highest = requirement.highest(versions)
    assert (highest is None) == (not matching)
    if highest is not None:
        assert highest == max(matching, key=sort_key)
