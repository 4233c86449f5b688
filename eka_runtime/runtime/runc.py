"""runc: where crun is missing. What it cannot do as bundles want it is done differently, here.

Lost with it: the caller's own id inside (it insists on a user 0, so the program sees itself as root
of its bundle), and 10 to 20 ms.
"""

from __future__ import annotations

from eka_runtime.runtime.kind import Config, Kind, namespace_types


def adapt(config: Config) -> None:
    _map_user_zero(config)
    if "network" not in namespace_types(config):
        _bind_sysfs(config)


def _map_user_zero(config: Config) -> None:
    """runc refuses a user namespace that has no 0; with a single id, that id must be it."""
    linux, user = config["linux"], config["process"]["user"]
    for mappings, key in (("uidMappings", "uid"), ("gidMappings", "gid")):
        entries = linux.get(mappings, [])
        if len(entries) == 1 and entries[0]["containerID"] != 0 and entries[0]["size"] == 1:
            entries[0]["containerID"] = 0
            user[key] = 0


def _bind_sysfs(config: Config) -> None:
    """A new sysfs needs a network namespace of one's own; crun falls back by itself."""
    for mount in config.get("mounts", []):
        if mount.get("type") == "sysfs":
            options = [o for o in mount.get("options", []) if o not in ("ro", "rw")]
            mount |= {"type": "bind", "source": "/sys", "options": [*options, "rbind", "rro"]}


RUNC = Kind(
    name="runc",
    options=("--root={state}",),
    adapt=adapt,
    clones_itself=False,
    raises_nofile=True,
    takes_bpf=False,
    threads=32,
    makes_cgroups=True,
    hands_over_terminals=False,
)
