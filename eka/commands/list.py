"""`eka list`: the atoms of a set and their versions, on a remote or here."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import click

from eka.context import Context


class Row(NamedTuple):
    label: str
    version: str
    rev: str | None
    id: str | None


@click.command()
@click.argument("uri", metavar="[URI]", default="::")
@click.option("-l", "--latest", is_flag=True, help="Only the highest version of each.")
@click.pass_obj
def command(context: Context, uri: str, latest: bool) -> None:
    """List the versions of the atoms at URI: `gh:owner/repo`, or with `::label@^1` of one atom.

    Without URI, the atoms of this set. Prints label, version and atom commit, tab-separated.
    """
    rows = _rows(context, uri, latest)
    if context.json:
        for row in rows:
            context.output.json(row._asdict())
        return
    for row in rows:
        context.output.data("\t".join((row.label, row.version, row.rev or "-")))
    if not rows:
        context.output.message("no atoms")


def _rows(context: Context, uri: str, latest: bool) -> list[Row]:
    from eka.atom.uri import parse_uri, resolve_url
    from eka.commands.atom_workspace import atom_settings

    aliases = atom_settings().aliases
    place, separator, atom = uri.partition("::")
    if not place and not atom:
        return _local(context)
    if separator and atom:
        parsed = parse_uri(uri, aliases)
        if parsed.url is None:
            return [row for row in _local(context) if row.label == parsed.label]
        return _remote(context, str(parsed.url), parsed.label, parsed.requirement, latest)
    return _remote(context, str(resolve_url(place, aliases)), None, None, latest)


def _local(context: Context) -> list[Row]:
    from eka.atom.sets import open_set

    local = open_set(Path.cwd())
    for problem in local.unreadable:
        context.output.warning(f"{problem} (left out of the set)")
    return [
        Row(label, str(member.package.version), None, None)
        for label, member in sorted(local.members.items())
    ]


def _remote(
    context: Context, url: str, label: str | None, requirement: object, latest: bool
) -> list[Row]:
    from eka.atom.identity import atom_id
    from eka.atom.remote import list_set
    from eka.atom.version import Requirement, sort_key
    from eka_runtime.errors import GitError, ResolveError

    if context.offline:
        raise GitError(f"`{url}` was not asked: offline", hint="run it without `--offline`")
    listing = list_set(url)
    if label is not None and label not in listing.atoms:
        raise ResolveError(f"`{url}` has no atom `{label}`", hint=f"see `eka list {url}`")
    rows = []
    for name in sorted(listing.atoms) if label is None else [label]:
        offers = listing.atoms[name]
        versions = sorted(offers, key=sort_key)
        if isinstance(requirement, Requirement):
            versions = [version for version in versions if requirement.matches(version)]
        id_ = atom_id(listing.genesis, name)
        for version in versions[-1:] if latest else versions:
            rows.append(Row(name, str(version), offers[version], id_))
    return rows
