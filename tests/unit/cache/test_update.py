"""Names of paths: which may be versions of the same package."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eka_runtime.cache.update import stem


@pytest.mark.parametrize(
    ("name", "before_version"),
    [
        ("openssl-3.0.14-dev", "openssl"),
        ("python3.11-foo-1.2", "python3.11-foo"),
        ("hello", "hello"),
        ("gtk+-2", "gtk+"),
        ("source-of-x", "source-of-x"),
        ("7zip-22.01", "7zip"),
    ],
)
def test_what_comes_before_the_version(name: str, before_version: str) -> None:
    assert stem(name) == before_version


@given(st.from_regex(r"[a-z]+(-[a-z]+){0,3}", fullmatch=True), st.integers(0, 99))
def test_versions_do_not_matter(package: str, number: int) -> None:
    assert stem(f"{package}-{number}.1-lib") == stem(f"{package}-{number + 1}") == package
