"""A dynamic program of the host's with the libraries that it needs, as parts of a store path.

So that no file of the host has to be shown in a bundle. The path that was made of them is found
again by the stamps of all these files, which a record in eka's cache has.

Out of scope: how the path is laid out, and what is said when the host lacks the program.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from eka.kept import publish
from eka_runtime.errors import FormatError
from eka_runtime.linux.elf import elf_interpreter
from eka_runtime.nix.path import StorePath

_LIBRARY = re.compile(r"^\s*(\S+) => (/\S+)(?: \(0x[0-9a-f]+\))?$", re.MULTILINE)


class HostProgram(NamedTuple):
    """`libraries` by the names under which they are asked for."""

    program: str
    loader: str
    libraries: dict[str, str]


def find_parts(program: str, by_name: Iterable[str] = ()) -> HostProgram:
    """Also those of the libraries `by_name` that lie beside the others, which are opened by name.

    Raises FormatError when it is no dynamic program, or not all of its libraries are there.
    """
    interpreter = elf_interpreter(Path(program))
    if interpreter is None:
        raise FormatError("it is not a dynamic program")
    loader = os.fsdecode(interpreter)
    import subprocess

    done = subprocess.run(
        [loader, "--list", program], capture_output=True, text=True, check=False, env={}
    )
    if done.returncode != 0:
        raise FormatError(f"its libraries are not all there: {done.stderr.strip()}")
    libraries = dict(_LIBRARY.findall(done.stdout))
    places = {os.path.dirname(file) for file in libraries.values()}
    for name in by_name:
        for place in places:
            if os.path.exists(f"{place}/{name}"):
                libraries.setdefault(name, f"{place}/{name}")
    return HostProgram(program, loader, libraries)


def known(record: Path, program: str) -> StorePath | None:
    """The path made before of this program, if no file of the host has changed since."""
    try:
        data = json.loads(record.read_bytes())
        if data["program"] == program and all(_stamp(file) == at for file, at in data["files"]):
            return StorePath.parse(data["path"])
    except (OSError, ValueError, KeyError, TypeError, FormatError):
        pass
    return None


def recorded_files(record: Path) -> list[str]:
    """All that it was made from. Raises OSError, ValueError, KeyError or TypeError."""
    return [file for file, _ in json.loads(record.read_bytes())["files"]]


def remember(record: Path, path: StorePath, parts: HostProgram) -> None:
    """A record that cannot be written costs time, nothing else."""
    files = [parts.program, parts.loader, *parts.libraries.values()]
    stamps = [(file, _stamp(file)) for file in files]
    data = {"path": str(path), "program": parts.program, "files": stamps}
    publish(record, json.dumps(data).encode("utf-8"))


def _stamp(file: str) -> list[int]:
    status = os.stat(file)
    return [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]
