"""`eka export`: a target for podman, docker, Kubernetes, or a host that has nothing of the kind."""

from __future__ import annotations

import click

from eka.commands.configured import Configured, config_options
from eka.commands.grants import Asked, grant_options
from eka.completing import packages
from eka.context import Context

FORMATS = ("oci-archive", "oci-dir", "docker-archive", "rootfs", "bundle", "single-file")


@click.command(context_settings={"allow_interspersed_args": True})
@click.option("-o", "--output", metavar="OUT", help="File or directory to make; `-` is stdout.")
@click.option("--format", "form", type=click.Choice(FORMATS), default=FORMATS[0], show_default=True)
@click.option("--tag", metavar="NAME", help="Name of the image, `[HOST/]REPOSITORY[:TAG]`.")
@click.option(
    "--compression",
    type=click.Choice(("none", "gzip", "zstd")),
    help="Of layers; default none, so that digests are the same everywhere.",
)
@click.option("--max-layers", type=int, metavar="N", help="At most so many layers of store paths.")
@click.option(
    "--share-with",
    multiple=True,
    metavar="TARGET",
    shell_complete=packages,
    help="Plan layers together with another target's, to share all they have in common.",
)
@click.option("--plan", is_flag=True, help="Show the layers, and write nothing.")
@click.option("--user", default="0:0", metavar="UID[:GID]", help="Who runs it; default root.")
@click.option("--label", multiple=True, metavar="NAME=V", help="Add a label.")
@click.option(
    "--platform",
    multiple=True,
    metavar="P[=TARGET]",
    help="Say what it is for (default: as its programs); with TARGET, add it for that platform.",
)
@click.option("--push", is_flag=True, help="Send it to the registry that --tag names.")
@click.option("--plain-http", is_flag=True, help="The registry has no https.")
@click.option("--attach", is_flag=True, help="Send SBOM and provenance along, as referrers.")
@click.option("--sbom", metavar="FILE", help="Write what is in the image, as SPDX JSON.")
@click.option("--provenance", metavar="FILE", help="Write where it comes from, as SLSA provenance.")
@click.option("--no-shell", is_flag=True, help="No /bin/sh of this host's.")
@click.argument("target", shell_complete=packages)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[ARG]…")
@grant_options
@config_options
@click.pass_obj
def command(
    context: Context,
    asked: Asked,
    configured: Configured,
    output: str | None,
    form: str,
    tag: str | None,
    compression: str | None,
    max_layers: int | None,
    share_with: tuple[str, ...],
    plan: bool,
    user: str,
    label: tuple[str, ...],
    platform: tuple[str, ...],
    push: bool,
    plain_http: bool,
    attach: bool,
    sbom: str | None,
    provenance: str | None,
    no_shell: bool,
    target: str,
    arguments: tuple[str, ...],
) -> None:
    """Write TARGET with all it needs as an image, a root file system, a bundle or a single file.

    `podman run oci-archive:OUT`, `podman load -i OUT`, `docker load -i OUT` (of a
    docker-archive) or `podman run --rootfs OUT` start it without eka. ARGs are its default
    arguments.
    """
    from eka.export_session import Request
    from eka.exported import export

    request = Request(
        target=target,
        arguments=arguments,
        flags=asked.flags(),
        choices=configured.choices() if configured.stated else None,
        output=output,
        form=form,
        tag=tag,
        compression=compression,
        max_layers=max_layers,
        share_with=share_with,
        user=user,
        labels=label,
        platforms=platform,
        shell=not no_shell,
        push=push,
        plain_http=plain_http,
        attach=attach,
        sbom=sbom,
        provenance=provenance,
    )
    export(context, request, plan=plan)
