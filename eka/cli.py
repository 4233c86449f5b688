"""The `eka` command: a table of sub-commands, each imported only when it is called.

Every command, however deep, takes the common options (`--store`, `-C`, `--json`, …) before or after
its own name. Errors end here: an EkaError is printed with its hint and becomes its exit code.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import click

from eka.common_options import with_common_options
from eka.context import Context
from eka.lazy_group import LazyGroup
from eka.report import run_guarded
from eka.version import __version__
from eka_runtime.errors import UsageError

# name -> (module, attribute, one line for --help)
COMMANDS = {
    "run": ("eka.commands.run", "command", "Run a store path, a package's program or a script"),
    "shell": ("eka.commands.shell", "command", "Open a shell with packages on its PATH"),
    "init": ("eka.commands.init", "command", "Make a package set of a repository"),
    "new": ("eka.commands.new", "command", "Make an atom in the set"),
    "add": ("eka.commands.add", "add", "Add dependencies to an atom, or packages to a script"),
    "remove": ("eka.commands.add", "remove", "Remove dependencies, or packages of a script"),
    "resolve": ("eka.commands.resolve", "command", "Bring atom.lock in step with atom.toml"),
    "publish": ("eka.commands.publish", "command", "Publish atoms on the git remote"),
    "verify": ("eka.commands.verify", "command", "Recompute what publications and locks claim"),
    "list": ("eka.commands.list", "command", "List the atoms of a set and their versions"),
    "eval": ("eka.commands.eval", "command", "Evaluate an atom or an expression, and print it"),
    "plan": ("eka.commands.plan", "command", "Evaluate to derivations, and print their paths"),
    "config": ("eka.commands.config", "group", "Show the configuration in force"),
    "lock": ("eka.commands.lock", "command", "Pin what a script uses in FILE.lock, or check it"),
    "build": ("eka.commands.build", "command", "Build derivations, each in a bundle of its own"),
    "explain": ("eka.commands.explain", "command", "Say what a run may see, and who asked for it"),
    "bundle": ("eka.commands.bundle", "group", "Create, run, check and compare OCI bundles"),
    "export": (
        "eka.commands.export",
        "command",
        "Write an image, root file system or bundle for others",
    ),
    "store": ("eka.commands.store", "group", "Add, import, look into and check the store"),
    "daemon": ("eka.commands.daemon", "command", "Serve the store to Nix, in its own protocol"),
    "nix": ("eka.commands.nix", "command", "Run any of Nix's commands over the store"),
    "log": ("eka.commands.log", "command", "Show the log of a build, or what ran"),
    "atom": ("eka.commands.atom", "atom", "Compute ids of atoms"),
    "uri": ("eka.commands.atom", "uri", "Look at atom URIs"),
    "manifest": ("eka.commands.atom", "manifest", "Check atom.toml and ekala.toml"),
    "lock-file": ("eka.commands.atom", "lock_file", "Check atom.lock"),
    "doctor": ("eka.commands.doctor", "command", "Probe this host and say what would improve it"),
    "bench": ("eka.commands.bench", "command", "Measure eka against its peers on this host"),
    "completion": ("eka.commands.completion", "command", "Print the completion script of a shell"),
}


class Eka(LazyGroup):
    """The command itself, where errors of all its sub-commands end."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            # click's main would make status 1 of it, even where it is not to exit by itself.
            raise ReaderGone from error

    def main(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Exits with the command's status; click's own reports are shown in eka's form."""
        context = kwargs.setdefault("obj", Context())
        kwargs["standalone_mode"] = False

        def command() -> object:
            return super(Eka, self).main(*args, **kwargs)

        sys.exit(run_guarded(context.output, lambda: in_terms_of_eka(command)))


class ReaderGone(Exception):
    """A BrokenPipeError on its way past click."""


def in_terms_of_eka(action: Callable[[], object]) -> object:
    """Lets click's own exceptions be reported like all others."""
    try:
        return action()
    except ReaderGone:
        raise BrokenPipeError from None
    except click.exceptions.Abort:
        raise KeyboardInterrupt from None
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return 2
    except click.ClickException as error:
        where = error.ctx if isinstance(error, click.UsageError) else None
        hint = f"see `{where.command_path} --help`" if where else None
        raise UsageError(error.format_message().rstrip("."), hint=hint) from None


@click.group(
    cls=Eka,
    table=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="eka", message="%(prog)s %(version)s")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Run, build and evaluate Nix-store software with no root, no Nix and no /nix/store."""
    ctx.ensure_object(Context)


with_common_options(cli)


def main() -> NoReturn:
    if not {"_EKA_COMPLETE", "_EKA_RUN_COMPLETE"}.isdisjoint(os.environ):
        from eka.commands import completion

        completion.register()
        if instruction := os.environ.get(completion.EKA_RUN):
            sys.exit(completion.answer_for_eka_run(instruction))
    cli.main(prog_name="eka")
