"""The first line of a script, exactly as the kernel reads it (fs/binfmt_script.c since Linux 5.1).

One interpreter path and at most one argument, which keeps its inner blanks; 256 bytes are looked
at, and a path that may have been cut off there is no path.
"""

from __future__ import annotations

from typing import NamedTuple

BINPRM_BUF_SIZE = 256
_SPACETAB = b" \t"


class Shebang(NamedTuple):
    interpreter: bytes
    argument: bytes | None


def kernel_shebang(head: bytes) -> Shebang | None:
    """None when the kernel would not take these first bytes of a file for a script."""
    if not head.startswith(b"#!"):
        return None
    buffer = head[:BINPRM_BUF_SIZE].ljust(BINPRM_BUF_SIZE, b"\0")
    text = buffer.partition(b"\0")[0]
    end = text.find(b"\n")
    if end < 0:
        end = BINPRM_BUF_SIZE - 1
        start = _next_non_spacetab(buffer, 2, end)
        if start is None or _next_terminator(buffer, start, end) is None:
            return None
    while buffer[end - 1] in _SPACETAB:
        end -= 1
    name = _next_non_spacetab(buffer, 2, end)
    if name is None or name == end:
        return None
    separator = _next_terminator(buffer, name, end)
    argument = None
    if separator is not None and buffer[separator] != 0:
        argument = _next_non_spacetab(buffer, separator, end)
    return Shebang(
        _c_string(buffer, name, end if separator is None else separator),
        None if argument is None else _c_string(buffer, argument, end),
    )


def _next_non_spacetab(buffer: bytes, first: int, last: int) -> int | None:
    """As in the kernel, `last` is included."""
    return next((at for at in range(first, last + 1) if buffer[at] not in _SPACETAB), None)


def _next_terminator(buffer: bytes, first: int, last: int) -> int | None:
    return next((at for at in range(first, last + 1) if buffer[at] in b" \t\0"), None)


def _c_string(buffer: bytes, start: int, end: int) -> bytes:
    return buffer[start:end].partition(b"\0")[0]
