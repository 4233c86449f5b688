"""Edits of manifests and set files that leave comments and layout as they are (tomlkit).

Constraint: pure functions over text; the callers parse what comes out before they write it.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import Any

import tomlkit
from tomlkit.items import AbstractTable, Array

from eka.atom.git_url import parse_mirror
from eka.atom.lock_text import quoted
from eka.atom.manifest import parse_manifest
from eka.atom.parts import ComposeWith, Direct
from eka.atom.settings import Composer
from eka_runtime.errors import FormatError, UsageError

_DIRECT = ("deps", "direct", "nix")


def new_manifest(
    label: str, version: str, composer: Composer, address: str, compose: str = "atom"
) -> str:
    """Of `eka new`; `compose` is atom, nix or static."""
    document = tomlkit.document()
    package = tomlkit.table()
    package.update({"label": label, "version": version})
    document["package"] = package
    if compose == "atom":
        sets = tomlkit.table()
        sets[composer.tag] = address
        package["sets"] = sets
        keys: dict[str, str] = {"from": composer.tag}
        if composer.requirement is not None:
            keys["version"] = str(composer.requirement)
        if composer.entry is not None:
            keys["entry"] = composer.entry
        _table(document, ("compose", "with", composer.label)).update(keys)
    else:
        value = {"nix": "."} if compose == "nix" else {"static": "config"}
        _table(document, ("compose", "as")).update(value)
    return tomlkit.dumps(document)


def add_atom(text: str, tag: str, mirror: str, label: str, requirement: str) -> str:
    """Adds the mirror to the set, making the set if need be, and the dependency."""
    document = tomlkit.parse(text)
    fresh = "sets" not in document["package"]
    sets = _table(document, ("package", "sets"))
    if fresh:
        sets[tag] = mirror
        sets.add(tomlkit.nl())
    elif tag not in sets:
        sets[tag] = mirror
    else:
        _add_mirror(sets, tag, mirror)
    _table(document, ("deps", "from", tag))[label] = requirement
    return tomlkit.dumps(document)


def add_direct(text: str, name: str, direct: Direct) -> str:
    document = tomlkit.parse(text)
    table = _table(document, _DIRECT)
    pairs = [(direct.variety, quoted(direct.url)), *_extra(direct)]
    if name in table:
        table.remove(name)
    if len(pairs) == 1:
        table.append(tomlkit.key([name, direct.variety]), tomlkit.item(direct.url))
    else:
        inline = ", ".join(f"{key} = {value}" for key, value in pairs)
        table[name] = tomlkit.parse(f"x = {{ {inline} }}\n")["x"]
    return tomlkit.dumps(document)


def _extra(direct: Direct) -> Iterator[tuple[str, str]]:
    if direct.unpack:
        yield "unpack", "true"
    if direct.ref is not None:
        yield "ref", quoted(direct.ref)
    if direct.requirement is not None:
        yield "version", quoted(str(direct.requirement))
    if direct.from_version is not None:
        yield "from_version", f"[{', '.join(map(quoted, direct.from_version))}]"


def remove_dependency(text: str, name: str) -> str:
    """An atom by label, or a direct dependency; a set that nothing uses any more goes too.

    Raises UsageError if there is none, or more than one.
    """
    manifest = parse_manifest(text.encode())
    places: list[tuple[str, ...]] = [
        ("deps", "from", tag, name) for tag, atoms in manifest.deps.items() if name in atoms
    ]
    if name in manifest.direct:
        places.append((*_DIRECT, name))
    if len(places) != 1:
        raise _not_one(name, places, text)
    document = tomlkit.parse(text)
    _prune(document, places[0])
    if places[0][1] == "from":
        tag = places[0][2]
        compose = manifest.compose
        composing = isinstance(compose, ComposeWith) and compose.set_tag == tag
        if len(manifest.deps[tag]) == 1 and not composing:
            _prune(document, ("package", "sets", tag))
    return tomlkit.dumps(document).rstrip("\n") + "\n"


def add_package(text: str, path: str) -> str:
    """To the packages of a set file."""
    document = tomlkit.parse(text)
    table = _table(document, ("set",))
    if "packages" not in table:
        table["packages"] = tomlkit.array()
    packages = table["packages"]
    assert isinstance(packages, Array)  # the file was checked
    packages.append(path)
    return tomlkit.dumps(document)


def _add_mirror(sets: MutableMapping[str, Any], tag: str, mirror: str) -> None:
    stated = sets[tag]
    known = [str(stated)] if isinstance(stated, str) else [str(item) for item in stated]
    if mirror in map(_canonical, known):
        return
    if isinstance(stated, Array):
        stated.append(mirror)
        return
    array = tomlkit.array()
    array.extend([*known, mirror])
    sets[tag] = array


def _canonical(mirror: str) -> str:
    try:
        return parse_mirror(mirror)
    except FormatError:
        return mirror


def _table(document: MutableMapping[str, Any], path: tuple[str, ...]) -> AbstractTable:
    """The table at `path`, made where it is not, without headers for those above it."""
    here: Any = document
    for number, key in enumerate(path):
        if key not in here:
            above = number < len(path) - 1
            here[key] = tomlkit.table(is_super_table=above)
        here = here[key]
    assert isinstance(here, (AbstractTable, MutableMapping))
    return here  # type: ignore[return-value]  # or a proxy of several parts of one table


def _prune(document: MutableMapping[str, Any], path: tuple[str, ...]) -> None:
    """Removes what is at `path`, and tables above that are empty then."""
    above: Any = document
    for key in path[:-1]:
        above = above[key]
    del above[path[-1]]
    if not above and len(path) > 2:
        _prune(document, path[:-1])
    elif not above and path[0] == "deps":
        del document["deps"]


def _not_one(name: str, places: list[tuple[str, ...]], text: str) -> UsageError:
    if places:
        listed = ", ".join(f"`[{'.'.join(place[:-1])}]`" for place in places)
        return UsageError(f"`{name}` is in {listed}", hint="edit `atom.toml` by hand")
    manifest = parse_manifest(text.encode())
    known = [label for atoms in manifest.deps.values() for label in atoms] + list(manifest.direct)
    hint = f"it has {', '.join(f'`{one}`' for one in known)}" if known else "it has none"
    return UsageError(f"`{name}` is no dependency of this atom", hint=hint)
