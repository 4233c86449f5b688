"""The little of the protobuf wire format that castore messages need.

Two wire types occur: varints and length-delimited bytes. Anything else is refused, since it could
only be an unknown field, and those have no canonical form. The decoder is lenient where protobuf
is (long varints, any order): whoever wants canonical input encodes again and compares.
"""

from __future__ import annotations

from collections.abc import Iterator

_SHORT = [bytes([n]) for n in range(128)]
_VARINT_MAX = 10


class ProtobufError(ValueError):
    """Malformed wire data; callers turn it into an error that says which message it was."""


def varint(number: int) -> bytes:
    if number < 128:
        return _SHORT[number]
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Field numbers and values in the order of the message."""
    position, end = 0, len(data)
    while position < end:
        key, position = _read_varint(data, position)
        number, wire_type = key >> 3, key & 7
        if not 1 <= number < 1 << 29:
            raise ProtobufError(f"invalid field number {number}")
        value, position = _read_varint(data, position)
        if wire_type == 2:
            if value > end - position:
                raise ProtobufError("message is truncated")
            yield number, data[position : position + value]
            position += value
        elif wire_type == 0:
            yield number, value
        else:
            raise ProtobufError(f"field {number} has wire type {wire_type}")


def _read_varint(data: bytes, position: int) -> tuple[int, int]:
    number = shift = 0
    for byte in data[position : position + _VARINT_MAX]:
        position += 1
        number |= (byte & 127) << shift
        if byte < 128:
            if number >> 64:
                raise ProtobufError("varint exceeds 64 bits")
            return number, position
        shift += 7
    raise ProtobufError("message is truncated" if shift < 70 else "varint exceeds 64 bits")
