"""Runs a classic BPF filter on made-up system calls, as the kernel would (seccomp(2))."""

from __future__ import annotations

import ctypes
import platform
import struct
from collections.abc import Sequence

from tests.requirements import lacking

ALLOW = 0x7FFF0000
ERRNO = 0x00050000

# linux/audit.h
_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_LOAD, _EQ, _GT, _GE, _JUMP, _AND, _RETURN = 0x20, 0x15, 0x25, 0x35, 0x05, 0x54, 0x06


def number(name: str) -> int:
    """Of a system call on this machine."""
    found: int = ctypes.CDLL("libseccomp.so.2").seccomp_syscall_resolve_name(name.encode())
    return found


def verdict(program: bytes, name: str, arguments: Sequence[int] = ()) -> int:
    """What the filter returns: ALLOW, or ERRNO with the error number."""
    if platform.machine() not in _ARCHITECTURES:
        lacking(f"no table for {platform.machine()}")
    words = [*arguments, *[0] * (6 - len(arguments))]
    # struct seccomp_data: nr, arch, instruction pointer, args
    data = struct.pack("<iIQ6Q", number(name), _ARCHITECTURES[platform.machine()], 0, *words)
    instructions = list(struct.iter_unpack("<HBBI", program))
    at, value = 0, 0
    while True:
        code, true, false, k = instructions[at]
        at += 1
        if code == _RETURN:
            return int(k)
        if code == _LOAD:
            (value,) = struct.unpack_from("<I", data, k)
        elif code == _AND:
            value &= k
        elif code == _JUMP:
            at += k
        else:
            at += true if _holds(code, value, k) else false


def _holds(code: int, value: int, k: int) -> bool:
    holds: bool = {_EQ: value == k, _GT: value > k, _GE: value >= k}[code]
    return holds
