"""How much of a script states what it needs: whatever may come after that, it states the same."""

from __future__ import annotations

import os
import tempfile

from hypothesis import given
from hypothesis import strategies as st

from eka import warm
from eka.script import header
from eka.script.header import parse_header
from eka_runtime.errors import EkaError

_LINES = [
    b"#!/usr/bin/env eka-run",
    b"#!eka-run -p x",
    b"# /// eka",
    b"# packages = []",
    b"# ///",
    b"// /// eka",
    b"#",
    b"# comment",
    b"\r",
    b"echo",
    b"",
    b"\xef\xbb\xbf#!/bin/sh",
    b"\0",
]
_texts = st.lists(st.sampled_from(_LINES), max_size=8).map(b"\n".join)
_tails = st.one_of(_texts, st.binary(max_size=20))


def stated(text: bytes) -> header.Header | None:
    try:
        return parse_header(text, "f")
    except EkaError:
        return None


def statement(text: bytes, size: int) -> bytes | None:
    with tempfile.NamedTemporaryFile() as file:
        file.write(text)
        file.flush()
        return warm.statement(os.fsencode(file.name), size)


@given(_texts, _tails)
def test_what_comes_after_the_statement_states_nothing(text: bytes, tail: bytes) -> None:
    found = stated(text)
    if found is None or found.size is None:
        return
    same = statement(text, found.size)
    other = text[: found.size] + tail
    if same is not None and statement(other, found.size) == same:
        assert stated(other) == found


def test_where_statements_end() -> None:
    block = b"#!/usr/bin/env eka-run\n# /// eka\n# ///\n"
    for text, size in [
        (block, len(block)),
        (block + b"echo", len(block)),
        (block + b"# more\necho", len(block) + 7),
        (block + b"# goes on", None),
        (b"echo\n" + block, 5 + len(block)),
        (b"#!/usr/bin/env eka-run\n\necho\n", 23),
        (b"echo\n", None),
        (b"", None),
    ]:
        assert parse_header(text, "f").size == size, text


def test_no_statement_is_beyond_what_is_read() -> None:
    assert warm.HEAD_LIMIT == header.HEAD_LIMIT
    text = b"#!/usr/bin/env eka-run\n" + b"#\n" * header.HEAD_LIMIT
    assert parse_header(text[: header.HEAD_LIMIT], "f").size is None
    long = b"#!/usr/bin/env eka-run\n" + b"\n" * header.HEAD_LIMIT
    size = parse_header(long[: header.HEAD_LIMIT], "f").size
    assert size == 23
    assert statement(long, size) == statement(long + b"/// eka", size) is not None
