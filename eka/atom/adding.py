"""What `eka add`, `eka remove` and `eka new` make of an atom's manifest and lock."""

from __future__ import annotations

import os
import posixpath
from pathlib import Path
from typing import NamedTuple

from eka.atom import edit, names
from eka.atom import manifest as manifest_format
from eka.atom.direct import Request, choose, default_name
from eka.atom.fields import web_url
from eka.atom.git_url import LOCAL, parse_mirror
from eka.atom.manifest import Manifest, parse_manifest
from eka.atom.sets import LocalSet
from eka.atom.settings import AtomSettings
from eka.atom.toml_file import SIZE_LIMIT, read_bytes
from eka.atom.uri import AtomUri, resolve_url
from eka.atom.version import ANY, Requirement, parse_requirement, parse_version
from eka.atom.workspace import Result, Workspace
from eka.replacing import replace_file
from eka_runtime.errors import FormatError, ManifestError, ResolveError, UsageError


class Added(NamedTuple):
    """`set_tag` is None for direct dependencies."""

    name: str
    set_tag: str | None
    result: Result


def add_atom(workspace: Workspace, directory: Path, uri: AtomUri, set_tag: str | None) -> Added:
    """Without a URL the atom is one of this set. Raises what resolving raises; writes nothing."""
    text, manifest = _read(directory)
    mirror = LOCAL if _is_here(uri, workspace.local) else parse_mirror(_place(uri))
    genesis = workspace.genesis() if mirror == LOCAL else workspace.mirrors.listing(mirror).genesis
    tag = _known_tag(workspace, manifest, mirror, genesis)
    requirement = uri.requirement or _caret(workspace, manifest, tag, mirror, uri.label)
    tag = tag or names.tag(set_tag or _default_tag(uri, workspace.local))
    if tag in manifest.package.sets and _known_tag(workspace, manifest, mirror, genesis) != tag:
        raise UsageError(
            f"`{tag}` is another set of this atom", hint="name this one with `--set TAG`"
        )
    edited = edit.add_atom(text, tag, mirror, uri.label, str(requirement))
    return Added(uri.label, tag, workspace.resolve(directory, manifest=edited.encode()))


def add_direct(
    workspace: Workspace, directory: Path, url: str, key: str | None, request: Request,
    settings: AtomSettings,
) -> Added:  # fmt: skip
    """Raises UsageError, FormatError, and what resolving raises; writes nothing."""
    text, _ = _read(directory)
    direct = choose(_expanded(url, settings, request), request)
    name = names.label(key) if key is not None else default_name(direct)
    edited = edit.add_direct(text, name, direct)
    return Added(name, None, workspace.resolve(directory, manifest=edited.encode()))


def remove(workspace: Workspace, directory: Path, dependencies: tuple[str, ...]) -> Result:
    text, _ = _read(directory)
    for name in dependencies:
        text = edit.remove_dependency(text, name)
    return workspace.resolve(directory, manifest=text.encode())


_STARTER = """\
# The value of this atom. In scope: cfg, its configuration, and deps, what atom.lock names.
{
  text = "hello from ${cfg.package.label}";
}
"""


class NewAtom(NamedTuple):
    """`path` is relative to the set's root; `files` are by name."""

    directory: Path
    path: str
    files: dict[str, str]
    set_text: str


def plan_new(
    local: LocalSet, path: Path, label: str | None, version: str, compose: str,
    settings: AtomSettings,
) -> NewAtom:  # fmt: skip
    """Raises UsageError, FormatError; writes nothing."""
    directory = Path(os.path.abspath(path))
    root = Path(os.path.realpath(local.root))
    real = Path(os.path.realpath(directory))
    if not real.is_relative_to(root):
        raise UsageError(f"`{path}` is not inside the set `{root}`", hint="name a path below it")
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise UsageError(f"`{path}` exists and is not empty", hint="name another path")
    inside = posixpath.normpath(real.relative_to(root).as_posix())
    if inside == ".":
        raise UsageError("an atom cannot be the root of its set", hint="name a path below it")
    name = names.label(label if label is not None else real.name)
    if name in local.members:
        raise UsageError(
            f"the set has `{name}` already, at `{local.members[name].path}`",
            hint="give another label with `--label`",
        )
    composer = settings.composer
    address = composer.address
    if address != LOCAL:
        address = parse_mirror(str(resolve_url(address, settings.aliases)))
    text = edit.new_manifest(name, str(parse_version(version)), composer, address, compose)
    parse_manifest(text.encode())
    set_file = (local.root / "ekala.toml").read_text("utf-8")
    files = {"default.nix": _STARTER} if compose == "nix" else {}
    files[manifest_format.FILE] = text
    return NewAtom(directory, inside, files, edit.add_package(set_file, inside))


