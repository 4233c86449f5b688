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

import os
from _blake2 import blake2b
from collections.abc import Mapping
from pathlib import Path

from eka.config import cache_dir
from eka.host_program import HostProgram, find_parts, known, recorded_files, remember
from eka_runtime.errors import EvaluatorMissing, FormatError
from eka_runtime.nix.path import StorePath
from eka_runtime.store.roots import Root
from eka_runtime.store.store import Store

NAME = "host-nix"
PROGRAM = "nix-instantiate"
LOADER = "lib/loader"
_PLACES = "/usr/local/bin:/usr/bin:/bin"
_HINT = "install Nix (on Debian: `apt-get install nix-bin`), or name one with `EKA_EVALUATOR`"


def host_nix(store: Store, environ: Mapping[str, str]) -> StorePath:
    """Adds it to the store unless it is there. Raises EvaluatorMissing, and what adding raises."""
    program = find_nix(environ)
    record = _record(environ, program)
    before = known(record, program)
    if before and store.paths.get(before):
        return before
    import shutil
    import tempfile

    parts = _parts(program)
    with tempfile.TemporaryDirectory(prefix="eka-nix-") as directory:
        tree = Path(directory) / NAME
        (tree / "bin").mkdir(parents=True)
        (tree / "lib").mkdir()
        shutil.copy(program, tree / "bin" / PROGRAM)
        shutil.copy(parts.loader, tree / LOADER)
        for name, place in parts.libraries.items():
            shutil.copy(place, tree / "lib" / name)
        path = store.add_tree(tree).path
    store.roots.add(Root(f"evaluator/{path.hash}", "named", b"", (path,)))
    remember(record, path, parts)
    return path


def files_of(environ: Mapping[str, str]) -> set[str]:
    """Every file of the host that it is made from, as known from the last time."""
    program = find_nix(environ)
    try:
        return {program, *recorded_files(_record(environ, program))}
    except (OSError, ValueError, KeyError, TypeError):
        return {program}


def find_nix(environ: Mapping[str, str]) -> str:
    """The host's nix-instantiate, links followed. Raises EvaluatorMissing."""
    places = f"{environ.get('PATH', '')}:{_PLACES}".split(":")
    # As shutil.which, whose import takes longer.
    candidates = (os.path.join(place, PROGRAM) for place in places if place)
    found = next((file for file in candidates if _executable(file)), None)
    if found is None:
        raise EvaluatorMissing(f"`{PROGRAM}` was not found on this host", hint=_HINT)
    return os.path.realpath(found)


def _executable(file: str) -> bool:
    return os.path.isfile(file) and os.access(file, os.X_OK)


def _parts(program: str) -> HostProgram:
    try:
        return find_parts(program)
    except FormatError as error:
        raise EvaluatorMissing(f"`{program}`: {error}", hint=_HINT) from error


def _record(environ: Mapping[str, str], program: str) -> Path:
    key = blake2b(os.fsencode(program), digest_size=16).hexdigest()
    return cache_dir(environ) / "evaluator" / f"{key}.json"
