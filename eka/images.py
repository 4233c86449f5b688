"""An export as an image: names, labels, the layers of a plan.

Labels say what the image is of (`dev.eka.*`, and the image-spec's own), so that who runs it knows
what the program may want of his machine, and can find the same closure again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from eka.exporting import Export
from eka_runtime.errors import UsageError
from eka_runtime.nix.path import StorePath
from eka_runtime.oci.image import ImageSpec
from eka_runtime.oci.image_layers import plan_layers
from eka_runtime.oci.image_root import RootUser, image_rootfs
from eka_runtime.oci.profile import load_profile
from eka_runtime.oci.record import blake3_text
from eka_runtime.store.pathinfo import PathInfo

_DOMAIN = (
    r"(?:localhost|[A-Za-z0-9][A-Za-z0-9.-]*(?:\.[A-Za-z0-9-]+)+|\[[0-9a-fA-F:]+\])(?::[0-9]+)?"
)
_HOST = rf"(?:{_DOMAIN}|[A-Za-z0-9][A-Za-z0-9-]*:[0-9]+)"
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REFERENCE = re.compile(
    rf"(?:(?P<host>{_HOST})/)?(?P<repository>{_PART}(?:/{_PART})*)(?::(?P<tag>[\w][\w.-]{{0,127}}))?",
    re.ASCII,
)


class Reference(NamedTuple):
    """`host` may have a port; `repository` has slashes."""

    host: str
    repository: str
    tag: str

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Of `[HOST/]REPOSITORY[:TAG]`; without a host it is `localhost`. Raises UsageError."""
        match = _REFERENCE.fullmatch(text)
        if match is None:
            raise UsageError(
                f"`{text}` is not a name for an image",
                hint="use lower-case `NAME[:TAG]`, or `HOST[:PORT]/NAME[:TAG]`",
            )
        return cls(match["host"] or "localhost", match["repository"], match["tag"] or "latest")

    def __str__(self) -> str:
        return f"{self.host}/{self.repository}:{self.tag}"


def reference_for(export: Export, text: str | None) -> Reference:
    """The name that was asked for, or one made of the target's own."""
    return Reference.parse(text or f"localhost/{export.name}:{export.version}")


def image_of(
    export: Export,
    user: RootUser,
    labels: Mapping[str, str],
    maximum: int,
    beside: Sequence[Mapping[StorePath, PathInfo]] = (),
) -> ImageSpec:
    """`beside` are closures to share layers with. Raises as `plan_layers`."""
    profile = load_profile("run")
    env = {"LANG": "C.UTF-8", "PATH": export.path, **dict(export.env)}
    return ImageSpec(
        infos=export.infos,
        layers=tuple(plan_layers(export.infos, maximum, beside)),
        entrypoint=export.words,
        arguments=export.arguments,
        env=tuple(f"{name}={value}" for name, value in sorted(env.items())),
        labels={**labels_of(export), **labels},
        platform=export.platform,
        rootfs=image_rootfs(profile, export.shell, user),
        files=(export.file,) if export.file else (),
        user=f"{user.uid}:{user.gid}" if user.uid or user.gid else "",
    )


def labels_of(export: Export) -> dict[str, str]:
    bases = sorted(path.base for path in export.infos)
    found = {
        "dev.eka.closure": blake3_text("".join(f"{base}\n" for base in bases).encode()),
        "org.opencontainers.image.title": export.name,
        **{f"dev.eka.{key}": " ".join(values) for key, values in export.asked.items()},
        **export.identity,
    }
    if export.packages:
        found["dev.eka.packages"] = " ".join(map(str, export.packages))
    if export.version != "latest":
        found["org.opencontainers.image.version"] = export.version
    return found
