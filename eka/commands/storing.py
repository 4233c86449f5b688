"""What `eka store add`, `import`, `export` and `verify` do, apart from their options.

Constraint: without click, for `eka/plain_store.py`; library modules are imported when a command
runs, not before. stdout carries store paths, problems, or the bytes asked for, and nothing else.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from eka.context import Context

if TYPE_CHECKING:
    from eka_runtime.store.pathinfo import PathInfo
    from eka_runtime.store.store import Store
    from eka_runtime.store.verify import Problem, Verified


def add(
    context: Context, paths: Iterable[str], name: str | None = None, flat: bool = False
) -> None:
    with context.open_store() as store:
        for path in paths:
            _print_path(context, _add(context, store, path, name, flat))


def _add(context: Context, store: Store, path: str, name: str | None, flat: bool) -> PathInfo:
    with context.output.progress(f"adding {path}") as update:
        if flat:
            return store.add_flat(path, name=name, progress=update)
        return store.add_tree(path, name=name, progress=update)


def import_stream(context: Context, file: str = "-") -> None:
    from eka.commands.store_arguments import input_bytes

    with input_bytes(file) as read, context.open_store() as store:
        store.import_stream(read, each=lambda info: _print_path(context, info))


def _print_path(context: Context, info: PathInfo) -> None:
    if context.json:
        context.output.json({"path": str(info.path)})
    else:
        context.output.data(str(info.path))
    # Each path is valid from now on, whatever becomes of the rest: whoever reads must learn of it.
    sys.stdout.flush()


def export(context: Context, paths: Iterable[str], closure: bool = False) -> None:
    from eka.commands.store_arguments import refuse_terminal, store_path

    refuse_terminal("an export stream", "eka store export PATH > FILE")
    wanted = [store_path(path) for path in paths]
    with context.open_store(create=False) as store:
        store.export(store.closure(wanted) if closure else wanted, context.output.bytes)


def verify(context: Context, deep: bool = False) -> None:
    with context.open_store(create=False) as store:
        judge(context, store, check(context, store, deep, context.output.data))


def check(context: Context, store: Store, deep: bool, say: Callable[[str], object]) -> Verified:
    def report(problem: Problem) -> None:
        if context.json and say == context.output.data:
            context.output.json(problem._asdict())
        else:
            say(f"{problem.kind} {problem.subject}: {problem.detail}")

    with context.output.progress("verifying") as update:
        return store.verify(deep=deep, report=report, progress=update)


_REPAIR = "run `eka store verify --deep --repair`"


def judge(context: Context, store: Store, result: Verified, hint: str = _REPAIR) -> None:
    """Says that all is well, or raises StoreCorrupt."""
    from eka_runtime.errors import StoreCorrupt
    from eka_runtime.store.verify import counted

    if result.problems:
        problems = counted(result.problems, "problem")
        raise StoreCorrupt(f"{problems} in the store `{store.root}`", hint=hint)
    context.output.message(result.summary())
