"""Nothing that a client sends breaks the server or the store."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from eka_runtime.daemon.protocol import MINOR, OLDEST, REPLIES, REQUESTS, TEXTS, Op
from eka_runtime.daemon.wire import BOOL, NUMBER, TEXT, Codec, Fields, read_fields, write_fields
from eka_runtime.nix.nar import NarReader
from eka_runtime.nix.tokens import u64
from eka_runtime.store.store import Store
from eka_runtime.view.live import growing
from tests.stores import assert_clean
from tests.unit.castore.local import temporary
from tests.unit.daemon.fuzz import feed, is_harmless, streams
from tests.unit.nix.trees import in_pieces

_CONNECTIONS = 150
_PATH = "/nix/store/" + "0" * 31
_words = st.text(st.characters(codec="utf-8"), max_size=12) | st.builds(
    lambda digit, name: f"{_PATH}{digit}-{name}",
    st.sampled_from("0123"),
    st.text("ab.-", max_size=4),
)
_numbers = st.integers(0, 3) | st.integers(0, (1 << 64) - 1)


def test_damaged_requests_break_nothing(store_dir: Path) -> None:
    with Store.open(store_dir) as store:
        layout = store.layout
    with growing(layout) as view:
        for number, data in enumerate(islice(streams(5), _CONNECTIONS)):
            feed(store_dir, view, data, trusted=bool(number % 2))


def _of(codec: Codec[object]) -> st.SearchStrategy[object]:
    plain = {id(TEXT): _words, id(BOOL): st.booleans(), id(NUMBER): _numbers}
    plain[id(TEXTS)] = st.lists(_words, max_size=3)
    return plain.get(id(codec), st.none())


def _is_plain(fields: Fields) -> bool:
    return all(any(field.codec is one for one in (TEXT, BOOL, NUMBER, TEXTS)) for field in fields)


@st.composite
def _requests(draw: st.DrawFn) -> tuple[Op, dict[str, object], int]:
    op = draw(st.sampled_from([op for op in Op if _is_plain(REQUESTS[op])]))
    version = draw(st.integers(OLDEST, MINOR))
    values = {field.name: draw(_of(field.codec)) for field in REQUESTS[op]}
    return op, values, version


@given(_requests(), st.integers(1, 64))
def test_requests_come_back(request: tuple[Op, dict[str, object], int], size: int) -> None:
    op, values, version = request
    wire = write_fields(REQUESTS[op], values, version)
    reader = NarReader(in_pieces(wire, size))
    found = read_fields(REQUESTS[op], reader, version)
    assert reader.at_end()
    assert found == {name: values[name] for name in found}
    assert write_fields(REQUESTS[op], found, version) == wire
    assert op in REPLIES


@settings(max_examples=40)
@given(st.lists(_requests(), max_size=8))
def test_any_requests_are_answered(requests: list[tuple[Op, dict[str, object], int]]) -> None:
    wire = b"".join(u64(op) + write_fields(REQUESTS[op], values, 37) for op, values, _ in requests)
    if not is_harmless(wire):
        return
    with temporary() as place:
        root = place / "store"
        with Store.open(root) as store:
            layout = store.layout
        with growing(layout) as view:
            feed(root, view, wire)
        assert_clean(root)
