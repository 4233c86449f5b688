"""`eka store add-image`: the files of an image, as a store path."""

from __future__ import annotations

from pathlib import Path

import click

from eka.completing import files
from eka.context import Context


@click.command("add-image")
@click.argument("image", type=click.Path(path_type=Path), shell_complete=files)
@click.option("--name", metavar="NAME", help="Name of the store path, if not the file's own.")
@click.option("--platform", metavar="OS/ARCH", help="Which image of several; default: this host's.")
@click.pass_obj
def add_image(context: Context, image: Path, name: str | None, platform: str | None) -> None:
    """Add what is in IMAGE, an OCI layout or an archive of `podman save` or `docker save`.

    The path is that of the files: a store keeps neither owners, nor devices, nor modes beside the
    owner's execute bit.
    """
    from eka_runtime.oci.image_add import add_image as add
    from eka_runtime.oci.image_platform import parse_platform

    wanted = parse_platform(platform) if platform else None
    own = name or image.absolute().name.removesuffix(".tar") or "image"
    with context.open_store() as store, context.output.progress("layers") as update:
        info, unpacked = add(store, image, own, wanted, update)
    if unpacked.dropped:
        context.output.warning(f"{unpacked.dropped} devices and sockets were left out")
    if context.json:
        context.output.json({"path": str(info.path), "files": unpacked.files})
    else:
        context.output.data(str(info.path))
