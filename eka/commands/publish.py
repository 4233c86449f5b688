"""`eka publish`: publishes atoms of a commit on the repository's remote."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from eka.completing import directories
from eka.context import Context

if TYPE_CHECKING:
    from eka.atom.publish import Plan, Step


@click.command()
@click.argument("paths", metavar="PATH...", nargs=-1, shell_complete=directories)
@click.option("-a", "--all", "all_", is_flag=True, help="All atoms of the set.")
@click.option("-t", "--remote", metavar="REMOTE", help="Default: where `git push` goes.")
@click.option("-s", "--spec", "revision", default="HEAD", show_default=True, metavar="REV")
@click.option("--dry-run", is_flag=True, help="Show the plan and stop.")
@click.option(
    "--no-verify", is_flag=True, help="Do not check manifests and locks, as upstream does not."
)
@click.pass_obj
def command(
    context: Context,
    paths: tuple[str, ...],
    all_: bool,
    remote: str | None,
    revision: str,
    dry_run: bool,
    no_verify: bool,
) -> None:
    """Publish atoms as they are in the commit REV: PATH is a path or a label.

    Shows the plan, then pushes all that is new at once, or nothing. Prints label, version, atom
    commit and state, tab-separated.
    """
    from eka.atom import publish
    from eka.atom.initialize import default_remote
    from eka.atom.repository import Repository
    from eka_runtime.errors import GitError, UsageError

    if bool(paths) == all_:
        raise UsageError("say what to publish", hint="name paths, or give `--all`")
    repository = Repository.discover(Path.cwd())
    if repository is None:
        raise UsageError("atoms are published from a git repository", hint="run `eka init --git`")
    if context.offline:
        raise GitError("publishing needs the network", hint="run it without `--offline`")
    source = publish.Source(repository, repository.commit(revision))
    for problem in source.problems:
        context.output.warning(f"{problem} (left out of the set)")
    chosen = publish.select(source, paths, Path.cwd())
    where = remote or default_remote(repository)
    plan = publish.make_plan(source, chosen, where, checks=not no_verify)
    _show(context, plan)
    _warn_of_changes(context, repository, plan, revision)
    refused = [step for step in plan.steps if step.state == "refused"]
    if not refused and not dry_run:
        publish.push(plan, repository)
    _print(context, plan, done=not refused and not dry_run)
    if refused:
        raise _problem(refused)


def _show(context: Context, plan: Plan) -> None:
    signs = {"new": "+", "published": "=", "refused": "!"}
    for step in plan.steps:
        words = {"new": f"publish {step.rev}", "published": "there already"}
        said = words.get(step.state) or f"refused: {step.problem}"
        context.output.message(f"{signs[step.state]} {step.label} {step.version} {said}")
        for note in step.notes:
            context.output.warning(f"{step.label} {step.version}: {note}")
    if plan.refs():
        context.output.message(f"-> `{plan.remote}`, from {plan.origin[:12]}")


def _warn_of_changes(context: Context, repository: object, plan: Plan, revision: str) -> None:
    from eka.atom.repository import Repository

    assert isinstance(repository, Repository)
    if revision != "HEAD" or repository.bare:
        return
    paths = [step.path for step in plan.steps]
    changed = repository.git("status", "--porcelain", "--", *paths)
    if changed.strip():
        context.output.warning("there are changes that are not committed: they are not published")


def _print(context: Context, plan: Plan, *, done: bool) -> None:
    for step in plan.steps:
        state = "planned" if step.state == "new" and not done else step.state
        if context.json:
            problem = str(step.problem) if step.problem else None
            context.output.json(
                {"label": step.label, "version": str(step.version), "id": step.id,
                 "rev": step.rev, "path": step.path, "state": state, "problem": problem}
            )  # fmt: skip
        else:
            context.output.data(f"{step.label}\t{step.version}\t{step.rev or '-'}\t{state}")


def _problem(refused: list[Step]) -> Exception:
    first = refused[0].problem
    assert first is not None
    more = f" (and {len(refused) - 1} more)" if len(refused) > 1 else ""
    return type(first)(f"nothing was pushed: {first}{more}", hint=first.hint)
