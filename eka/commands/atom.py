"""Plumbing of atoms: `eka atom`, `eka uri`, `eka manifest`, `eka lock-file`."""

from __future__ import annotations

from pathlib import Path

import click

from eka.completing import files
from eka.context import Context


@click.group()
def atom() -> None:
    """Compute what atoms are called."""


@atom.command("id")
@click.argument("label")
@click.option("--root", metavar="HEX", help="Genesis of the set; by default that of this one.")
@click.pass_obj
def atom_id(context: Context, label: str, root: str | None) -> None:
    """Print the id of the atom LABEL of a set."""
    from eka.atom import identity, names
    from eka.atom.sets import open_set

    genesis = identity.git_id(root) if root is not None else open_set(Path.cwd()).genesis()
    name = names.label(label)
    id_ = identity.atom_id(genesis, name)
    if context.json:
        context.output.json({"label": name, "root": genesis, "id": id_})
    else:
        context.output.data(id_)


@click.group()
def uri() -> None:
    """Look at atom URIs."""


@uri.command()
@click.argument("text", metavar="URI")
@click.pass_obj
def parse(context: Context, text: str) -> None:
    """Print what URI means, with aliases expanded."""
    from eka.atom.uri import parse_uri
    from eka.commands.atom_workspace import atom_settings

    found = parse_uri(text, atom_settings().aliases)
    if context.json:
        url = found.url._asdict() if found.url else None
        wanted = str(found.requirement) if found.requirement is not None else None
        shown = str(found.url) if found.url else None
        context.output.json(
            {"uri": str(found), "url": shown, "parts": url, "label": found.label,
             "requirement": wanted}
        )  # fmt: skip
    else:
        context.output.data(str(found))


@click.group()
def manifest() -> None:
    """Look at manifests."""


@manifest.command("check")
@click.argument("file", default="atom.toml", shell_complete=files)
@click.pass_obj
def manifest_check(context: Context, file: str) -> None:
    """Check an atom.toml, or an ekala.toml; prints label and version, or the packages."""
    from eka.atom.manifest import read_manifest
    from eka.atom.set_file import parse_set_file
    from eka.atom.toml_file import SIZE_LIMIT, read_bytes
    from eka_runtime.errors import ManifestError

    if Path(file).name == "ekala.toml":
        found = parse_set_file(read_bytes(file, ManifestError, SIZE_LIMIT), file)
        if context.json:
            context.output.json({"packages": list(found.packages), "tags": list(found.tags)})
        for path in () if context.json else found.packages:
            context.output.data(path)
        return
    checked = read_manifest(file)
    package = checked.package
    if not context.json:
        context.output.data(f"{package.label} {package.version}")
        return
    context.output.json(
        {
            "label": package.label,
            "version": str(package.version),
            "sets": {tag: list(mirrors) for tag, mirrors in package.sets.items()},
            "deps": {
                tag: {label: str(wanted) for label, wanted in atoms.items()}
                for tag, atoms in checked.deps.items()
            },
            "direct": {name: direct.variety for name, direct in checked.direct.items()},
        }
    )


@click.group("lock-file")
def lock_file() -> None:
    """Look at locks of atoms."""


@lock_file.command("check")
@click.argument("file", default="atom.lock", shell_complete=files)
@click.pass_obj
def lock_check(context: Context, file: str) -> None:
    """Check an atom.lock, ids included; prints whether its text is canonical."""
    from eka.atom.lock import SIZE_LIMIT, parse_lock
    from eka.atom.lock_text import lock_text
    from eka.atom.toml_file import read_bytes
    from eka_runtime.errors import LockError

    place = f"{file}/atom.lock" if Path(file).is_dir() else file
    data = read_bytes(place, LockError, SIZE_LIMIT)
    lock = parse_lock(data, place)
    canonical = lock_text(lock).encode() == data
    if context.json:
        context.output.json({"canonical": canonical, "deps": len(lock.deps)})
    else:
        context.output.data("canonical" if canonical else "not canonical")
