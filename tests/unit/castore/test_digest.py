from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eka_runtime.castore.digest import B3Digest
from eka_runtime.errors import DigestError
from tests.unit.nix.vectors import of_kind


def _contents(stated: Any) -> bytes:
    if isinstance(stated, dict):
        return bytes.fromhex(stated["hex"])
    assert stated == "bytes 0x00..0xfe repeated 4096 times (1044480 bytes)"
    return bytes(range(255)) * 4096


@pytest.mark.parametrize(("given", "expected"), of_kind("blob_digest", "blob_digest+chunks"))
def test_blobs_have_the_digests_of_snix(given: Any, expected: dict[str, str]) -> None:
    digest = B3Digest.of(_contents(given))
    assert digest.hex() == expected["b3_hex"]
    if "b3_text" in expected:
        assert str(digest) == expected["b3_text"]


@given(st.binary(min_size=32, max_size=32))
def test_text_form_round_trips(raw: bytes) -> None:
    digest = B3Digest(raw)
    assert B3Digest.parse(str(digest)) == digest
    assert digest == raw
    assert hash(digest) == hash(raw)


@pytest.mark.parametrize("size", [0, 20, 31, 33, 64])
def test_a_digest_has_32_bytes(size: int) -> None:
    with pytest.raises(DigestError, match=f"32 bytes, not {size}"):
        B3Digest(bytes(size))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "blake3-",
        "rxNJufX5oaagQE3qNtzJSZvLJcmtwRK3zJqTyuQfMmI=",
        "sha256-rxNJufX5oaagQE3qNtzJSZvLJcmtwRK3zJqTyuQfMmI=",
        "blake3-rxNJufX5oaagQE3qNtzJSZvLJcmtwRK3zJqTyuQfMmI",
        "blake3-rxNJufX5oaagQE3qNtzJSZvLJcmtwRK3zJqTyuQfMmJ=",  # the same bytes
        "blake3-rxNJufX5oaagQE3qNtzJSZvLJcmtwRK3zJqTyuQfMmI=\n",
        "blake3-rxNJufX5oaagQE3qNtzJSZvLJcmtwRK3zJqTyuQfMéI=",
        "blake3-blake3-rxNJufX5oaagQE3qNtzJSZvLJcmtwRK3zJqTyuQfMmI=",
    ],
)
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(DigestError, match="not a digest"):
        B3Digest.parse(text)
