"""One derivation that is to be built, with everything about it resolved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from eka_runtime.build.attributes import Attributes
from eka_runtime.build.settings import BuildSettings
from eka_runtime.errors import BuildRefused
from eka_runtime.nix.derivation import Derivation
from eka_runtime.nix.path import StorePath, scratch_path
from eka_runtime.store.pathinfo import PathInfo

BUILTIN = "builtin:"


class Task(NamedTuple):
    """`inputs` is the closure of what the builder may see, `outputs` where it writes.

    With `check`, outputs are compared with what is valid instead of becoming so.
    """

    path: StorePath
    drv: Derivation
    attributes: Attributes
    inputs: tuple[PathInfo, ...]
    outputs: Mapping[str, StorePath]
    check: bool = False

    @property
    def network(self) -> bool:
        return self.drv.fixed is not None or self.drv.impure

    @property
    def no_chroot(self) -> bool:
        return self.attributes.flag("__noChroot")

    @property
    def reaches_host(self) -> bool:
        """Whether its builder has the host's network, and with it processes of the host."""
        return self.network or self.no_chroot


def scratch_outputs(path: StorePath, drv: Derivation) -> dict[str, StorePath]:
    """Where each output is written; `drv` is resolved, so that all but floating ones have paths."""
    return {
        name: output.store_path or scratch_path(path, name, drv.output_name(name))
        for name, output in drv.outputs.items()
    }


def check_buildable(
    path: StorePath, drv: Derivation, attributes: Attributes, settings: BuildSettings
) -> None:
    """Raises BuildRefused for what this machine cannot, or must not, build."""
    wanted = set(attributes.strings("requiredSystemFeatures"))
    if not settings.abilities.suffice(drv.system, wanted):
        features = f" with features {{{', '.join(sorted(wanted))}}}" if wanted else ""
        have = ", ".join(sorted(settings.features))
        raise BuildRefused(
            f"a `{drv.system}`{features} is required to build `{path}`, but I am a"
            f" `{' '.join(settings.systems)}` with features {{{have}}}",
            hint="build it on such a machine, or say that this one can with `--system-features`"
            " or `--extra-platforms`",
        )
    if drv.builder.startswith(BUILTIN) != (drv.system == "builtin"):
        raise BuildRefused(f"`{path}` has the builder `{drv.builder}` on system `{drv.system}`")
    if attributes.flag("__noChroot") and not settings.no_chroot:
        raise BuildRefused(
            f"`{path}` has `__noChroot` set, but nothing is built here without a sandbox",
            hint="`--allow-no-chroot` shows it the host's directories, read-only, and its network",
        )
