"""`eka bundle`: look at OCI bundles, ours or anybody's: show, validate, diff."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eka.commands.bundle_create import command as create
from eka.commands.bundle_run import command as run
from eka.context import Context
from eka_runtime.errors import SpecError

if TYPE_CHECKING:
    from eka_runtime.oci.diff import Change
    from eka_runtime.oci.spec_base import Problem

DIFFERENT = 1
"""Exit status of `diff` when there is a difference, as of diff(1)."""

_PLACE = click.Path(path_type=Path)


@click.group()
def group() -> None:
    """Create, run, show, validate and compare OCI bundles."""


group.add_command(create)
group.add_command(run)


@group.command()
@click.argument("bundle", metavar="DIR|FILE", type=_PLACE)
@click.pass_obj
def show(context: Context, bundle: Path) -> None:
    """Print config.json of a bundle in canonical form; with --json on one line."""
    from eka_runtime.oci.spec import load_spec

    spec = load_spec(bundle)
    if context.json:
        context.output.json(spec.to_data())
    else:
        context.output.bytes(spec.to_json())


@group.command()
@click.argument("bundle", metavar="DIR|FILE", type=_PLACE)
@click.pass_obj
def validate(context: Context, bundle: Path) -> int:
    """Check a bundle against the OCI runtime-spec, and against what runtimes expect beyond it.

    Prints one problem per line, each with its place in config.json.
    """
    problems = _problems(bundle)
    for problem in problems:
        if context.json:
            context.output.json(problem._asdict())
        else:
            context.output.data(str(problem))
    if not problems:
        context.output.message(f"`{bundle}` is valid")
    return SpecError.exit_code if problems else 0


def _problems(bundle: Path) -> list[Problem]:
    from eka_runtime.oci.check import check
    from eka_runtime.oci.spec import load_spec
    from eka_runtime.oci.spec_base import InvalidSpec

    try:
        spec = load_spec(bundle)
    except InvalidSpec as error:
        return list(error.problems)
    return check(spec, bundle if bundle.is_dir() else None)


@group.command()
@click.argument("before", metavar="A", type=_PLACE)
@click.argument("after", metavar="B", type=_PLACE)
@click.pass_obj
def diff(context: Context, before: Path, after: Path) -> int:
    """Say how bundle B differs from bundle A: keys, mounts, variables, names in the rootfs.

    Exits with 1 when there is a difference.
    """
    changes = _changes(before, after)
    for change in changes:
        if context.json:
            context.output.json({"change": change.kind, **change._asdict()})
        else:
            for line in _lines(change):
                context.output.data(line)
    return DIFFERENT if changes else 0


def _changes(before: Path, after: Path) -> list[Change]:
    from eka_runtime.oci.diff import diff_rootfs, diff_specs
    from eka_runtime.oci.record import load_record
    from eka_runtime.oci.spec import load_spec

    changes = diff_specs(load_spec(before), load_spec(after))
    old, new = load_record(before), load_record(after)
    if old is not None and new is not None:
        changes += diff_rootfs(old.entries(), new.entries())
    return changes


def _lines(change: Change) -> list[str]:
    lines = []
    if change.before is not None:
        lines.append(f"- {change.path}: {_text(change.before)}")
    if change.after is not None:
        lines.append(f"+ {change.path}: {_text(change.after)}")
    return lines


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)
