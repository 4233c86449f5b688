"""What a place offers, in one listing of refs and without fetching anything.

A place without `refs/ekala/init` is no set. Refs that merely look like an atom's (another prefix,
more parts, a label or version that is none) are not; a server that returns all refs is no danger.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple

from eka.atom import names
from eka.atom.git import bounded_git
from eka.atom.git_url import parse_git_url
from eka.atom.identity import git_id
from eka.atom.repository import INIT_REF
from eka.atom.version import Version, parse_version
from eka_runtime.errors import FormatError, ResolveError

_ATOMS = "refs/eka/atoms/"
_PEELED = "^{}"
LISTING_LIMIT = 1 << 28
"""Of a listing of refs, in bytes: the largest known repositories have a fifth of that."""

Versions = Mapping[str, Mapping[Version, str]]
"""Atom commits by label and version."""


class Listing(NamedTuple):
    genesis: str
    atoms: Versions


def list_set(url: str, base: str | os.PathLike[str] | None = None) -> Listing:
    """Paths are relative to `base`. Raises GitError, and ResolveError for what is no set."""
    refs = list_refs(url, base, f"{_ATOMS}*", INIT_REF)
    genesis = refs.get(INIT_REF)
    if genesis is None:
        raise ResolveError(
            f"`{url}` is no package set: it has no `{INIT_REF}`",
            hint="its owner sets it up with `eka init --remote NAME`",
        )
    return Listing(genesis, parse_atoms(refs))


def parse_atoms(refs: Mapping[str, str]) -> Versions:
    atoms: dict[str, dict[Version, str]] = {}
    for ref, oid in refs.items():
        label, slash, version = ref.removeprefix(_ATOMS).partition("/")
        if not ref.startswith(_ATOMS) or not slash:
            continue
        try:
            # A ref whose label is not in normal form would be found under another name.
            if names.label(label) == label:
                atoms.setdefault(label, {})[parse_version(version)] = oid
        except FormatError:
            continue
    return atoms


def list_refs(url: str, base: str | os.PathLike[str] | None, *patterns: str) -> dict[str, str]:
    """Object ids by full ref; of annotated tags, the ids of what they name. Raises GitError."""
    parse_git_url(url)
    listing = bounded_git(
        "ls-remote", "-q", "--", url, *patterns, directory=base, limit=LISTING_LIMIT
    )
    refs: dict[str, str] = {}
    for line in listing.decode("utf-8", "surrogateescape").splitlines():
        oid, _, ref = line.partition("\t")
        try:
            peeled = ref.endswith(_PEELED)
            if peeled or ref not in refs:
                refs[ref.removesuffix(_PEELED)] = git_id(oid)
        except FormatError:
            continue
    return refs
