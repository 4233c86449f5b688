"""Compressed data made to do harm."""

from __future__ import annotations

import lzma
import zlib


def greedy_xz() -> bytes:
    """Its header asks for a dictionary of 1 GiB (byte 4 of the block's, which has a checksum)."""
    data = bytearray(lzma.compress(bytes(100)))
    assert data[12:16] == b"\x02\x00\x21\x01"
    data[16] = 36
    data[20:24] = zlib.crc32(data[12:20]).to_bytes(4, "little")
    return bytes(data)
