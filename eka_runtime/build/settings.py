"""What a person decides about builds, beside what is built. Names are those of nix.conf."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from eka_runtime.oci.bundle import ShellSource

_MACHINES = {"i386": "i686", "i586": "i686", "armv7": "armv7l", "arm64": "aarch64"}
_ALSO = {"x86_64-linux": ("i686-linux",)}
MAX_LOG = 1 << 30


class Abilities(NamedTuple):
    """What a builder declares that it can build: systems, and system features."""

    systems: tuple[str, ...]
    features: tuple[str, ...]

    def suffice(self, system: str, features: Collection[str]) -> bool:
        """For a derivation of `system` that requires `features`."""
        return system in (*self.systems, "builtin") and set(features) <= set(self.features)


class BuildSettings(NamedTuple):
    """`max_jobs`: builds at the same time; `cores`: what NIX_BUILD_CORES says, 0 for all.

    Times are seconds and `max_log_size` bytes, 0 for any. `environ` is what a fixed output may
    take its `impureEnvVars` from.
    """

    shell: ShellSource | None
    max_jobs: int = 1
    cores: int = 0
    timeout: float = 0
    max_silent_time: float = 0
    max_log_size: int = MAX_LOG
    keep_failed: bool = False
    keep_going: bool = False
    check: bool = False
    no_chroot: bool = False
    nesting: bool = False
    offline: bool = False
    systems: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()
    environ: Mapping[str, str] = {}

    @property
    def abilities(self) -> Abilities:
        return Abilities(self.systems, self.features)


def this_system() -> str:
    """As in derivations: `x86_64-linux`."""
    machine = os.uname().machine
    return f"{_MACHINES.get(machine, machine)}-linux"


def own_systems() -> tuple[str, ...]:
    """Those that this machine executes, the first its own."""
    own = this_system()
    return (own, *_ALSO.get(own, ()))


def own_features() -> tuple[str, ...]:
    """Nix's defaults; `kvm` where this user may use it."""
    kvm = ("kvm",) if os.access("/dev/kvm", os.R_OK | os.W_OK) else ()
    return ("benchmark", "big-parallel", *kvm, "nixos-test")


def job_count() -> int:
    return len(os.sched_getaffinity(0))
