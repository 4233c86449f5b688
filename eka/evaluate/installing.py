"""`.#attr` where a package is named: evaluates, builds what is not there, and says what came of it.

The evaluation is kept (`cache.py`) and so are outputs, so that naming an atom a second time costs a
look at its files. What the answer depends on is told with it, for launch records. Constraint:
whoever asks may enter a bundle next, so nothing here leaves a thread behind; building is done by
another process.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from eka.apart import run_apart
from eka.evaluate.cache import Found
from eka.evaluate.config import Choices
from eka.evaluate.evaluation import (
    Evaluation,
    Planned,
    Target,
    artifact_of,
    build_graph,
    evaluation,
    parse_target,
    planned,
    sources_of,
)
from eka_runtime.errors import EvaluationError, FormatError
from eka_runtime.nix.path import StorePath
from eka_runtime.store.artifacts import Artifact, Artifacts

if TYPE_CHECKING:
    from eka.evaluate.evaluator import Mode
    from eka.evaluate.request import Graph
    from eka.fetching import Reach
    from eka_runtime.store.store import Store


class Installed(NamedTuple):
    """`path` is a valid output, with its derivation's main program if that says one.

    `depends` are files and directories of the host that decided it; it is not `lasting` if
    something else did, too.
    """

    path: StorePath
    program: str | None
    annotations: Mapping[str, str]
    depends: tuple[str, ...]
    lasting: bool = True


def install(text: str, origin: str, base: Path, reach: Reach) -> Installed:
    """One package. Raises what evaluating and building raise, and EvaluationError for several."""
    target = parse_target(text, base)
    evaluated, found = plan_target(target, reach, "plan")
    all_of_it = planned(found.value)
    if len(all_of_it) != 1:
        names = ", ".join(f"`{one.attribute}`" for one in all_of_it[:12])
        first = f"{text.partition('#')[0]}#{all_of_it[0].attribute}"
        raise EvaluationError(
            f"`{text}` ({origin}) has {len(all_of_it)} derivations",
            hint=f"name one of {names}, as in `{first}`",
        )
    one = all_of_it[0]
    path = realise(all_of_it, reach)[0]
    annotate(reach.store, evaluated.graph, [path])
    depends = evaluated.depends(target, found)
    # What a URI means may be another version tomorrow.
    lasting = target.uri is None
    return Installed(path, one.program, evaluated.annotations(), depends, lasting)


def install_shell(text: str, base: Path, reach: Reach) -> tuple[list[Installed], bool]:
    """What a shell for a target has: what a shell.nix asks for, otherwise the package itself.

    The flag says which.
    """
    target = parse_target(text, base, shell=True)
    if target.place.name != "shell.nix":
        return [install(text, "target", base, reach)], False
    evaluated, found = plan_target(target, reach, "shell")
    depends = evaluated.depends(target, found)
    paths = realise(planned(found.value), reach)
    return [Installed(path, None, {}, depends) for path in paths], True


def plan_target(target: Target, reach: Reach, mode: Mode) -> tuple[Evaluation, Found]:
    """The derivations that a target means, with the configuration that was asked for."""
    store, say = reach.store, reach.output.message
    sources = sources_of(store, target.directory, say, offline=reach.offline)
    graph = build_graph(target, reach.choices or Choices(), sources)
    made = evaluation(graph, store, reach.settings, say, offline=reach.offline)
    return made, made.ask(mode, target.attribute)


def realise(wanted: Sequence[Planned], reach: Reach) -> list[StorePath]:
    """The output of each that was asked for; what is not valid is built or fetched."""
    try:
        outputs = [StorePath.parse(one.outputs[one.output]) for one in wanted]
    except FormatError as error:
        raise EvaluationError(
            f"the output of `{wanted[0].name}` is known only when it is built",
            hint="build it with `eka build`, and name ./result",
        ) from error
    pairs = zip(wanted, outputs, strict=True)
    missing = [one for one, path in pairs if reach.store.paths.get(path) is None]
    if missing:
        goals = {one.drv: {one.output} for one in missing}
        run_apart(lambda: _build(goals, reach))
    return outputs


def annotate(store: Store, graph: Graph, outputs: Iterable[StorePath]) -> None:
    """Says of outputs which artifact's they are, where the store can be written to."""
    atom, artifact = graph.atom, artifact_of(graph)
    if atom is None or artifact is None or not store.writable:
        return
    made = Artifact(artifact, atom.id, atom.label, atom.version, graph.config.hash())
    Artifacts(store.database).add(made, outputs)


def _build(goals: Mapping[StorePath, set[str]], reach: Reach) -> None:
    from eka.realising import build_goals
    from eka_runtime.store.store import Store

    # The caller's connections to its database must not be used in another process.
    with Store.open(reach.store.root) as store:
        build_goals(store, reach, goals)
