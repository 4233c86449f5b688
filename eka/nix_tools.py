"""Nix's own commands as a store path: one that the store has, else the host's, taken in once.

    /nix/store/<hash>-nix-tools/bin/nix-build …    scripts that start the program by its loader
    /nix/store/<hash>-nix-tools/libexec/nix        the host's program, which is all commands in one
    /nix/store/<hash>-nix-tools/lib/               the libraries that it needs, and the loader

So no file of the host's is shown in a bundle. What was taken in is found again by the stamps of the
files that it was made from, and is a root as long as eka's cache remembers it:

    $XDG_CACHE_HOME/eka/nix-tools.json
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from eka.config import cache_dir
from eka.host_program import HostProgram, find_parts, known, remember
from eka_runtime.castore.node import DirectoryNode
from eka_runtime.errors import EkaError, FormatError, InterpreterNotFound
from eka_runtime.nix.path import StorePath
from eka_runtime.store.pathinfo import PathInfo
from eka_runtime.store.roots import Root
from eka_runtime.store.store import Store

NAME = "nix-tools"
_ROOT = f"eka/{NAME}"
COMMANDS = (
    "nix",
    "nix-build",
    "nix-channel",
    "nix-collect-garbage",
    "nix-copy-closure",
    "nix-env",
    "nix-hash",
    "nix-instantiate",
    "nix-prefetch-url",
    "nix-shell",
    "nix-store",
)
_SCRIPT = """\
#!/bin/sh
here=${0%/bin/*}
exec "$here/lib/loader" --argv0 "${0##*/}" --library-path "$here/lib" "$here/libexec/nix" "$@"
"""
_RELEASE = re.compile(r"nix-(\d+(?:\.\d+)+)\Z")
# Nix opens these by name, for the names of hosts.
_BY_NAME = ("libnss_dns.so.2", "libnss_files.so.2", "libresolv.so.2")
_PLACES = "/usr/local/bin:/usr/bin:/bin"
_HINT = (
    "install it (on Debian: `apt-get install nix-bin`), import it into the store, or name one with"
    " `-p /nix/store/…-nix-…`"
)


def nix_tools(store: Store, environ: Mapping[str, str]) -> PathInfo:
    """The newest Nix of the store, else the host's. Raises InterpreterNotFound."""
    found = max(_in_store(store), default=None)
    return store.info(found[1]) if found else host_nix_tools(store, environ)


def _in_store(store: Store) -> Iterator[tuple[list[int], StorePath]]:
    for path in store.paths.beginning("nix-", 10_000):
        release = _RELEASE.fullmatch(path.name)
        if release and isinstance(store.info(path).node, DirectoryNode):
            try:
                store.resolve(f"{path}/bin/nix-build")
            except EkaError:
                continue
            yield [int(part) for part in release[1].split(".")], path


def host_nix_tools(store: Store, environ: Mapping[str, str]) -> PathInfo:
    """As a store path that works at any place. Raises InterpreterNotFound."""
    found = shutil.which("nix", path=f"{environ.get('PATH', '')}:{_PLACES}")
    if found is None:
        raise InterpreterNotFound("neither the store nor this host has Nix", hint=_HINT)
    program = os.path.realpath(found)
    record = cache_dir(environ) / f"{NAME}.json"
    before = known(record, program)
    if before and (info := store.paths.get(before)):
        return info
    parts = _parts(program)
    with tempfile.TemporaryDirectory(prefix="eka-nix-") as directory:
        tree = Path(directory) / NAME
        _assemble(tree, parts)
        info = store.add_tree(tree)
    # The one before was of a Nix that the host has no more.
    store.roots.remove(_ROOT)
    store.roots.add(Root(_ROOT, "named", b"", (info.path,)))
    remember(record, info.path, parts)
    return info


def _parts(program: str) -> HostProgram:
    try:
        return find_parts(program, _BY_NAME)
    except FormatError as error:
        raise InterpreterNotFound(f"`{program}`: {error}", hint=_HINT) from error


def _assemble(tree: Path, parts: HostProgram) -> None:
    for name in ("bin", "lib", "libexec"):
        (tree / name).mkdir(parents=True)
    for source, place in (
        (parts.program, "libexec/nix"),
        (parts.loader, "lib/loader"),
        *((file, f"lib/{name}") for name, file in parts.libraries.items()),
    ):
        shutil.copyfile(source, tree / place)
        (tree / place).chmod(0o755)
    for name in COMMANDS:
        (tree / "bin" / name).write_text(_SCRIPT)
        (tree / "bin" / name).chmod(0o755)
