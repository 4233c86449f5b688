"""Nix's own base 32: the bytes as a little-endian number, most significant digit first.

The alphabet lacks e, o, u and t. The output is left-padded to ceil(8n/5) digits, so lengths and
the surplus high bits are determined: decoding is strict and exactly inverse. Meant for digests;
the cost of encoding grows with the square of the length.
"""

from __future__ import annotations

from eka_runtime.errors import FormatError

ALPHABET = "0123456789abcdfghijklmnpqrsvwxyz"

# Two digits at a time: this runs for every blob of an import.
_PAIRS = [high + low for high in ALPHABET for low in ALPHABET]
# int() reads base 32 with this alphabet, and much faster than a loop here could.
_TO_PYTHON = str.maketrans(ALPHABET, "0123456789abcdefghijklmnopqrstuv")


def encoded_length(size: int) -> int:
    return (size * 8 + 4) // 5


def encode(data: bytes) -> str:
    length = encoded_length(len(data))
    number = int.from_bytes(data, "little")
    pairs = (length + 1) // 2
    text = "".join([_PAIRS[(number >> shift) & 1023] for shift in range(10 * pairs - 10, -1, -10)])
    return text[-length:] if length & 1 else text


def decode(text: str) -> bytes:
    """Inverse of `encode`; FormatError for anything `encode` does not return."""
    size = len(text) * 5 // 8
    if strange := text.strip(ALPHABET):
        raise FormatError(f"invalid character {strange[0]!r} in nixbase32")
    if encoded_length(size) != len(text):
        raise FormatError(f"no nixbase32 text has {len(text)} characters")
    number = int(text.translate(_TO_PYTHON), 32) if text else 0
    if number >> (8 * size):
        raise FormatError("surplus bits are set in nixbase32")
    return number.to_bytes(size, "little")