def write_new(local: LocalSet, new: NewAtom) -> None:
    """The atom first, then the set that lists it. Raises UsageError."""
    try:
        new.directory.mkdir(parents=True, exist_ok=True)
        for name, text in new.files.items():
            with open(new.directory / name, "x", encoding="utf-8") as stream:
                stream.write(text)
        replace_file(os.fspath(local.root / "ekala.toml"), new.set_text.encode())
    except OSError as error:
        raise UsageError(f"cannot write `{error.filename}`: {error.strerror}") from error


def _read(directory: Path) -> tuple[str, Manifest]:
    place = directory / manifest_format.FILE
    if not place.is_file():
        raise ManifestError(f"there is no `{place}`", hint="run `eka new PATH`, or give `--path`")
    data = read_bytes(place, ManifestError, SIZE_LIMIT)
    return data.decode("utf-8", "replace"), parse_manifest(data, os.fspath(place))


def _is_here(uri: AtomUri, local: LocalSet) -> bool:
    """No URL, or the path of this set, as in `.::label`."""
    if uri.url is None:
        return True
    is_path = uri.url.scheme == "file" and uri.url.alternative
    return is_path and os.path.realpath(uri.url.path) == os.path.realpath(local.root)


def _place(uri: AtomUri) -> str:
    """Paths are written absolute: the lock may be used from elsewhere."""
    assert uri.url is not None
    if uri.url.scheme == "file" and uri.url.alternative:
        return os.path.abspath(os.path.expanduser(uri.url.path))
    return str(uri.url)


def _known_tag(workspace: Workspace, manifest: Manifest, mirror: str, genesis: str) -> str | None:
    """The tag that this set has in the manifest already."""
    sets = manifest.package.sets
    for tag, mirrors in sets.items():
        if mirror in mirrors:
            return tag
    workspace.mirrors.ask(url for mirrors in sets.values() for url in mirrors)
    for tag, mirrors in sets.items():
        if workspace.mirrors.any_genesis(mirrors) == genesis:
            return tag
    return None


def _caret(
    workspace: Workspace, manifest: Manifest, tag: str | None, mirror: str, label: str
) -> Requirement:
    """`^` of the highest version there is."""
    known = manifest.package.sets[tag] if tag else ()
    places = dict.fromkeys((mirror, *known))
    versions = [
        version
        for place in places
        if place != LOCAL and (listing := workspace.mirrors.known(place)) is not None
        for version in listing.atoms.get(label, {})
    ]
    best = ANY.highest(versions) or max(versions, default=None)
    if best is None and LOCAL in places and label in workspace.local.members:
        best = workspace.local.members[label].package.version
    if best is None:
        where = "this set" if mirror == LOCAL else f"`{mirror}`"
        raise ResolveError(f"{where} has no atom `{label}`", hint="see `eka list`")
    return parse_requirement(f"^{best._replace(build='')}")


def _default_tag(uri: AtomUri, local: LocalSet) -> str:
    if uri.url is None:
        name = local.root.name
    else:
        path = uri.url.path.rstrip("/")
        name = path.rpartition("/")[2].removesuffix(".git") or uri.url.host or ""
    try:
        return names.tag(name)
    except FormatError:
        return "default"


def _expanded(url: str, settings: AtomSettings, request: Request) -> str:
    """Aliases expanded; a whole URL stays as it is, whatever characters its path has."""
    scheme, _, rest = url.partition("://")
    if scheme in ("http", "https", "file") and rest.partition(":")[0] not in settings.aliases:
        try:
            return web_url(url.replace("{", "%7B").replace("}", "%7D")) and url
        except FormatError:
            if request.git is None:
                raise
    return str(resolve_url(url, settings.aliases))
