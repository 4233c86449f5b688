"""What services say, as messages: without what a terminal would obey."""

from __future__ import annotations

import pytest

from eka_runtime.castore.bucket_errors import bucket_error

_RED = "\x1b[31m\u202e\x07"


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (f"<Code>Odd{_RED}</Code><Message>It is {_RED}so.</Message>", "It is"),
        (f"<Code>Odd{_RED}</Code>", "Odd"),
        (f"Error performing GET http://x/{_RED} in 1s - status code: 500", "GET http://x/"),
        (f"Generic error: {_RED}\n\nDebug source", "Generic error:"),
    ],
)
def test_messages_are_printable(said: str, told: str) -> None:
    text = str(bucket_error("the bucket", Exception(said)))
    assert text.startswith(f"the bucket: {told}")
    assert text.isprintable()
    assert len(text) < 500
