from __future__ import annotations

import struct
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eka_runtime.errors import FormatError
from eka_runtime.linux.elf import Elf, elf_interpreter, is_elf, is_static_elf, read_elf

INTERPRETER = b"/lib/ld.so"


def make_elf(
    bits: int = 64,
    little_endian: bool = True,
    *,
    interpreter: bytes | None = INTERPRETER + b"\0",
    kind: int = 2,
    entry: int = 0x400000,
    entry_size: int | None = None,
    count: int | None = None,
    table_at: int | None = None,
    interpreter_at: int | None = None,
    interpreter_size: int | None = None,
) -> bytes:
    """An ELF file of a header, a PT_LOAD, a PT_INTERP if there is an interpreter, and its path."""
    order = "<" if little_endian else ">"
    wide = bits == 64
    header_size, program_size = (64, 56) if wide else (52, 32)
    headers = 1 + (interpreter is not None)
    text_at = header_size + headers * program_size
    at = text_at if interpreter_at is None else interpreter_at
    size = len(interpreter or b"") if interpreter_size is None else interpreter_size
    ident = b"\x7fELF" + bytes([2 if wide else 1, 1 if little_endian else 2, 1]) + bytes(9)
    header = struct.pack(
        order + ("HHIQQQIHHHHHH" if wide else "HHIIIIIHHHHHH"),
        kind,
        62,
        1,
        entry,
        header_size if table_at is None else table_at,
        0,
        0,
        header_size,
        program_size if entry_size is None else entry_size,
        headers if count is None else count,
        0,
        0,
        0,
    )
    if wide:
        load = struct.pack(order + "IIQQQQQQ", 1, 5, 0, 0, 0, 64, 64, 4096)
        interp = struct.pack(order + "IIQQQQQQ", 3, 4, at, 0, 0, size, size, 1)
    else:
        load = struct.pack(order + "IIIIIIII", 1, 0, 0, 0, 64, 64, 5, 4096)
        interp = struct.pack(order + "IIIIIIII", 3, at, 0, 0, size, size, 4, 1)
    if interpreter is None:
        return ident + header + load
    return ident + header + load + interp + interpreter


def save(tmp_path: Path, data: bytes) -> Path:
    file = tmp_path / "file"
    file.write_bytes(data)
    return file


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("little_endian", [True, False])
def test_both_classes_and_byte_orders(tmp_path: Path, bits: int, little_endian: bool) -> None:
    dynamic = save(tmp_path, make_elf(bits, little_endian))
    assert read_elf(dynamic) == Elf(bits, little_endian, 2, 62, 0x400000, INTERPRETER)
    assert is_elf(dynamic)
    assert elf_interpreter(dynamic) == INTERPRETER
    assert not is_static_elf(dynamic)
    static = save(tmp_path, make_elf(bits, little_endian, interpreter=None))
    assert elf_interpreter(static) is None
    assert is_static_elf(static)


def test_the_python_that_runs_this_is_an_elf_file() -> None:
    program = Path(sys.executable).resolve()
    assert is_elf(program)
    interpreter = elf_interpreter(program)
    assert is_static_elf(program) == (interpreter is None)
    assert interpreter is None or Path(interpreter.decode()).exists()


@pytest.mark.parametrize("data", [b"", b"\x7fEL", b"#!/bin/sh\n", b"MZ" * 100])
def test_other_files_are_no_elf(tmp_path: Path, data: bytes) -> None:
    file = save(tmp_path, data)
    assert not is_elf(file)
    assert read_elf(file) is None
    assert elf_interpreter(file) is None
    assert not is_static_elf(file)


def test_what_cannot_start_is_not_static(tmp_path: Path) -> None:
    assert not is_static_elf(save(tmp_path, make_elf(interpreter=None, kind=1)))
    assert not is_static_elf(save(tmp_path, make_elf(interpreter=None, kind=3, entry=0)))
    assert is_static_elf(save(tmp_path, make_elf(interpreter=None, kind=3)))


def test_program_headers_may_be_absent(tmp_path: Path) -> None:
    assert elf_interpreter(save(tmp_path, make_elf(interpreter=None, count=0))) is None


MALFORMED = {
    "magic only": (b"\x7fELF", "unknown class or byte order"),
    "class": (b"\x7fELF\x03\x01" + bytes(60), "unknown class or byte order"),
    "byte order": (b"\x7fELF\x02\x03" + bytes(60), "unknown class or byte order"),
    "short header": (make_elf()[:57], "the header is cut off"),
    "entry size": (make_elf(entry_size=55), "2 program headers of 55 bytes"),
    "entry size of the other class": (make_elf(32, entry_size=56), "2 program headers of 56"),
    "too many": (make_elf(count=1171), "1171 program headers of 56 bytes"),
    "table beyond the end": (make_elf(count=1170), "cut off in the program headers at byte 64"),
    "table far away": (make_elf(table_at=2**63 - 1), "cut off in the program headers"),
    "table at a negative offset": (make_elf(table_at=2**64 - 1), "cut off in the program headers"),
    "path beyond the end": (make_elf(interpreter_at=999), "cut off in the interpreter path"),
    "path far away": (make_elf(interpreter_at=2**64 - 1), "cut off in the interpreter path"),
    "path too long": (make_elf(interpreter_size=4097), "an interpreter path of 4097 bytes"),
    "path huge": (make_elf(interpreter_size=2**63), "an interpreter path of"),
    "path empty": (make_elf(interpreter=b"\0"), "an interpreter path of 1 bytes"),
    "path open": (make_elf(interpreter=b"/ld"), "the interpreter path does not end"),
}


@pytest.mark.parametrize(("data", "message"), MALFORMED.values(), ids=MALFORMED)
def test_malformed_files_are_refused(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(FormatError, match=f"is a malformed ELF file: {message}"):
        read_elf(save(tmp_path, data))


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 200), st.binary(min_size=1, max_size=8), st.sampled_from([32, 64]))
def test_random_damage_is_read_or_refused(
    tmp_path: Path, at: int, damage: bytes, bits: int
) -> None:
    data = bytearray(make_elf(bits))
    data[at : at + len(damage)] = damage
    try:
        elf = read_elf(save(tmp_path, bytes(data)))
    except FormatError:
        return
    assert elf is None or isinstance(elf, Elf)


def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_elf(tmp_path / "absent")
