"""`eka init`: makes a package set of a directory or repository, and of its remote."""

from __future__ import annotations

from pathlib import Path

import click

from eka.completing import directories
from eka.context import Context


@click.command()
@click.argument("where", default=".", metavar="[DIR]", shell_complete=directories)
@click.option("-t", "--remote", metavar="REMOTE", help="Set up this git remote for publishing.")
@click.option("--git", "--init-git", "git", is_flag=True, help="Make DIR a git repository first.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@click.pass_obj
def command(context: Context, where: str, remote: str | None, git: bool, dry_run: bool) -> None:
    """Make a package set: write and commit `ekala.toml`, and set up the git remote if there is one.

    In a git repository the set is the whole repository. Prints the path of the set.
    """
    from eka.atom import initialize
    from eka.atom.repository import Repository

    place = Path(where)
    repository = Repository.discover(place if place.is_dir() else Path.cwd())
    if repository is None and git:
        context.output.message(f"making a git repository of `{place}`")
        repository = None if dry_run else initialize.create_repository(place)
    root = repository.root if repository else place.absolute()
    done: list[str] = []
    if dry_run:
        done = _plan(root, repository)
    else:
        if initialize.write_set_file(root):
            done.append("wrote")
        if repository and (commit := initialize.commit_set_file(repository)):
            done.append("committed")
            context.output.message(f"committed `ekala.toml` as {commit[:12]}")
    if repository and not dry_run:
        _remote(context, repository, remote, done)
    if not done:
        context.output.message(f"`{root}` is a package set already")
    if context.json:
        context.output.json({"set": str(root), "done": done})
    else:
        context.output.data(str(root))


def _plan(root: Path, repository: object) -> list[str]:
    would = [] if (root / "ekala.toml").exists() else ["would write"]
    return would + (["would commit"] if would and repository else [])


def _remote(context: Context, repository: object, remote: str | None, done: list[str]) -> None:
    from eka.atom import initialize
    from eka.atom.repository import Repository
    from eka_runtime.errors import UsageError

    assert isinstance(repository, Repository)
    name = remote or initialize.default_remote(repository)
    if not initialize.has_remote(repository, name):
        if remote:
            raise UsageError(
                f"there is no git remote `{name}`", hint=f"add it: `git remote add {name} URL`"
            )
        context.output.message(
            f"there is no remote `{name}`; `eka init --remote` sets one up later"
        )
        return
    if context.offline:
        context.output.warning(f"the remote `{name}` is left alone: offline")
        return
    if not remote and not initialize.has_branches(repository, name):
        context.output.message(f"`{name}` is empty: push your branch, then run `eka init` again")
        return
    if initialize.init_remote(repository, name):
        done.append("pushed")
        context.output.message(f"set up the remote `{name}`")
