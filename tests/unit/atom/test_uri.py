"""Atom URIs, aliases, and git URLs."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eka.atom.git_url import mirror_key, parse_git_url, parse_mirror
from eka.atom.uri import DEFAULT_ALIASES, AtomUri, cut_url, parse_uri, resolve_url
from eka_runtime.errors import FormatError
from tests.unit.atom.vectors import VECTORS


@pytest.mark.parametrize("case", VECTORS["uris"], ids=lambda case: case["input"])
def test_uris_of_the_vectors(case: dict[str, Any]) -> None:
    pieces = case["pieces"]
    cut = cut_url(case["input"].partition("::")[0])
    assert list(cut) == [pieces[key] for key in ("scheme", "user", "password", "fragment")]
    found = parse_uri(case["input"])
    assert found.url is not None
    assert list(found.url) == list(case["url"].values())
    assert found.label == case["label"]
    assert (str(found.requirement) if found.requirement else None) == case["requirement"]


@pytest.mark.parametrize("case", VECTORS["uri_errors"], ids=lambda case: case["input"])
def test_bad_uris_of_the_vectors(case: dict[str, str]) -> None:
    with pytest.raises(FormatError):
        parse_uri(case["input"])


@pytest.mark.parametrize("text", ["foo@^0.8", "::foo", "foo", "::foo@^0.8"])
def test_local_uris(text: str) -> None:
    found = parse_uri(text)
    assert (found.url, found.label) == (None, "foo")


def test_what_is_no_url_is_no_local_atom_either() -> None:
    for text in ("https://::foo", "user@::foo"):
        with pytest.raises(FormatError, match="names no repository"):
            parse_uri(text)


def test_hosts_that_are_stated_need_no_known_domain() -> None:
    assert str(resolve_url("http://localhost:8080/repo.git")) == "http://localhost:8080/repo.git"
    assert str(resolve_url("http://127.0.0.1:81/r")) == "http://127.0.0.1:81/r"
    assert str(resolve_url("git@host:o/r")) == "ssh://git@host/o/r"
    assert str(resolve_url("file:///srv/repo")) == "/srv/repo"


def test_the_default_aliases() -> None:
    assert VECTORS["aliases_default"] == DEFAULT_ALIASES
    for case in VECTORS["aliased_urls"]:
        assert str(resolve_url(case["input"])) == case["url"]


def test_a_cycle_of_aliases_is_found() -> None:
    with pytest.raises(FormatError, match="leads back to itself: a -> b -> a"):
        resolve_url("a:x", {"a": "b:1", "b": "a:2"})


@given(st.text(max_size=60))
def test_any_text_is_a_uri_with_a_text_of_its_own_or_refused(text: str) -> None:
    try:
        found = parse_uri(text)
    except FormatError:
        return
    if found.url is None:
        assert parse_uri(str(found)) == found
    else:
        assert isinstance(parse_uri(str(found)), AtomUri)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("git@github.com:o/r", "git@github.com:o/r"),
        ("ssh://git@github.com/o/r", "ssh://git@github.com/o/r"),
        ("git+ssh://h.org/o", "ssh://h.org/o"),
        ("HTTPS://h.org", "https://h.org/"),
        ("https://h.org:443/x", "https://h.org/x"),
        ("file:///srv/x", "file:///srv/x"),
        ("../x", "../x"),
        ("./a:b", "./a:b"),
        ("http://[::1]:8/x", "http://[::1]:8/x"),
    ],
)
def test_git_urls(text: str, canonical: str) -> None:
    assert str(parse_git_url(text)) == canonical
    assert parse_git_url(canonical) == parse_git_url(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-x",
        "ssh://-oProxyCommand=x/y",
        "-u@h:x",
        "ssh://h.org",
        "ext::sh -c x",
        "https:///x",
        "file://host/x",
        "http://h:99999/",
        "a\nb",
        "https://u:p@h.org/x",
    ],
)
def test_bad_mirrors(text: str) -> None:
    with pytest.raises(FormatError):
        parse_mirror(text)


def test_mirrors_are_ordered_as_in_locks() -> None:
    mirrors = ["::", "/srv/x", "git@a:o", "ssh://a/o", "http://a/", "https://a/", "https://b/"]
    assert sorted(reversed(mirrors), key=mirror_key)[:2] == ["::", "/srv/x"]
    assert sorted(reversed(mirrors), key=mirror_key)[4:] == mirrors[4:]
