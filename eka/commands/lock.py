"""`eka lock FILE`: pins what a script uses in `FILE.lock`, or checks that it is pinned."""

from __future__ import annotations

import click

from eka.completing import files, packages
from eka.context import Context


@click.command()
@click.argument("file", shell_complete=files)
@click.option("--check", is_flag=True, help="Write nothing; fail if the lock would change.")
@click.option(
    "-p",
    "--package",
    multiple=True,
    metavar="P",
    shell_complete=packages,
    help="As of `eka-run -p P FILE`.",
)
@click.option("-i", "--interpreter", metavar="I", help="As of `eka-run -i I FILE`.")
@click.pass_obj
def command(
    context: Context, file: str, check: bool, package: tuple[str, ...], interpreter: str | None
) -> None:
    """Write FILE.lock: the store paths that FILE's packages are, and the hashes of their closure.

    `eka-run` takes the packages from it from then on, and `eka-run --locked` refuses to run without
    it. Prints its path.
    """
    from eka import locking
    from eka.fetching import Reach
    from eka.script.flags import parse_flags

    words = [word for value in package for word in ("-p", value)]
    flags, _ = parse_flags([*words, *(["-i", interpreter] if interpreter else [])])
    with context.open_store() as store:
        reach = Reach(store, context.settings(), context.output, offline=context.offline)
        made = locking.draft(file, flags, reach)
        if check:
            locking.check(made)
        elif not locking.write(made, store):
            context.output.detail(f"`{made.place}` is current")
    if context.json:
        paths = [str(path) for path in made.lock.roots()]
        context.output.json(
            {"lock": made.place, "packages": paths, "paths": len(made.lock.closure)}
        )
    else:
        context.output.data(made.place)
