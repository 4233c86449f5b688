"""`eka eval TARGET` in its plain forms, without click, whose import takes longer than evaluating.

Whoever edits an atom and evaluates it again waits for this. Taken are a target, `-A`/`--attr`,
`--raw` and `--json`; every other line, right or wrong, is left to the whole program. What is taken
is done by the same code as there (`commands/evaluating.py`).

Constraint: a test pins what an evaluation imports that was started before.
"""

from __future__ import annotations

from typing import NamedTuple

from eka.context import Context
from eka.report import leave, run_guarded


class Line(NamedTuple):
    target: str = "."
    attribute: str | None = None
    raw: bool = False
    json: bool = False


def attempt(words: list[str]) -> None:
    """Evaluates and ends the process, or returns. `words` are those after `eval`."""
    line = split(words)
    if line is None:
        return
    from eka.commands.evaluating import print_value
    from eka.evaluate.config import Choices

    context = Context()
    context.output.json_mode = line.json

    def action() -> None:
        print_value(context, Choices(), line.target, line.attribute, raw=line.raw)

    leave(run_guarded(context.output, action))


def split(words: list[str]) -> Line | None:
    """None for what click has to look at."""
    line, targets = Line(), 0
    rest = iter(words)
    for word in rest:
        if word == "--raw":
            line = line._replace(raw=True)
        elif word == "--json":
            line = line._replace(json=True)
        elif word in ("-A", "--attr"):
            attribute = next(rest, None)
            if attribute is None:
                return None
            line = line._replace(attribute=attribute)
        elif word.startswith("--attr="):
            line = line._replace(attribute=word.removeprefix("--attr="))
        elif word.startswith("-") or not word or targets:
            return None
        else:
            line, targets = line._replace(target=word), 1
    return line
