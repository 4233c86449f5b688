"""Atom URIs as people type them, and aliases, which only the command line knows.

    [scheme://][user[:password]@][alias:][fragment]::label[@requirement]

Without `::` or with nothing before it, the atom is one of the local set. Unlike upstream, what
stands before `::` and cannot be a URL is an error, not a local atom; so is a cycle of aliases.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from eka.atom import names
from eka.atom.git_url import LENGTH_LIMIT, GitUrl, parse_git_url
from eka.atom.hosts import is_host
from eka.atom.version import Requirement, parse_requirement
from eka_runtime.errors import FormatError

DEFAULT_ALIASES: Mapping[str, str] = {
    "atom": "ekl:atom",
    "bb": "bitbucket.org",
    "cb": "codeberg.org",
    "cogs": "ekl:corepkgs",
    "eka": "ekl:eka",
    "ekl": "gh:ekala-project",
    "gh": "github.com",
    "gl": "gitlab.com",
    "nxs": "gh:nixos",
    "pkgs": "nxs:nixpkgs",
    "sh": "sr.ht",
}
_HINT = "write it as in `gh:owner/repo::label@^1`, or `::label` for one of this set"
_PORT = re.compile(r"([^:/]*):([0-9]{1,5})")
_PORTED = re.compile(r"([^:/]+:[0-9]+):(.*)", re.DOTALL)


class Pieces(NamedTuple):
    """The URL part, cut up and nothing looked up yet."""

    scheme: str | None
    user: str | None
    password: str | None
    fragment: str | None


class AtomUri(NamedTuple):
    """`url` is None for an atom of the local set, `requirement` if none is stated."""

    url: GitUrl | None
    label: str
    requirement: Requirement | None

    def __str__(self) -> str:
        wanted = f"@{self.requirement}" if self.requirement is not None else ""
        return f"{str(self.url).rstrip('/') if self.url else ''}::{self.label}{wanted}"


def parse_uri(text: str, aliases: Mapping[str, str] = DEFAULT_ALIASES) -> AtomUri:
    """Raises FormatError."""
    if len(text) > LENGTH_LIMIT or not text.isprintable():
        raise FormatError(f"{text[:80]!r} is not an atom URI", hint=_HINT)
    place, separator, atom = text.partition("::")
    if not separator:
        place, atom = "", text
    label, requirement = _atom_part(atom, text)
    url = resolve_url(place, aliases) if place else None
    return AtomUri(url, label, requirement)


def _atom_part(atom: str, text: str) -> tuple[str, Requirement | None]:
    label, _, stated = atom.partition("@")
    if not label:
        label, stated = atom.removeprefix("@"), ""
    if not label:
        raise FormatError(f"`{text}` names no atom", hint=_HINT)
    return names.label(label), parse_requirement(stated) if stated else None


def cut_url(text: str) -> Pieces:
    """The parts of a URL that may have aliases. Never fails."""
    scheme, slashes, rest = text.partition("://")
    if not slashes:
        scheme, rest = "", text
    credentials, at, fragment = rest.partition("@")
    if not at:
        return Pieces(scheme or None, None, None, rest or None)
    user, colon, password = credentials.partition(":")
    if not user:
        user, password, colon = credentials, "", ""
    return Pieces(scheme or None, user or None, password if colon else None, fragment or None)


def resolve_url(text: str, aliases: Mapping[str, str] = DEFAULT_ALIASES) -> GitUrl:
    """A URL as typed: aliases expanded, scheme guessed. Raises FormatError."""
    pieces = cut_url(text)
    base, fragment = _expand(pieces.fragment or "", aliases)
    source = base or fragment
    if not source:
        raise FormatError(f"`{text}` names no repository", hint=_HINT)
    if pieces.scheme and pieces.scheme.lower() == "file":
        return parse_git_url(f"file://{source}")._replace(alternative=True)
    url = _assemble(pieces, source, fragment)
    parse_git_url(str(url))  # which refuses what git could misunderstand
    return url


def expand_alias(name: str, aliases: Mapping[str, str]) -> str:
    """Raises FormatError for a cycle."""
    value, seen = aliases[name], [name]
    while ":" in value:
        head, _, rest = value.partition(":")
        if head not in aliases:
            break
        if head in seen:
            cycle = " -> ".join([*seen, head])
            raise FormatError(
                f"the alias `{name}` leads back to itself: {cycle}",
                hint="correct `[uri.aliases]` in eka.toml",
            )
        seen.append(head)
        value = f"{aliases[head]}/{rest}"
    return value


def _expand(fragment: str, aliases: Mapping[str, str]) -> tuple[str | None, str]:
    """The expansion of the alias that `fragment` begins with, and what follows it."""
    head, colon, rest = fragment.partition(":")
    if colon and rest[:1].isdigit() and rest[:1].isascii():
        return None, fragment
    if "/" in head or "." in head or head not in aliases:
        return None, fragment
    return expand_alias(head, aliases), rest


def _assemble(pieces: Pieces, source: str, fragment: str) -> GitUrl:
    head, delimiter, rest = _split(source)
    name, port = head, None
    if match := _PORT.fullmatch(head):
        name, port = match[1], int(match[2])
    hosted = pieces.scheme or pieces.user or pieces.password is not None
    host = name if name and (is_host(name) or hosted) else None
    path = _path(host, head, delimiter, rest, fragment)
    if host is None:
        return GitUrl("file", None, None, None, None, path, alternative=True)
    scheme = pieces.scheme or _guess_scheme(pieces, delimiter)
    port = None if scheme == "ssh" else port
    return GitUrl(scheme, pieces.user, pieces.password, host, port, path)


def _split(source: str) -> tuple[str, str, str]:
    """Host part, delimiter, rest."""
    head, slash, rest = source.partition("/")
    if slash and (":" not in head or _PORT.fullmatch(head)):
        return head, slash, rest
    if match := _PORTED.fullmatch(source):
        return match[1], ":", match[2]
    if _PORT.fullmatch(source):
        return source, "", ""
    return source.partition(":")


def _guess_scheme(pieces: Pieces, delimiter: str) -> str:
    only_user = pieces.user is not None and pieces.password is None
    return "ssh" if delimiter == ":" or only_user else "https"


def _path(host: str | None, head: str, delimiter: str, rest: str, fragment: str) -> str:
    if not rest:
        rest, fragment = fragment, rest
    if fragment and rest not in fragment:
        rest = f"{rest}/{fragment}"
    if host is None:
        return rest if rest == head else f"{head}{delimiter}{rest}"
    path = fragment if rest in (host, head) else rest
    return path if path.startswith("/") else f"/{path}"
