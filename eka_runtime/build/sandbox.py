"""The bundle of one build, and its start: profile `build`, or `fetch` for fixed outputs.

    /nix/store    the build's own directory, and above it each input, read-only
    /build, /tmp  directories of its own on disk; files that the derivation asked for are in /build

The builder is uid 1000, gid 100, whoever the caller is (0 and 0 where the runtime is runc and the
caller is not root). Equal derivations give equal bundles but for the places of these directories.
Out of scope: what happens to what is built.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from eka_runtime.build.environment import BUILD_TOP, Start
from eka_runtime.build.settings import BuildSettings
from eka_runtime.build.task import Task
from eka_runtime.build.workshop import Place, Workshop
from eka_runtime.errors import ShellMissing
from eka_runtime.nix.path import STORE_DIR, StorePath
from eka_runtime.oci.bundle import (
    Bundle,
    BundleRequest,
    Caller,
    Process,
    ShellFiles,
    compile_bundle,
    write_bundle,
)
from eka_runtime.oci.grants import Grant, Grants
from eka_runtime.oci.limits import parse_limit
from eka_runtime.oci.profile import Profile, load_profile
from eka_runtime.runtime.exact import through_shell
from eka_runtime.runtime.host import Host
from eka_runtime.runtime.launch import plan
from eka_runtime.runtime.planned import Plan
from eka_runtime.store.pathinfo import PathInfo
from eka_runtime.store.roots import bundle_root
from eka_runtime.store.store import Store
from eka_runtime.view.bind import BindView
from eka_runtime.view.plan import ViewPlan

UID, GID = 1000, 100
_BUILD, _FETCH = "build", "fetch"
_KVM, _KVM_FEATURE = "/dev/kvm", "kvm"
_HOST_OWN = {"build", "dev", "nix", "proc", "sys", "tmp"}


class Sandboxes:
    """Makes the bundles of one scheduler's builds; may be used from several threads."""

    def __init__(
        self, store: Store, workshop: Workshop, host: Host, settings: BuildSettings, state: Path
    ) -> None:
        self._store, self._workshop, self._host = store, workshop, host
        self._settings, self._state = settings, state
        self._profiles = {name: load_profile(name) for name in (_BUILD, _FETCH)}
        self._caller = Caller(host.uid, host.gid, "nixbld", "nixbld", "/")
        self._host_files = _existing(self._profiles.values())

    def lay_out(self, place: Place, start: Start, inputs: Sequence[PathInfo]) -> ViewPlan:
        """Puts the files of a build in its place; returns the view of its inputs."""
        for name, text in start.files.items():
            (place.top / name).write_bytes(text.encode("utf-8", "surrogateescape"))
        view = BindView(self._store).plan(inputs)
        for mount in view.mounts:
            point = place.root / "store" / os.path.basename(mount.destination)
            point.mkdir() if mount.directory else point.touch()
        for link in view.links:
            target = os.fsencode(link.target)
            os.symlink(target, os.fsencode(place.store / os.path.basename(link.destination)))
        return view._replace(links=())

    def compile(self, task: Task, place: Place, start: Start, view: ViewPlan) -> Bundle:
        """Raises ShellMissing where the builder needs /bin/sh and there is none."""
        words, env = _as_text(start)
        shell = self._settings.shell
        if shell is None and words[0] == "/bin/sh":
            raise ShellMissing(
                f"no static shell for /bin/sh was found on this host, and `{task.path}` needs it",
                hint="install a static busybox, or set `EKA_SHELL`",
            )
        return compile_bundle(
            BundleRequest(
                profile=self._profiles[_FETCH if task.reaches_host else _BUILD],
                view=view,
                closure=tuple(info.path for info in task.inputs),
                process=Process(words, env, BUILD_TOP, False, 0o022),
                grants=self._grants(task),
                caller=self._caller,
                shell=ShellFiles(shell, None),
                host_files=self._host_files,
                annotations={"dev.eka.derivation": str(task.path)},
                root_inside=self._host.kind == "runc" and self._host.uid != 0,
                inside=(UID, GID),
                scratch=_scratch(place),
            )
        )

    def plan(self, bundle: Bundle) -> Plan:
        directory = self._workshop.bundle_dir(bundle.rootfs)
        spec = bundle.spec.to_data()
        return plan(spec, directory, self._host, state=self._state, terminal=False)

    def write_kept(self, bundle: Bundle, place: Place, closure: Sequence[StorePath]) -> None:
        """Adds config.json and rootfs/ to a kept place, and a root for what it needs."""
        fresh = place.root / "bundle"
        write_bundle(bundle, fresh)
        for part in fresh.iterdir():
            part.rename(place.root / part.name)
        fresh.rmdir()
        self._store.roots.add(bundle_root(place.root, closure, running=False))

    def _grants(self, task: Task) -> Grants:
        asked = tuple(parse_limit(text, "settings") for text in self._settings.limits)
        paths = _host_directories() if task.no_chroot else ()
        if _KVM_FEATURE in task.attributes.strings("requiredSystemFeatures"):
            grant = Grant(_KVM, True, "requiredSystemFeatures", _KVM, False, device=True)
            paths = (*paths, grant)
        nesting = "settings" if self._settings.nesting else None
        return Grants(paths=paths, limits=asked, loopback="profile build", nesting=nesting)


def _as_text(start: Start) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
    """Words and variables as config.json can hold them."""
    args, env = start.arg_bytes(), start.env_bytes()
    try:
        words, variables = [word.decode() for word in args], [text.decode() for text in env]
    except UnicodeDecodeError:
        words, variables = through_shell(args, env)
    pairs = (text.partition("=") for text in variables)
    return tuple(words), tuple((name, value) for name, _, value in pairs)


def _scratch(place: Place) -> tuple[Grant, ...]:
    return tuple(
        Grant(path, True, "build", os.fspath(source), True)
        for path, source in (
            (STORE_DIR, place.store),
            (BUILD_TOP, place.top),
            ("/tmp", place.tmp),
        )
    )


def _host_directories() -> tuple[Grant, ...]:
    """The host's own directories, read-only, for a derivation that wants no sandbox."""
    return tuple(
        Grant(f"/{name}", False, "__noChroot", os.path.realpath(f"/{name}"), True)
        for name in sorted(os.listdir("/"))
        if name not in _HOST_OWN and os.path.isdir(f"/{name}") and os.access(f"/{name}", os.R_OK)
    )


def _existing(profiles: Iterable[Profile]) -> tuple[str, ...]:
    wanted = {file for profile in profiles for file in profile.host_paths()}
    return tuple(file for file in sorted(wanted) if os.path.exists(file))
