"""`eka eval`: evaluates an atom or an expression in its sandbox, and prints the value."""

from __future__ import annotations

import json
import sys

import click

from eka.commands.configured import Configured, config_options
from eka.completing import files
from eka.context import Context


@click.command()
@click.argument("target", default=".", shell_complete=files)
@click.option("--attr", "-A", metavar="A", help="An attribute of the value, such as `a.b`.")
@click.option("--raw", is_flag=True, help="Print a string as it is, without quotes.")
@config_options
@click.pass_obj
def command(
    context: Context, configured: Configured, target: str, attr: str | None, raw: bool
) -> None:
    """Print the value of TARGET: an atom's directory, a .nix file, or either with `#attribute`.

    It is printed as JSON; with --json on one line. Evaluation sees TARGET and what its lock names,
    and neither files of yours nor the network.
    """
    from eka.commands.evaluating import evaluating, record_value, split_target
    from eka.evaluate.cache import mentioned
    from eka_runtime.errors import UsageError

    if raw and context.json:
        raise UsageError("`--raw` and `--json` exclude each other")
    where = split_target(target, attr)
    with evaluating(context, where, configured) as evaluation:
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
