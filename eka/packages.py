"""Packages as people name them: a store path, or a symbolic link to one (`./result`).

An atom (`.#attr`, `DIR`, a URI) is evaluated, and built if need be: `eka/evaluate/installing.py`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from eka.fetching import Reach
from eka_runtime.errors import PathNotFound, UsageError
from eka_runtime.nix.path import STORE_DIR, StorePath
from eka_runtime.store.pathinfo import PathInfo


class PackageRef(NamedTuple):
    """`text` as written by `origin` ("header", "flag -p"); relative links start at `base`."""

    text: str
    origin: str
    base: Path


def resolve_packages(refs: Iterable[PackageRef], reach: Reach) -> list[tuple[PathInfo, PackageRef]]:
    """In the order given, each once; those that are not in the store are fetched.

    Raises PathNotFound, UsageError or InvalidStorePath, and what fetching raises.
    """
    wanted: dict[StorePath, PackageRef] = {}
    for ref in refs:
        wanted.setdefault(package_path(ref, reach), ref)
    reach.fetch(wanted)
    return [(_valid(reach, path, ref), ref) for path, ref in wanted.items()]


def package_path(ref: PackageRef, reach: Reach) -> StorePath:
    """As `resolve_package`, and of atoms what they build. Raises what that raises, too."""
    if names_atom(ref):
        return reach.install(ref.text, ref.origin, ref.base).path
    return resolve_package(ref)


def names_atom(ref: PackageRef) -> bool:
    """Whether it is something to evaluate, by how it is written or by what it is."""
    text = ref.text
    if text.startswith(STORE_DIR + "/"):
        return False
    if "#" in text or "::" in text:
        return True
    place = os.path.join(ref.base, os.path.expanduser(text))
    if os.path.islink(place) and os.readlink(place).startswith(STORE_DIR + "/"):
        return False
    return os.path.isdir(place) and any(
        os.path.isfile(os.path.join(place, name)) for name in ("atom.toml", "default.nix")
    )


def resolve_package(ref: PackageRef) -> StorePath:
    """Of a package that needs no evaluation. Raises UsageError or InvalidStorePath."""
    if ref.text.startswith(STORE_DIR + "/"):
        return StorePath.parse(ref.text)
    links = links_of(ref)
    target = os.readlink(links[-1]) if links else ""
    if target.startswith(STORE_DIR + "/"):
        return StorePath.parse(target)
    raise UsageError(
        f"`{ref.text}` ({ref.origin}) is not a package",
        hint="give a store path such as `/nix/store/<hash>-<name>`, a symbolic link to one, or an"
        " atom such as `.#attr`",
    )


def links_of(ref: PackageRef) -> list[str]:
    """The symbolic links that a package's name leads through, until one leaves for the store."""
    links: list[str] = []
    place = os.path.join(ref.base, os.path.expanduser(ref.text))
    while os.path.islink(place) and len(links) < 40:
        links.append(place)
        place = os.path.join(os.path.dirname(place), os.readlink(place))
    return links


def _valid(reach: Reach, path: StorePath, ref: PackageRef) -> PathInfo:
    try:
        return reach.info(path)
    except PathNotFound as error:
        raise PathNotFound(f"{error} (asked for by {ref.origin})", hint=error.hint) from error
