"""Names: Unicode labels and tags by upstream's rules."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eka.atom.names import BadName, checked, is_label
from tests.unit.atom.vectors import VECTORS


@pytest.mark.parametrize("case", VECTORS["names"], ids=lambda case: repr(case["input"])[:30])
def test_names_of_the_vectors(case: dict[str, Any]) -> None:
    if case["ok"]:
        assert checked(case["kind"], case["input"]) == case["normalized"]
        return
    with pytest.raises(BadName) as caught:
        checked(case["kind"], case["input"])
    assert caught.value.reason == case["error"]
    assert case["detail"] in (None, caught.value.detail)
    assert str(caught.value).isprintable()


@given(st.text(max_size=50))
def test_a_good_name_is_its_own_normal_form_and_safe_in_paths_and_refs(text: str) -> None:
    if is_label(text):
        name = checked("label", text)
        assert checked("label", name) == name
        assert not set("/ ~^:?*[\\.\0") & set(name)
        assert not name.startswith("-")
