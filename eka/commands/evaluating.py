"""What commands that evaluate have in common: from a target and options to an open Evaluation."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from eka.context import Context

if TYPE_CHECKING:
    from eka.commands.configured import Configured
    from eka.evaluate.evaluation import Evaluation, Target


def split_target(text: str, attribute: str | None) -> Target:
    """`--attr` continues what the target says after `#`. Raises UsageError."""
    from eka.evaluate.evaluation import parse_target

    target = parse_target(text)
    if attribute is None:
        return target
    return target._replace(attribute=".".join(filter(None, (target.attribute, attribute))))


@contextmanager
def evaluating(context: Context, target: Target, configured: Configured) -> Iterator[Evaluation]:
    """The store is open meanwhile."""
    from eka.evaluate.evaluation import build_graph, evaluation, sources_of
    from eka_runtime.store.store import Store

    choices = configured.choices()
    settings = context.settings()
    with Store.open(settings.store) as store:
        store.require_writable()
        say = context.output.message
        sources = sources_of(store, target.directory, say, offline=context.offline)
        graph = build_graph(target, choices, sources)
        yield evaluation(graph, store, settings, say, offline=context.offline)


def record_value(words: Sequence[str], depends: Sequence[str], text: str) -> None:
    """So that the same command line is answered without evaluating: see `eka/again.py`."""
    from eka.config import config_dir
    from eka.record import Dependencies, write_command_record

    files = (*depends, os.fspath(config_dir(os.environ) / "eka.toml"))
    facts = Dependencies(tuple(map(os.fsencode, files)), (), (), (), ())
    write_command_record(words, facts, {"printed": text.encode("utf-8")})
