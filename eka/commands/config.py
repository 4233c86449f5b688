"""`eka config show`: the configuration in force, its hash, and where each key is from."""

from __future__ import annotations

import json

import click

from eka.commands.configured import Configured, config_options
from eka.completing import files
from eka.context import Context


@click.group()
def group() -> None:
    """Show the configuration that an evaluation gets."""


@group.command()
@click.argument("target", default=".", shell_complete=files)
@config_options
@click.pass_obj
def show(context: Context, configured: Configured, target: str) -> None:
    """Show the configuration of TARGET: each key with its value and who set it.

    With --json: the canonical JSON, its hash, the artifact id, and the origins.
    """
    from eka.evaluate.canonical import canonical_json
    from eka.evaluate.evaluation import configuration, parse_target
    from eka.output import table

    where = parse_target(target)
    config, artifact = configuration(where, configured.choices())
    leaves = config.leaves()
    if context.json:
        origins = {name: origin for name, _, origin in leaves}
        context.output.json(
            {
                "config": config.values,
                "canonical": canonical_json(config.values).decode("utf-8"),
                "configHash": config.hash(),
                "artifactId": artifact,
                "origins": origins,
            }
        )
        return
    rows = [(name, json.dumps(value, ensure_ascii=False), who) for name, value, who in leaves]
    for line in table(rows, ("KEY", "VALUE", "FROM")):
        context.output.data(line)
    context.output.data("")
    context.output.data(f"canonical    {canonical_json(config.values).decode('utf-8')}")
    context.output.data(f"config hash  {config.hash()}")
    if artifact:
        context.output.data(f"artifact id  {artifact}")
