"""`eka store add`, `import`, `export` and `verify` in their plain forms, without click.

Scripts call them in loops, and on a small path the import of click takes as long as the rest. Taken
are paths and the flags below; every other line, right or wrong, is left to the whole program. What
is taken is done by the same code as there (`commands/storing.py`).
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from functools import partial

from eka.context import Context

Action = Callable[[Context], None]

# As many come before the collector looks at them.
_OBJECTS = 1 << 17


def attempt(words: list[str]) -> None:
    """Does it and ends the process, or returns. `words` are those after `store`."""
    action = action_of(words)
    if action is None:
        return
    from eka.report import leave, run_guarded

    # Entries and rows by the hundred thousand, of which none is garbage: looking for it takes 3 %.
    gc.set_threshold(_OBJECTS)
    context = Context()
    leave(run_guarded(context.output, lambda: action(context)))


def action_of(words: list[str]) -> Action | None:
    """None for what click has to look at."""
    from eka.commands import storing

    command, *rest = words or [""]
    flags = {word for word in rest if word.startswith("-")}
    paths = [word for word in rest if word not in flags]
    if "" in paths:
        return None
    if command == "add" and paths and not flags:
        return partial(storing.add, paths=paths)
    if command == "import" and len(paths) < 2 and not flags:
        return partial(storing.import_stream, file=paths[0] if paths else "-")
    if command == "export" and paths and flags <= {"--closure"}:
        return partial(storing.export, paths=paths, closure=bool(flags))
    if command == "verify" and not paths and flags <= {"--deep"}:
        return partial(storing.verify, deep=bool(flags))
    return None
