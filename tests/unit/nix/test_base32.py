from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eka_runtime.errors import FormatError
from eka_runtime.nix import base32
from tests.unit.nix.vectors import of_kind


@pytest.mark.parametrize(("given_hex", "expected"), of_kind("nixbase32"))
def test_vectors(given_hex: dict[str, str], expected: dict[str, str]) -> None:
    data = bytes.fromhex(given_hex["hex"])
    assert base32.encode(data) == expected["text"]
    assert base32.decode(expected["text"]) == data


@settings(deadline=None)
@given(st.binary(max_size=80))
def test_round_trip(data: bytes) -> None:
    text = base32.encode(data)
    assert len(text) == base32.encoded_length(len(data))
    assert base32.decode(text) == data


@settings(deadline=None)
@given(st.text(st.sampled_from(base32.ALPHABET + "eotu0A ="), max_size=40))
def test_whatever_decodes_is_canonical(text: str) -> None:
    try:
        data = base32.decode(text)
    except FormatError:
        return
    assert base32.encode(data) == text


@pytest.mark.parametrize("size", range(70))
def test_every_length_has_its_definition(size: int) -> None:
    """The number, digit by digit, as the format is defined."""
    data = bytes((7 * i + size) & 255 for i in range(size))
    number, digits = int.from_bytes(data, "little"), ""
    while len(digits) < -(-size * 8 // 5):
        number, digit = divmod(number, 32)
        digits = base32.ALPHABET[digit] + digits
    assert base32.encode(data) == digits


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0e", "invalid character 'e' in nixbase32"),
        ("AB", "invalid character 'A' in nixbase32"),
        ("0 ", "invalid character ' ' in nixbase32"),
        ("1_1_1_11", "invalid character '_' in nixbase32"),
        ("+0", "invalid character '\\+' in nixbase32"),
        ("0٣", "invalid character '٣' in nixbase32"),
        ("0", "no nixbase32 text has 1 characters"),
        ("000", "no nixbase32 text has 3 characters"),
        ("000000", "no nixbase32 text has 6 characters"),
        ("80", "surplus bits are set in nixbase32"),
        ("zz", "surplus bits are set in nixbase32"),
    ],
)
def test_refusals(text: str, message: str) -> None:
    with pytest.raises(FormatError, match=f"^{message}$"):
        base32.decode(text)
