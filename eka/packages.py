"""Packages as people name them: a store path, or a symbolic link to one (`./result`).

Atom URIs and `.#attr` are recognized so that the error can say what they are.
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
        wanted.setdefault(resolve_package(ref), ref)
    reach.fetch(wanted)
    return [(_valid(reach, path, ref), ref) for path, ref in wanted.items()]


def resolve_package(ref: PackageRef) -> StorePath:
    if ref.text.startswith(STORE_DIR + "/"):
        return StorePath.parse(ref.text)
    links = links_of(ref)
    target = os.readlink(links[-1]) if links else ""
    if target.startswith(STORE_DIR + "/"):
        return StorePath.parse(target)
    if "::" in ref.text or "#" in ref.text:
        raise UsageError(
            f"`{ref.text}` ({ref.origin}) names an atom; this version of eka runs store paths only",
            hint="build it first and give the store path, or a link to it such as `./result`",
        )
    raise UsageError(
        f"`{ref.text}` ({ref.origin}) is not a package",
        hint="give a store path such as `/nix/store/<hash>-<name>`, or a symbolic link to one",
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
