"""Results of evaluations by what went into them, so that nothing is evaluated twice.

    $XDG_CACHE_HOME/eka/evaluation/<key>.json     a result

    key = BLAKE3 of: the evaluator's store paths, eka's expressions, the request (which has the
          configuration, every lock and manifest in it), what each local directory holds

Everything that an evaluation can see is in the key, so a result is never stale: a changed file,
lock, option, evaluator or eka makes another key. A result is kept only if the directories hold the
same when the evaluation has ended, and used only if the store paths that it mentions are valid.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import blake3

from eka.config import cache_dir
from eka.evaluate.evaluator import Evaluator, Mode
from eka.evaluate.request import Graph
from eka.evaluate.tree_index import Scan, scan
from eka.kept import publish, touch
from eka_runtime.errors import EvaluationError, InvalidStorePath
from eka_runtime.nix.path import StorePath
from eka_runtime.store.store import Store

_FORMAT = "eka evaluation 1"
_PATHS = re.compile(r"/nix/store/([0-9a-df-np-sv-z]{32}-[A-Za-z0-9+._?=-]{1,211})")
_EXPRESSIONS = Path(__file__).parent / "nix"


class Found(NamedTuple):
    """A result, and the directories as they were when it was made or found valid."""

    value: object
    scans: tuple[Scan, ...]
    fresh: bool


def remember(
    store: Store,
    evaluator: Evaluator,
    graph: Graph,
    mode: Mode,
    attribute: str,
    evaluate: Callable[[], object],
) -> Found:
    """The result of before, or that of `evaluate`. Raises what it raises."""
    request = graph.request(mode, attribute)
    scans = _scan(graph)
    key = _key(evaluator, request, scans)
    place = cache_dir(os.environ) / "evaluation" / f"{key}.json"
    known = _read(place, store)
    if known is not None:
        return Found(known[0], scans, False)
    value = evaluate()
    after = _scan(graph)
    if _key(evaluator, request, after) == key:
        _write(place, value)
    return Found(value, after, True)


def mentioned(value: object) -> list[StorePath]:
    """The store paths in a result."""
    text = json.dumps(value, ensure_ascii=False)
    found = set()
    for base in _PATHS.findall(text):
        try:
            found.add(StorePath.from_base(base))
        except InvalidStorePath:
            continue
    return sorted(found)


def _scan(graph: Graph) -> tuple[Scan, ...]:
    try:
        return tuple(scan(Path(source)) for source, _ in graph.places())
    except OSError as error:
        raise EvaluationError(
            f"cannot read `{os.fsdecode(error.filename)}`: {error.strerror}"
        ) from error


def _key(evaluator: Evaluator, request: bytes, scans: Sequence[Scan]) -> str:
    parts = [_FORMAT.encode(), evaluator.name.encode(), _own_expressions(), request]
    parts += [str(path).encode() for path in evaluator.roots]
    parts += [one.digest for one in scans]
    hasher = blake3.blake3()
    for part in parts:
        hasher.update(len(part).to_bytes(8, "little") + part)
    return hasher.hexdigest()


def own_expressions() -> list[Path]:
    """The part of eka that evaluators read."""
    return sorted(_EXPRESSIONS.glob("*.nix"))


@cache
def _own_expressions() -> bytes:
    return b"\0".join(file.read_bytes() for file in own_expressions())


def _read(place: Path, store: Store) -> tuple[object] | None:
    """In a tuple, because a result may be null."""
    try:
        with place.open("rb") as stream:
            if os.fstat(stream.fileno()).st_uid != os.geteuid():
                return None
            data = json.load(stream)
        needed = [StorePath.parse(path) for path in data["needs"]]
        if data["format"] != _FORMAT or not all(map(store.paths.get, needed)):
            return None
        touch(place)
        return (data["value"],)
    except (OSError, ValueError, KeyError, TypeError, InvalidStorePath):
        return None


def _write(place: Path, value: object) -> None:
    needs = [str(path) for path in mentioned(value)]
    data = {"format": _FORMAT, "needs": needs, "value": value}
    publish(place, json.dumps(data, ensure_ascii=False).encode("utf-8"))
