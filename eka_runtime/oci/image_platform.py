"""Platforms as OCI names them, and how they follow from an ELF header (elf(5), e_machine).

Names are Go's GOOS and GOARCH, as the image-spec has it.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping

from eka_runtime.errors import FormatError, UsageError

# (e_machine, little endian): architecture, variant
_MACHINES = {
    (3, True): ("386", ""),
    (8, True): ("mipsle", ""),
    (21, False): ("ppc64", ""),
    (21, True): ("ppc64le", ""),
    (22, False): ("s390x", ""),
    (40, True): ("arm", "v7"),
    (62, True): ("amd64", ""),
    (183, True): ("arm64", ""),
    (243, True): ("riscv64", ""),
    (258, True): ("loong64", ""),
}
_OF_UNAME = {
    "x86_64": "amd64",
    "aarch64": "arm64",
    "i686": "386",
    "i386": "386",
    "armv7l": "arm",
    "armv8l": "arm",
    "loongarch64": "loong64",
}
_ARCHITECTURES = sorted({name for name, _ in _MACHINES.values()})


def platform_of_elf(head: bytes) -> Mapping[str, str]:
    """Of the first 20 bytes of an ELF file. Raises FormatError for a machine without a name."""
    if len(head) < 20:
        raise FormatError("an ELF file ends in its header")
    little = head[5] == 1
    (machine,) = struct.unpack_from("<H" if little else ">H", head, 18)
    found = _MACHINES.get((machine, little))
    if found is None:
        raise FormatError(
            f"an ELF file is for machine {machine}, which has no name in OCI",
            hint="say what it is for, with `--platform OS/ARCHITECTURE`",
        )
    return _platform("linux", *found)


def host_platform() -> Mapping[str, str]:
    machine = os.uname().machine
    name = _OF_UNAME.get(machine, machine)
    return _platform("linux", name, "v7" if name == "arm" else "")


def parse_platform(text: str) -> Mapping[str, str]:
    """Of `[linux/]ARCHITECTURE[/VARIANT]`. Raises UsageError."""
    parts = text.split("/")
    if parts[0] in _ARCHITECTURES:
        parts = ["linux", *parts]
    known = parts[0] == "linux" and 2 <= len(parts) <= 3 and parts[1] in _ARCHITECTURES
    if not known or not all(part.isalnum() for part in parts):
        raise UsageError(
            f"`{text}` is not a platform",
            hint=f"use linux/ARCHITECTURE with one of {', '.join(_ARCHITECTURES)}",
        )
    return _platform(*parts)


def _platform(system: str, architecture: str, variant: str = "") -> Mapping[str, str]:
    found = {"architecture": architecture, "os": system}
    return {**found, "variant": variant} if variant else found
