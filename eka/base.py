"""The base of a profile: an image's tree, a store path, as the root file system of a bundle.

The base is part of the closure, and so at its place in /nix/store; the root of the bundle has links
into it for everything that eka does not put there itself. So nothing is mounted for it, any view
will do, and the bundle stays the plain one that it is. The base's own shell stands at /bin/sh.
"""

from __future__ import annotations

from collections.abc import Iterable

from eka.fetching import Reach
from eka.program import Programs
from eka.shell import Shell
from eka.wanted import Wanted
from eka_runtime.castore.node import DirectoryNode, FileNode
from eka_runtime.castore.services import require_directory
from eka_runtime.nix.path import StorePath
from eka_runtime.oci.bundle import ShellFiles, ShellSource
from eka_runtime.oci.profile import Profile


def with_base(wanted: Wanted, profile: Profile, reach: Reach) -> Wanted:
    """Raises PathNotFound for a base that is nowhere."""
    if profile.base is None:
        return wanted
    return wanted._replace(roots=(*wanted.roots, reach.info(StorePath.parse(profile.base))))


def children_of(programs: Programs, base: str, directory: str) -> Iterable[str]:
    """Links in the base are followed as far as they stay in it."""
    node = programs.node_at(f"{base}{directory.rstrip('/')}")
    if not isinstance(node, DirectoryNode):
        return ()
    entries = require_directory(programs.store.directories, node.digest).entries
    return [name.decode("utf-8", "surrogateescape") for name, _ in entries]


def shell_of_base(programs: Programs, base: str, shell: Shell) -> Shell:
    """Packages come first, then the base, then the host."""
    sh = _of_base(programs, base, "/bin/sh", shell.files.sh)
    env = _of_base(programs, base, "/usr/bin/env", shell.files.env)
    of_host = any(source and source.kind == "host" for source in (sh, env))
    return Shell(ShellFiles(sh, env), shell.host if of_host else None)


def _of_base(
    programs: Programs, base: str, place: str, present: ShellSource | None
) -> ShellSource | None:
    if present is not None and present.kind == "store":
        return present
    node = programs.node_at(base + place)
    if isinstance(node, FileNode) and node.executable:
        return ShellSource("store", base + place)
    return present
