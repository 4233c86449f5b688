"""Parts of a manifest that are more than tables of keys: mirrors, composers, direct dependencies.

Each has its record and the shape that checks it. Source of the formats: upstream's parser; where it
drops what it does not understand (a git requirement that is none), this refuses.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple, cast

from eka.atom import fields
from eka.atom.git_url import mirror_key
from eka.atom.places import Path
from eka.atom.version import Requirement
from eka.shapes import (
    Choice,
    Field,
    Items,
    Json,
    Map,
    Plain,
    Problem,
    Table,
    Text,
    dotted,
    table,
)


class ComposeWith(NamedTuple):
    """Composed by the atom `label` of the set `set_tag`, starting at the directory `entry`."""

    label: str
    set_tag: str
    requirement: Requirement | None
    entry: str


class ComposeNix(NamedTuple):
    """A plain import of `entry`, a path inside the atom."""

    entry: str


class ComposeStatic(NamedTuple):
    """The atom is data: consumers get its parsed manifest."""


Compose = ComposeWith | ComposeNix | ComposeStatic
Variety = Literal["url", "tar", "build", "git"]


class Direct(NamedTuple):
    """A dependency that is no atom. `unpack` is for build, `ref` and `requirement` for git.

    `from_version`: the set tag and label whose locked version replaces `__VERSION__` in the URL.
    """

    variety: Variety
    url: str
    unpack: bool = False
    ref: str | None = None
    requirement: Requirement | None = None
    from_version: tuple[str, str] | None = None


class Mirrors:
    """One mirror, or an array of them."""

    _many = Items(fields.MIRROR, "a mirror or an array of mirrors")

    def check(self, value: object, path: Path) -> tuple[str, ...]:
        if isinstance(value, str):
            return (fields.MIRROR.check(value, path),)
        found = self._many.check(value, path)
        if not found:
            raise Problem(f"`{dotted(path)}` has no mirror", path, hint='add one, or `"::"`')
        return tuple(sorted(set(found), key=mirror_key))

    def schema(self) -> Json:
        return {"anyOf": [fields.MIRROR.schema(), {**self._many.schema(), "minItems": 1}]}


class DirectShape:
    """One of the four varieties of `[deps.direct.nix]`, told apart by the key it has."""

    _varieties: Mapping[str, tuple[str, ...]] = {
        "url": (),
        "tar": (),
        "build": ("unpack",),
        "git": ("ref", "version"),
    }
    _pair = Items(fields.TAG, 'two strings, as in `["set", "label"]`', length=2)
    _flag = Plain(bool, "true or false")
    _text = Text(lambda text: text, "a string", minLength=1)

    def check(self, value: object, path: Path) -> Direct:
        item = table(value, path, 'a table, as in `{ url = "https://…" }`')
        stated = [key for key in self._varieties if key in item]
        if len(stated) != 1:
            raise self._not_one(stated, path)
        variety = stated[0]
        allowed = (variety, *self._varieties[variety], "from_version")
        for key in item:
            if key not in allowed:
                known = ", ".join(f"`{name}`" for name in allowed)
                message = f"`{dotted((*path, key))}` does not go with `{variety}`"
                raise Problem(message, (*path, key), hint=f"use {known}", at_key=True)
        return self._checked(cast(Variety, variety), item, path)

    def _not_one(self, stated: list[str], path: Path) -> Problem:
        listed = "`url`, `tar`, `build` or `git`"
        if not stated:
            return Problem(f"`{dotted(path)}` must have one of {listed}", path, hint="add one")
        both = " and ".join(f"`{key}`" for key in stated)
        message = f"`{dotted(path)}` has {both}; it must have one of {listed}"
        return Problem(message, (*path, stated[1]), hint="remove one", at_key=True)

    def _checked(self, variety: Variety, item: Mapping[str, object], path: Path) -> Direct:
        shape = fields.GIT_URL if variety == "git" else fields.WEB_URL
        found = Direct(variety, shape.check(item[variety], (*path, variety)))
        if "unpack" in item:
            found = found._replace(unpack=self._flag.check(item["unpack"], (*path, "unpack")))
        if "ref" in item:
            ref = self._text.check(item["ref"], (*path, "ref"))
            if not ref or ref.startswith("-") or not ref.isprintable():
                message = f"`{dotted((*path, 'ref'))}` must be the name of a git ref"
                raise Problem(message, (*path, "ref"), hint="write a branch or tag")
            found = found._replace(ref=ref)
        if "version" in item:
            wanted = fields.REQUIREMENT.check(item["version"], (*path, "version"))
            found = found._replace(requirement=wanted)
        if "ref" in item and "version" in item:
            message = f"`{dotted(path)}` has `ref` and `version`; it may have one of them"
            raise Problem(message, (*path, "version"), hint="remove one", at_key=True)
        if "from_version" in item:
            pair = self._pair.check(item["from_version"], (*path, "from_version"))
            names = (pair[0], fields.LABEL.check(pair[1], (*path, "from_version", 1)))
            found = found._replace(from_version=names)
        return found

    def schema(self) -> Json:
        extra: dict[str, Json] = {
            "unpack": self._flag.schema(),
            "ref": self._text.schema(),
            "version": fields.REQUIREMENT.schema(),
        }
        one = []
        for variety, keys in self._varieties.items():
            url = fields.GIT_URL if variety == "git" else fields.WEB_URL
            properties = {variety: url.schema(), **{key: extra[key] for key in keys}}
            properties["from_version"] = self._pair.schema()
            shape: Json = {"type": "object", "properties": properties, "required": [variety]}
            if variety == "git":
                shape["not"] = {"required": ["ref", "version"]}
            one.append({**shape, "additionalProperties": False})
        return {"oneOf": one}


class ComposeShape:
    """Exactly one of `with` (one composer) and `as` (`nix` or `static`)."""

    _with = Table(
        {
            "from": Field(fields.TAG, "The set that has the composer.", required=True),
            "version": Field(fields.REQUIREMENT, "Which versions; default `*`."),
            "entry": Field(fields.ENTRY, "Directory inside the atom to start at; default `.`."),
        }
    )
    _composers = Map(fields.LABEL, _with, "a table with one composer")
    _as = Table(
        {
            "nix": Field(fields.ENTRY, "Imports that path inside the atom; `.` is default.nix."),
            "static": Field(Choice("config"), "The atom is data."),
        }
    )

    def check(self, value: object, path: Path) -> Compose:
        item = table(value, path, "a table")
        self._one_key(item, ("with", "as"), path)
        if "as" in item:
            return self._trivial(item["as"], (*path, "as"))
        here = (*path, "with")
        composers = self._composers.check(item["with"], here)
        if len(composers) != 1:
            hint = "write one table, as in `[compose.with.atom-nix]`"
            raise Problem(f"`{dotted(here)}` must have one composer", here, hint=hint)
        ((label, found),) = composers.items()
        wanted = found.get("version")
        return ComposeWith(label, found["from"], wanted, found.get("entry", "."))

    def _trivial(self, value: object, path: Path) -> Compose:
        found = self._as.check(value, path)
        self._one_key(found, ("nix", "static"), path)
        return ComposeNix(found["nix"]) if "nix" in found else ComposeStatic()

    def _one_key(self, item: Mapping[str, object], keys: tuple[str, str], path: Path) -> None:
        for key in item:
            if key not in keys:
                known = f"use `{keys[0]}` or `{keys[1]}`"
                message = f"unknown key `{dotted((*path, key))}`"
                raise Problem(message, (*path, key), hint=known, at_key=True)
        if len(item) != 1:
            says = "both" if item else "neither"
            message = f"`{dotted(path)}` has {says} of `{keys[0]}` and `{keys[1]}`"
            at = (*path, list(item)[1]) if item else path
            hint = "remove one" if item else "add one"
            raise Problem(message, at, hint=hint, at_key=bool(item))

    def schema(self) -> Json:
        composer = {**self._composers.schema(), "minProperties": 1, "maxProperties": 1}
        trivial = {**self._as.schema(), "minProperties": 1, "maxProperties": 1}
        return {
            "type": "object",
            "properties": {"with": composer, "as": trivial},
            "minProperties": 1,
            "maxProperties": 1,
            "additionalProperties": False,
        }
