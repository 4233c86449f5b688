"""What commands that evaluate have in common: from a target and options to an open Evaluation."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from eka.context import Context

if TYPE_CHECKING:
    from eka.evaluate.config import Choices
    from eka.evaluate.evaluation import Evaluation, Target


def split_target(text: str, attribute: str | None) -> Target:
    """`--attr` continues what the target says after `#`. Raises UsageError."""
    from eka.evaluate.evaluation import parse_target

    target = parse_target(text)
    if attribute is None:
        return target
    return target._replace(attribute=".".join(filter(None, (target.attribute, attribute))))


@contextmanager
def evaluating(context: Context, target: Target, choices: Choices) -> Iterator[Evaluation]:
    """The store is open meanwhile."""
    from eka.evaluate.evaluation import build_graph, evaluation, sources_of
    from eka_runtime.store.store import Store

    settings = context.settings()
    with Store.open(settings.store) as store:
        store.require_writable()
        say = context.output.message
        sources = sources_of(store, target.directory, say, offline=context.offline)
        graph = build_graph(target, choices, sources)
        yield evaluation(graph, store, settings, say, offline=context.offline)


def print_value(
    context: Context, choices: Choices, target: str, attribute: str | None, *, raw: bool
) -> None:
    """What `eka eval` does. Raises UsageError, and what evaluating raises."""
    from eka.evaluate.cache import mentioned
    from eka_runtime.errors import UsageError

    if raw and context.json:
        raise UsageError("`--raw` and `--json` exclude each other")
    where = split_target(target, attribute)
    with evaluating(context, where, choices) as evaluation:
        found = evaluation.ask("value", where.attribute)
        text = _text(found.value, raw=raw, line=context.json)
        context.output.bytes(text.encode("utf-8"))
        # A value that names store paths is good only while they are there, which takes a look.
        if sys.argv[1:2] == ["eval"] and where.uri is None and not mentioned(found.value):
            record_value(sys.argv[1:], evaluation.depends(where, found), text)


def _text(value: object, *, raw: bool, line: bool) -> str:
    from eka_runtime.errors import UsageError

    if raw and isinstance(value, str):
        return value
    if raw:
        shown = json.dumps(value)[:80]
        raise UsageError(f"the value is no string: {shown}", hint="drop `--raw`")
    if line:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n"
    return json.dumps(value, ensure_ascii=False, indent=2) + "\n"


def record_value(words: Sequence[str], depends: Sequence[str], text: str) -> None:
    """So that the same command line is answered without evaluating: see `eka/again.py`."""
    from eka.config import config_dir
    from eka.record import Dependencies, write_command_record

    files = (*depends, os.fspath(config_dir(os.environ) / "eka.toml"))
    facts = Dependencies(tuple(map(os.fsencode, files)), (), (), (), ())
    write_command_record(words, facts, {"printed": text.encode("utf-8")})
