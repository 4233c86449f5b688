"""One evaluation from what a person names: its graph, its evaluator, its result.

    .  DIR  DIR#attr       an atom's directory, or one with a default.nix
    FILE.nix  FILE.nix#a   a plain file, with the tree that it is in
    ::label  URI           an atom of the local set, or of another one

Used alike by `eka eval`, `eka plan`, `eka config show`, and by `.#attr` wherever a package or a
target is named.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from eka.atom.identity import atom_id
from eka.atom.lock import LockedAtom
from eka.atom.manifest import FILE as MANIFEST
from eka.atom.manifest import read_manifest
from eka.atom.settings import load_atom_settings
from eka.atom.uri import AtomUri, parse_uri
from eka.atom.version import sort_key
from eka.config import Settings
from eka.evaluate import host_nix
from eka.evaluate.cache import Found, own_expressions, remember
from eka.evaluate.canonical import artifact_id
from eka.evaluate.config import Choices, Config, Declared, effective
from eka.evaluate.evaluator import Evaluator, Mode
from eka.evaluate.graph import Sources, atom_graph, published_graph
from eka.evaluate.nix import NixEvaluator
from eka.evaluate.request import Graph
from eka.evaluate.sandbox import Sandbox, Say
from eka.evaluate.sources import StoreSources, find_local_set
from eka_runtime.errors import (
    EvaluationError,
    EvaluatorMissing,
    InvalidStorePath,
    PathNotFound,
    ResolveError,
    UsageError,
)
from eka_runtime.nix.path import StorePath
from eka_runtime.store.store import Store

SOURCE = "/eka/atoms/0/source"


class Target(NamedTuple):
    """`place` is an atom's directory, another directory with a default.nix, or a .nix file.

    With a `uri` it is the atom of another set, and `place` where relative URLs start.
    """

    place: Path
    attribute: str
    uri: AtomUri | None = None

    @property
    def directory(self) -> Path:
        return self.place.parent if self.place.is_file() else self.place

    @property
    def is_atom(self) -> bool:
        return self.uri is not None or (self.place / MANIFEST).is_file()


class Planned(NamedTuple):
    """A derivation that was asked for. `program` is its main program, if it says so."""

    attribute: str
    drv: StorePath
    name: str
    system: str
    output: str
    outputs: Mapping[str, str]
    program: str | None


class Evaluation(NamedTuple):
    """What is evaluated, and by what. `artifact` is None for what is no atom."""

    graph: Graph
    evaluator: Evaluator
    sandbox: Sandbox

    @property
    def artifact(self) -> str | None:
        return artifact_of(self.graph)

    def value(self, attribute: str) -> object:
        """The JSON value. Raises what `Sandbox.ask` raises."""
        return self.ask("value", attribute).value

    def plan(self, attribute: str) -> list[Planned]:
        """Derivations, which are in the store then. Raises what `Sandbox.ask` raises."""
        return planned(self.ask("plan", attribute).value)

    def ask(self, mode: Mode, attribute: str) -> Found:
        """As the evaluator answers, or has answered before."""
        sandbox, graph, evaluator = self.sandbox, self.graph, self.evaluator
        notes = self.annotations()
        return remember(
            sandbox.store,
            evaluator,
            graph,
            mode,
            attribute,
            lambda: sandbox.ask(evaluator, graph, mode, attribute, notes),
        )

    def depends(self, target: Target, found: Found) -> tuple[str, ...]:
        """Files and directories of the host that decided a result; absent ones, too."""
        places = {os.fsdecode(path) for one in found.scans for path in one.stamps}
        above = (target.place, *target.place.parents)
        places |= {os.fspath(directory / "ekala.toml") for directory in above}
        places |= set(self.graph.members)
        places |= set(map(os.fspath, own_expressions()))
        if self.sandbox.settings.evaluator in (None, "nix"):
            places |= host_nix.files_of(os.environ)
        return tuple(sorted(places))

    def annotations(self) -> dict[str, str]:
        """For bundles, and results: which configuration of which atom this is."""
        return annotations_of(self.graph)


def artifact_of(graph: Graph) -> str | None:
    atom = graph.atom
    return artifact_id(atom.id, atom.version, graph.config.digest()) if atom else None


def annotations_of(graph: Graph) -> dict[str, str]:
    found = {"dev.eka.config": graph.config.hash()}
    if atom := graph.atom:
        found |= {
            "dev.eka.atom": atom.id,
            "dev.eka.atom.label": atom.label,
            "dev.eka.atom.version": atom.version,
            "dev.eka.artifact": artifact_of(graph) or "",
        }
    return found


def parse_target(text: str, base: Path = Path(), *, shell: bool = False) -> Target:
    """Relative places start at `base`; a `shell` may be one with a shell.nix.

    Raises UsageError for what is none of the above, FormatError for no URI.
    """
    place, _, attribute = text.partition("#")
    if "::" in place:
        return _by_uri(place, attribute, base)
    directory = Path(os.path.realpath(base / os.path.expanduser(place or ".")))
    if shell and not (directory / MANIFEST).is_file() and (directory / "shell.nix").is_file():
        directory /= "shell.nix"
    target = Target(directory, attribute)
    if directory.is_dir():
        if target.is_atom or (directory / "default.nix").is_file():
            return target
        raise UsageError(
            f"`{place or '.'}` has neither an {MANIFEST} nor a default.nix",
            hint="name a directory that has one, or a .nix file",
        )
    if directory.is_file() and directory.suffix == ".nix":
        return target
    if not directory.exists():
        raise UsageError(f"`{text}` is not there", hint="name an atom's directory or a .nix file")
    raise UsageError(f"`{text}` is neither an atom nor a .nix file")


def _by_uri(text: str, attribute: str, base: Path) -> Target:
    directory = Path(os.path.realpath(base))
    uri = parse_uri(text, load_atom_settings(os.environ, directory).aliases)
    if uri.url is not None:
        return Target(directory, attribute, uri)
    local = find_local_set(directory)
    if uri.label not in local.atoms:
        known = ", ".join(f"`{label}`" for label in sorted(local.atoms))
        raise UsageError(
            f"`{text}`: the set of `{directory}` has no atom `{uri.label}`",
            hint=f"it has {known}" if known else "there is no `ekala.toml`, or it lists none",
        )
    return Target(local.atoms[uri.label], attribute)


def _look_up(uri: AtomUri, base: Path) -> LockedAtom:
    """The newest version that a URI means. Raises ResolveError, GitError."""
    from eka.atom.remote import list_set

    assert uri.url is not None
    url = str(uri.url)
    listing = list_set(url, base)
    versions = listing.atoms.get(uri.label, {})
    fitting = [v for v in versions if uri.requirement is None or uri.requirement.matches(v)]
    stable = [v for v in fitting if uri.requirement is not None or not v.pre]
    if not stable:
        known = ", ".join(map(str, sorted(versions, key=sort_key)))
        raise ResolveError(
            f"`{uri}` matches no version", hint=f"there are {known}" if known else "see `eka list`"
        )
    version = max(stable, key=sort_key)
    own = atom_id(listing.genesis, uri.label)
    return LockedAtom(uri.label, version, listing.genesis, versions[version], url, own)


def build_graph(target: Target, choices: Choices, sources: Sources) -> Graph:
    """Raises ManifestError, LockError, OptionError, and what fetching raises."""
    if target.uri is not None:
        return published_graph(_look_up(target.uri, target.place), choices, sources)
    if target.is_atom:
        return atom_graph(target.place, choices, sources)
    config = effective(Declared(), choices)
    directory = target.directory
    _check_tree(directory)
    file = SOURCE if target.place.is_dir() else f"{SOURCE}/{target.place.name}"
    return Graph(file, {}, {}, {}, config, ((os.fspath(directory), SOURCE),))


def configuration(target: Target, choices: Choices) -> tuple[Config, str | None]:
    """Without evaluating, and without a store: the configuration, and the artifact id of an atom.

    Raises ManifestError and OptionError.
    """
    if not target.is_atom:
        return effective(Declared(), choices), None
    if target.uri is not None:
        raise UsageError("name a directory", hint="`eka plan --json URI` has hash and artifact id")
    manifest = read_manifest(target.place)
    config = effective(Declared.of(manifest), choices)
    package = manifest.package
    own = atom_id(find_local_set(target.place).genesis, package.label)
    return config, artifact_id(own, str(package.version), config.digest())


def _check_tree(directory: Path) -> None:
    """The whole directory is an input, so it must not be more than somebody meant."""
    home = os.path.realpath(os.path.expanduser("~"))
    if os.path.commonpath([home, directory]) == os.fspath(directory):
        raise UsageError(
            f"`{directory}` has your home in it, all of which would be an input",
            hint="move the expression to a directory of its own",
        )


def evaluation(
    graph: Graph, store: Store, settings: Settings, say: Say, *, offline: bool
) -> Evaluation:
    """With the evaluator in force, which is brought into the store if need be."""
    sandbox = Sandbox(store, settings, say, offline)
    return Evaluation(graph, find_evaluator(store, settings), sandbox)


def find_evaluator(store: Store, settings: Settings) -> Evaluator:
    """The one that is named, or the host's Nix. Raises EvaluatorMissing."""
    named = settings.evaluator
    if named in (None, "nix"):
        return NixEvaluator(host_nix.host_nix(store, os.environ), True)
    from eka.evaluate import snix
    from eka.program import Programs

    origin = settings.origin.get("evaluator", "")
    try:
        path = StorePath.parse(named or "")
        programs = Programs(store, (store.info(path),), {path.base: store.info(path)})
    except (InvalidStorePath, PathNotFound) as error:
        raise EvaluatorMissing(f"the evaluator `{named}` ({origin}): {error}") from error
    if programs.find(host_nix.PROGRAM):
        return NixEvaluator(path, False)
    if programs.find(snix.PROGRAM):
        return snix.SnixEvaluator(path)
    raise EvaluatorMissing(
        f"the evaluator `{named}` ({origin}) has neither `bin/{host_nix.PROGRAM}` nor"
        f" `bin/{snix.PROGRAM}`",
        hint="name the store path of a Nix, or unset it for the host's",
    )


def planned(value: object) -> list[Planned]:
    """What the evaluator answered to `plan`. Raises EvaluationError for something else."""
    return [_planned(one) for one in value] if isinstance(value, list) else []


def _planned(one: object) -> Planned:
    try:
        assert isinstance(one, dict)
        return Planned(
            one["attr"],
            StorePath.parse(one["drvPath"]),
            one["name"],
            one["system"],
            one["output"],
            one["outputs"],
            one["program"],
        )
    except (KeyError, AssertionError) as error:
        raise EvaluationError(f"the evaluator's answer makes no sense: {error!r}") from error


def sources_of(store: Store, base: Path, say: Say, *, offline: bool) -> Sources:
    return StoreSources(store, base, offline, say)
