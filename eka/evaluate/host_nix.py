"""The host's own Nix as a store path, where the store has none: its program and its libraries.

    /nix/store/<hash>-host-nix/bin/nix-instantiate    the program, as the host has it
    /nix/store/<hash>-host-nix/lib/                   every library that it needs, and the loader

So an evaluator is always a closure of the store: a bundle shows no file of the host for it, and its
store path says exactly which one it is. The path is made once and found again by the stamps of the
files that it was made from:

    $XDG_CACHE_HOME/eka/evaluator/<key>.json

Out of scope: running it (`nix.py`).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path

from eka.config import cache_dir
from eka_runtime.errors import EvaluatorMissing, FormatError
from eka_runtime.linux.elf import elf_interpreter
from eka_runtime.nix.path import StorePath
from eka_runtime.store.roots import Root
from eka_runtime.store.store import Store

NAME = "host-nix"
PROGRAM = "nix-instantiate"
LOADER = "lib/loader"
_PLACES = "/usr/local/bin:/usr/bin:/bin"
_LIBRARY = re.compile(r"^\s*(\S+) => (/\S+)(?: \(0x[0-9a-f]+\))?$", re.MULTILINE)
_HINT = "install Nix (on Debian: `apt-get install nix-bin`), or name one with `EKA_EVALUATOR`"


def host_nix(store: Store, environ: Mapping[str, str]) -> StorePath:
    """Adds it to the store unless it is there. Raises EvaluatorMissing, and what adding raises."""
    program = find_nix(environ)
    record = _record(environ, program)
    known = _known(record)
    if known and store.paths.get(known):
        return known
    libraries, loader = _needed(program)
    with tempfile.TemporaryDirectory(prefix="eka-nix-") as directory:
        tree = Path(directory) / NAME
        (tree / "bin").mkdir(parents=True)
        (tree / "lib").mkdir()
        shutil.copy(program, tree / "bin" / PROGRAM)
        shutil.copy(loader, tree / LOADER)
        for name, place in libraries.items():
            shutil.copy(place, tree / "lib" / name)
        path = store.add_tree(tree).path
    store.roots.add(Root(f"evaluator/{path.hash}", "named", b"", (path,)))
    _remember(record, path, [program, loader, *libraries.values()])
    return path


def files_of(environ: Mapping[str, str]) -> set[str]:
    """Every file of the host that it is made from, as known from the last time."""
    program = find_nix(environ)
    try:
        data = json.loads(_record(environ, program).read_bytes())
        return {program, *(file for file, _ in data["files"])}
    except (OSError, ValueError, KeyError, TypeError):
        return {program}


def find_nix(environ: Mapping[str, str]) -> str:
    """The host's nix-instantiate, links followed. Raises EvaluatorMissing."""
    found = shutil.which(PROGRAM, path=f"{environ.get('PATH', '')}:{_PLACES}")
    if found is None:
        raise EvaluatorMissing(f"`{PROGRAM}` was not found on this host", hint=_HINT)
    return os.path.realpath(found)


def _needed(program: str) -> tuple[dict[str, str], str]:
    """The libraries by the names under which they are asked for, and the loader."""
    try:
        interpreter = elf_interpreter(program)
    except FormatError as error:
        raise EvaluatorMissing(f"`{program}`: {error}", hint=_HINT) from error
    if interpreter is None:
        raise EvaluatorMissing(f"`{program}` is no dynamic program", hint=_HINT)
    loader = os.fsdecode(interpreter)
    done = subprocess.run(
        [loader, "--list", program], capture_output=True, text=True, check=False, env={}
    )
    if done.returncode != 0:
        raise EvaluatorMissing(
            f"the libraries of `{program}` are not all there: {done.stderr.strip()}", hint=_HINT
        )
    return dict(_LIBRARY.findall(done.stdout)), loader


def _record(environ: Mapping[str, str], program: str) -> Path:
    key = blake2b(os.fsencode(program), digest_size=16).hexdigest()
    return cache_dir(environ) / "evaluator" / f"{key}.json"


def _known(record: Path) -> StorePath | None:
    """The path made before, if no file of the host has changed since."""
    try:
        data = json.loads(record.read_bytes())
        if all(_stamp(file) == then for file, then in data["files"]):
            return StorePath.parse(data["path"])
    except (OSError, ValueError, KeyError, TypeError, FormatError):
        pass
    return None


def _remember(record: Path, path: StorePath, files: list[str]) -> None:
    data = {"path": str(path), "files": [(file, _stamp(file)) for file in files]}
    fresh = record.with_name(f".{record.name}.{os.getpid()}")
    try:
        record.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh.write_text(json.dumps(data), "utf-8")
        os.rename(fresh, record)
    except OSError:
        fresh.unlink(missing_ok=True)  # found out anew next time


def _stamp(file: str) -> list[int]:
    status = os.stat(file)
    return [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]
