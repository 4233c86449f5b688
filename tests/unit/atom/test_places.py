"""Where keys and values of a TOML text stand."""

from __future__ import annotations

from typing import Any

import pytest
import tomli
import tomlkit
from hypothesis import given, settings
from hypothesis import strategies as st

from eka.atom.places import Path, line_and_column, locate

TEXT = '''# comment
top = "x" # = [
[a]
b.c = 1
"q.r" = { x = [1, { y = 2 }], "z" = """
multi ]""" }
[[d]]
e = [ # one
  "1", "2",
]
[[d]]
[d.f]
g = true
[a.h]
'''


@pytest.mark.parametrize(
    ("path", "key", "value"),
    [
        (("top",), "2:1", "2:7"),
        (("a",), "3:2", "3:2"),
        (("a", "b", "c"), "4:3", "4:7"),
        (("a", "q.r"), "5:1", "5:9"),
        (("a", "q.r", "x", 1, "y"), "5:21", "5:25"),
        (("a", "q.r", "z"), "5:31", "5:37"),
        (("d", 0, "e", 1), "9:8", "9:8"),
        (("d", 1, "f", "g"), "13:1", "13:5"),
        (("a", "h"), "14:4", "14:4"),
    ],
)
def test_places(path: Path, key: str, value: str) -> None:
    found = locate(TEXT)[path]
    places = [":".join(map(str, line_and_column(TEXT, offset))) for offset in found]
    assert places == [key, value]


def paths(value: Any, at: Path = ()) -> list[Path]:
    below: list[Path] = [at]
    if isinstance(value, (dict, list)):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            below += paths(item, (*at, key))
    return below


VALUES = st.recursive(
    st.one_of(st.text(max_size=5), st.integers(), st.booleans(), st.dates()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(deadline=None)
@given(st.dictionaries(st.text(max_size=3), VALUES, max_size=4))
def test_everything_is_found(data: dict[str, Any]) -> None:
    text = tomlkit.dumps(data)
    found = locate(text)
    assert set(paths(tomli.loads(text))) <= set(found)
    assert all(0 <= offset <= len(text) for located in found.values() for offset in located)
