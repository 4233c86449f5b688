"""What the kernel reads of an ELF file before it starts it: class, type and interpreter (elf(5)).

Constraint: files are hostile; at most a header, 64 KiB of program headers (the kernel's own limit)
and one path are read. Out of scope: sections, symbols, needed libraries.
"""

from __future__ import annotations

import os
import struct
from os import PathLike, fspath
from typing import NamedTuple

from eka_runtime.errors import FormatError

ELF_MAGIC = b"\x7fELF"
ET_EXEC = 2
ET_DYN = 3
PT_INTERP = 3
PATH_MAX = 4096

_EI_CLASS, _EI_DATA, _EI_NIDENT = 4, 5, 16
_MAX_PROGRAM_HEADERS = 65536
# e_type e_machine e_version e_entry e_phoff e_shoff e_flags e_ehsize e_phentsize e_phnum
_HEADER = {1: "HHIIIIIHHH", 2: "HHIQQQIHHH"}
# 32 bit: p_type p_offset p_vaddr p_paddr p_filesz …; 64 bit: p_type p_flags p_offset …
_PROGRAM = {1: "IIIIIIII", 2: "IIQQQQQQ"}
_ORDER = {1: "<", 2: ">"}


class Elf(NamedTuple):
    """`interpreter` is the dynamic linker that the kernel starts instead, None without one."""

    bits: int
    little_endian: bool
    type: int
    machine: int
    entry: int
    interpreter: bytes | None


def is_elf(path: str | PathLike[str]) -> bool:
    """By its magic number alone. Raises OSError."""
    with open(path, "rb", buffering=0) as stream:
        return stream.read(len(ELF_MAGIC)) == ELF_MAGIC


def elf_interpreter(path: str | PathLike[str]) -> bytes | None:
    """None for a static file and for what is no ELF. Raises OSError, FormatError (malformed)."""
    elf = read_elf(path)
    return elf.interpreter if elf else None


def is_static_elf(path: str | PathLike[str]) -> bool:
    """Whether it can start in an empty root. Raises OSError, FormatError (malformed ELF)."""
    elf = read_elf(path)
    if elf is None or elf.type not in (ET_EXEC, ET_DYN):
        return False
    return elf.interpreter is None and elf.entry != 0


def read_elf(path: str | PathLike[str]) -> Elf | None:
    """None when it is no ELF file. Raises OSError, and FormatError when it is a malformed one."""
    with open(path, "rb", buffering=0) as stream:
        fd = stream.fileno()
        head = os.pread(fd, 64, 0)
        if not head.startswith(ELF_MAGIC):
            return None
        try:
            return _parse(fd, head)
        except _Malformed as error:
            raise FormatError(f"`{fspath(path)}` is a malformed ELF file: {error}") from None


class _Malformed(Exception):
    pass


def _parse(fd: int, head: bytes) -> Elf:
    if len(head) <= _EI_DATA or head[_EI_CLASS] not in _HEADER or head[_EI_DATA] not in _ORDER:
        raise _Malformed("unknown class or byte order")
    kind, order = head[_EI_CLASS], _ORDER[head[_EI_DATA]]
    layout = struct.Struct(order + _HEADER[kind])
    if len(head) < _EI_NIDENT + layout.size:
        raise _Malformed("the header is cut off")
    fields = layout.unpack_from(head, _EI_NIDENT)
    interpreter = _find_interpreter(fd, kind, order, fields[4], *fields[8:10])
    return Elf(32 * kind, order == "<", fields[0], fields[1], fields[3], interpreter)


def _find_interpreter(
    fd: int, kind: int, order: str, offset: int, entry_size: int, count: int
) -> bytes | None:
    layout = struct.Struct(order + _PROGRAM[kind])
    if count == 0:
        return None
    if entry_size != layout.size or entry_size * count > _MAX_PROGRAM_HEADERS:
        raise _Malformed(f"{count} program headers of {entry_size} bytes")
    table = _read(fd, offset, entry_size * count, "program headers")
    for header in layout.iter_unpack(table):
        if header[0] == PT_INTERP:
            place, size = (header[1], header[4]) if kind == 1 else (header[2], header[5])
            return _interpreter(fd, place, size)
    return None


def _interpreter(fd: int, offset: int, size: int) -> bytes:
    if not 2 <= size <= PATH_MAX:
        raise _Malformed(f"an interpreter path of {size} bytes")
    text = _read(fd, offset, size, "interpreter path")
    if text[-1] != 0:
        raise _Malformed("the interpreter path does not end")
    return text.partition(b"\0")[0]


def _read(fd: int, offset: int, size: int, what: str) -> bytes:
    # pread(2) refuses offsets that do not fit with the size into its signed 64 bits.
    data = os.pread(fd, size, offset) if offset < 1 << 62 else b""
    if len(data) != size:
        raise _Malformed(f"cut off in the {what} at byte {offset}")
    return data
