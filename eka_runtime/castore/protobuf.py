"""The little of the protobuf wire format that castore messages need.

Two wire types occur: varints and length-delimited bytes. Anything else is refused, since it could
only be an unknown field, and those have no canonical form. The decoder is lenient where protobuf
is (long varints, any order): whoever wants canonical input encodes again and compares.
"""

from __future__ import annotations

_SHORT = [bytes([n]) for n in range(128)]
_VARINT_MAX = 10


class ProtobufError(ValueError):
    """Malformed wire data; callers turn it into an error that says which message it was."""


def varint(number: int) -> bytes:
    if number < 128:
        return _SHORT[number]
    if number < 1 << 14:
        return bytes((number & 127 | 128, number >> 7))
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def fields(data: bytes) -> list[tuple[int, int | bytes]]:
    """Field numbers and values in the order of the message."""
    found: list[tuple[int, int | bytes]] = []
    position, end = 0, len(data)
    # Nearly all varints have one byte; a call for each would double the time.
    while position < end:
        key = data[position]
        position += 1
        if key > 127:
            key, position = _read_varint(data, position - 1)
        if not 8 <= key < 1 << 32:
            raise ProtobufError(f"invalid field number {key >> 3}")
        if position < end and data[position] < 128:
            value = data[position]
            position += 1
        else:
            value, position = _read_varint(data, position)
        if key & 7 == 2:
            if value > end - position:
                raise ProtobufError("message is truncated")
            found.append((key >> 3, data[position : position + value]))
            position += value
        elif key & 7 == 0:
            found.append((key >> 3, value))
        else:
            raise ProtobufError(f"field {key >> 3} has wire type {key & 7}")
    return found


def shortest(data: bytes, position: int) -> tuple[int, int]:
    """A varint as `varint` writes it, and the position behind it; IndexError at the end."""
    number = data[position]
    if number < 128:
        return number, position + 1
    second = data[position + 1]
    if 0 < second < 128:
        return number & 127 | second << 7, position + 2
    number, after = _read_varint(data, position)
    if data[after - 1] == 0:
        raise ProtobufError("varint is not the shortest")
    return number, after


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
