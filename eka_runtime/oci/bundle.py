"""Compiles a profile, grants, a store view and a process into one OCI bundle.

    BUNDLE/config.json   the OCI runtime spec, canonical JSON
    BUNDLE/rootfs/       mount points, /bin/sh, /usr/bin/env, a few files in /etc
    BUNDLE/eka.json      what config.json cannot say: digest, reasons, variables to pass (record.py)

Constraint: `compile_bundle` is pure. It looks at nothing but its request, so equal requests give
equal bytes; whatever depends on the host (which files exist, which shell) comes in as data.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, NamedTuple, cast

from eka_runtime.castore.removal import remove_tree
from eka_runtime.errors import EkaError, SpecError, UsageError
from eka_runtime.oci import limits
from eka_runtime.oci.environment import compile_environment, expand, passed_variables
from eka_runtime.oci.explain import Reason, arrange
from eka_runtime.oci.grants import Grant, Grants, within
from eka_runtime.oci.mounts import PlannedMount, home_mode, inner_home, plan_mounts
from eka_runtime.oci.profile import Passed, Profile
from eka_runtime.oci.record import RECORD, blake3_text, bundle_digest, make_record
from eka_runtime.oci.rootfs import Rootfs, RootfsEntry, holds_entries, write_entries
from eka_runtime.oci.seccomp import compile_filter, filter_reasons
from eka_runtime.oci.spec import Capabilities, Rlimit, Root, Spec, User
from eka_runtime.oci.spec import Process as SpecProcess
from eka_runtime.oci.spec_linux import IDMapping, Linux, Namespace, NamespaceType

if TYPE_CHECKING:
    from eka_runtime.nix.path import StorePath
    from eka_runtime.view.plan import ViewPlan

NETWORK_ANNOTATION = "dev.eka.network"
"""off, loopback or host. Runtimes bring a new loopback up; the launcher knows how not to."""

NESTING_ANNOTATION = "dev.eka.nesting"
"""There, and "granted", where the program makes containers of its own."""

OCI_VERSION = "1.0.2"
"""What runc 1.1 and crun 1.8 announce; nothing newer is needed."""


class Caller(NamedTuple):
    """Who runs the program: he stays himself inside, with a home of his own."""

    uid: int
    gid: int
    user: str
    group: str
    home: str


class Process(NamedTuple):
    """`env` wins over the profile's defaults; `umask` None leaves the runtime's 0022."""

    args: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    cwd: str
    terminal: bool
    umask: int | None = None


class ShellSource(NamedTuple):
    """A store path inside the view, or a static program of the host and its digest if known."""

    kind: Literal["store", "host"]
    path: str
    digest: str = ""


def host_program(path: str) -> ShellSource:
    """A program of the host with its digest, so that a bundle changes when the program does."""
    return ShellSource("host", path, blake3_text(Path(path).read_bytes()))


class ShellFiles(NamedTuple):
    """What stands at /bin/sh and /usr/bin/env; None for nothing."""

    sh: ShellSource | None
    env: ShellSource | None


class Base(NamedTuple):
    """A store path whose tree is shown around the bundle's own files.

    `children` gives the names in a directory of it, of an absolute path inside; none for what is
    not there, or no directory.
    """

    path: str
    children: Callable[[str], Iterable[str]]


class BundleRequest(NamedTuple):
    """`host_files`: which of `profile.host_paths()` exist. `packages`: store path -> who asked.

    `root_inside` makes the program uid 0 of its user namespace. runc needs that unless the caller
    is root: it cannot set up a namespace that has no uid 0. Else `inside` are the ids that the
    program sees, by default the caller's own. `scratch` are directories below the view, which may
    be at /nix/store itself: there, the view's own mounts lie above it.
    """

    profile: Profile
    view: ViewPlan
    closure: tuple[StorePath, ...]
    process: Process
    grants: Grants
    caller: Caller
    shell: ShellFiles
    host_files: tuple[str, ...] = ()
    annotations: Mapping[str, str] = MappingProxyType({})
    packages: Mapping[str, str] = MappingProxyType({})
    root_inside: bool = False
    inside: tuple[int, int] | None = None
    scratch: tuple[Grant, ...] = ()
    base: Base | None = None


class Bundle(NamedTuple):
    """`rootfs` has parents before children; `passed` are variables the launcher adds."""

    spec: Spec
    rootfs: tuple[RootfsEntry, ...]
    reasons: tuple[Reason, ...]
    passed: tuple[Passed, ...]

    def digest(self) -> str:
        """BLAKE3 of what runs: config.json and the list of the rootfs. Reasons do not count."""
        return bundle_digest(self.spec.to_json(), self.rootfs)


def compile_bundle(request: BundleRequest) -> Bundle:
    """The order of the request's collections does not matter. Raises SpecError for conflicts."""
    profile, grants, caller = request.profile, request.grants, request.caller
    _check_caller(caller)
    home = inner_home(home_mode(profile, grants)[0], caller.home)
    uid, gid = (0, 0) if request.root_inside else request.inside or (caller.uid, caller.gid)
    values = {
        "gid": str(gid),
        "group": caller.group,
        "home": home,
        "hostname": profile.hostname or "localhost",
        "uid": str(uid),
        "user": caller.user,
    }
    network = _shared_network(profile, grants)
    planned = plan_mounts(
        profile,
        request.view,
        grants,
        home,
        request.host_files,
        request.packages,
        network,
        request.scratch,
    )
    rootfs, reasons = _rootfs(request, planned, values)
    env, env_reasons = compile_environment(profile, request.process.env, grants, values)
    cwd, cwd_reason = _working_directory(request.process.cwd, rootfs, planned)
    reasons += [mount.reason for mount in planned]
    reasons += env_reasons
    reasons += _isolation_reasons(profile, grants, network, _capabilities(profile, grants, uid))
    reasons += [cwd_reason, *_identity_reasons(request, uid)]
    asked = limits.effective(profile.limits, grants.limits)
    reasons += limits.reasons(asked)
    filter_ = compile_filter(profile, grants)
    reasons += filter_reasons(profile, grants)
    mappings = [(uid, caller.uid), (gid, caller.gid)]
    spec = Spec(
        ociVersion=OCI_VERSION,
        root=Root(path="rootfs", readonly=True),
        process=_process(request, env, cwd, uid, gid),
        mounts=tuple(mount.mount for mount in planned),
        linux=_linux(profile, mappings, network).replace(
            seccomp=filter_, resources=limits.resources(asked)
        ),
        annotations={
            **_annotations(request, _network_mode(grants, network)),
            **limits.time_annotation(asked),
        },
    ).replace(hostname=profile.hostname)
    return Bundle(spec, rootfs.entries(), arrange(reasons), passed_variables(profile, grants))


def _check_caller(caller: Caller) -> None:
    for key, value in (("user", caller.user), ("group", caller.group), ("home", caller.home)):
        if not value or re.search(r"[:\0-\x1f\x7f]", value):
            raise SpecError(f"the caller's {key} cannot be written to /etc/passwd: {value!r}")


def _shared_network(profile: Profile, grants: Grants) -> str | None:
    """Who asked for the host's network; None when the bundle has one of its own."""
    if grants.network is not None:
        return grants.network
    return None if "network" in profile.namespaces else profile.origin("namespaces")


def _process(
    request: BundleRequest, env: tuple[str, ...], cwd: str, uid: int, gid: int
) -> SpecProcess:
    profile, process, grants = request.profile, request.process, request.grants
    sets = ("bounding", "effective", "inheritable", "permitted", "ambient")
    asked = limits.rlimits(limits.effective(profile.limits, grants.limits))
    kinds = {one.type for one in asked}
    asked += [
        Rlimit(type=one.type, soft=one.soft, hard=one.hard)
        for one in profile.rlimits
        if one.type not in kinds
    ]
    return SpecProcess(
        args=process.args,
        cwd=cwd,
        env=env,
        terminal=process.terminal,
        user=User(uid=uid, gid=gid).replace(umask=process.umask),
        capabilities=Capabilities(**dict.fromkeys(sets, _capabilities(profile, grants, uid))),
        noNewPrivileges=profile.no_new_privileges,
    ).replace(rlimits=tuple(asked) or None)


def _capabilities(profile: Profile, grants: Grants, uid: int) -> tuple[str, ...]:
    # user_namespaces(7): without it, nobody may map user 0 into a namespace that he makes.
    needed = {"CAP_SETFCAP"} if grants.nesting is not None and uid == 0 else set()
    return tuple(sorted(needed | set(profile.capabilities)))


def _linux(profile: Profile, mappings: list[tuple[int, int]], network: str | None) -> Linux:
    # A single id each: every user may write this map without help, and for root it means that files
    # of other users are out of his reach, as are the privileges that being root would give.
    uids, gids = ((IDMapping(containerID=a, hostID=b, size=1),) for a, b in mappings)
    kinds = [kind for kind in sorted(profile.namespaces) if kind != "network" or not network]
    return Linux(
        namespaces=tuple(Namespace(type=cast("NamespaceType", kind)) for kind in kinds),
        uidMappings=uids,
        gidMappings=gids,
        maskedPaths=profile.masked_paths,
        readonlyPaths=profile.readonly_paths,
    )


def _network_mode(grants: Grants, shared: str | None) -> str:
    return "host" if shared else "loopback" if grants.loopback else "off"


def _annotations(request: BundleRequest, network: str) -> dict[str, str]:
    bases = sorted(path.base for path in request.closure)
    own = {
        "dev.eka.closure": blake3_text("".join(f"{base}\n" for base in bases).encode()),
        NETWORK_ANNOTATION: network,
        "dev.eka.profile": request.profile.name,
        "dev.eka.view": request.view.strategy,
    }
    if request.grants.nesting is not None:
        own[NESTING_ANNOTATION] = "granted"
    if request.shell.sh is not None:
        sh = request.shell.sh
        # A host's program is known by its contents: where it lies differs from host to host.
        place = sh.path if sh.kind == "store" else os.path.basename(sh.path)
        own["dev.eka.shell"] = f"{sh.kind}:{place}{f'#{sh.digest}' if sh.digest else ''}"
    return {**request.annotations, **own}


def _rootfs(
    request: BundleRequest, planned: list[PlannedMount], values: Mapping[str, str]
) -> tuple[Rootfs, list[Reason]]:
    rootfs, reasons = Rootfs(), []
    for path in ("/bin", "/dev", "/etc", "/nix/store", "/proc", "/tmp"):
        rootfs.directory(path)
    if not request.scratch:
        # A build looks into its root, and finds what it finds in Nix's.
        rootfs.directory("/usr/bin")
    for file in request.profile.files:
        text = expand(file.text, values)
        rootfs.file(file.name, _first_of_each(text) if file.name in _ACCOUNTS else text)
        reasons.append(Reason("file", file.name, file.origin, f"{len(text)} characters"))
    for link in request.view.links:
        rootfs.symlink(link.destination, link.target)
        origin = request.packages.get(link.destination, "closure")
        reasons.append(Reason("file", link.destination, origin, f"link to {link.target}"))
    for path, source in (("/bin/sh", request.shell.sh), ("/usr/bin/env", request.shell.env)):
        if source is not None:
            reasons.append(_place_shell(rootfs, path, source))
    above: list[PlannedMount] = []
    for mount in planned:
        # Inside another mount the mount point is there already, or the runtime makes it there.
        if not any(within(mount.destination, other.destination) for other in above):
            rootfs.mount_point(mount.destination, mount.directory, mount.mode)
            above.append(mount)
    if request.base is not None:
        reasons.append(_place_base(rootfs, request.base, request.profile.origin("base")))
    return rootfs, reasons


# What the kernel or eka puts there is not of any image.
_NOT_OF_BASE = ("/dev", "/nix", "/proc", "/run", "/sys", "/tmp")


def _place_base(rootfs: Rootfs, base: Base, origin: str) -> Reason:
    """Links into the base, for all that the bundle has not itself."""
    count = 0
    for directory in rootfs.directories():
        if any(within(directory, other) for other in _NOT_OF_BASE):
            continue
        for name in sorted(base.children(directory)):
            place = f"{directory.rstrip('/')}/{name}"
            if place not in _NOT_OF_BASE and not rootfs.has(place):
                rootfs.symlink(place, f"{base.path}{place}")
                count += 1
    return Reason("file", "/", origin, f"{count} links to {base.path}")


_ACCOUNTS = ("/etc/passwd", "/etc/group")


def _first_of_each(text: str) -> str:
    """Drops later lines for the same name: the caller may himself be root or nobody."""
    lines: dict[str, str] = {}
    for line in text.splitlines(keepends=True):
        lines.setdefault(line.partition(":")[0], line)
    return "".join(lines.values())


def _place_shell(rootfs: Rootfs, path: str, source: ShellSource) -> Reason:
    if source.kind == "store":
        rootfs.symlink(path, source.path)
        return Reason("file", path, "packages", f"link to {source.path}")
    rootfs.host_file(path, source.path, source.digest)
    return Reason("file", path, "default", f"static program of the host, {source.path}")


def _working_directory(
    cwd: str, rootfs: Rootfs, planned: Iterable[PlannedMount]
) -> tuple[str, Reason]:
    for mount in planned:
        inside = within(cwd, mount.destination) and mount.directory and _is_bind(mount)
        if inside or within(mount.destination, cwd):
            return cwd, Reason("process", "cwd", "caller", cwd)
    if rootfs.has_directory(cwd):
        return cwd, Reason("process", "cwd", "caller", cwd)
    return "/", Reason("process", "cwd", "default", f"/, because {cwd} is not in the bundle")


def _is_bind(mount: PlannedMount) -> bool:
    return mount.mount.type == "bind"


_NAMESPACES = {
    "cgroup": "sees itself as the root of the control groups",
    "ipc": "shared memory and message queues of its own",
    "mount": "sees the mounts listed here and no others",
    "pid": "sees and signals its own processes only",
    "time": "clocks of its own",
    "user": "only the caller's own user and group exist",
    "uts": "a host name of its own",
}


def _isolation_reasons(
    profile: Profile, grants: Grants, network: str | None, capabilities: tuple[str, ...]
) -> list[Reason]:
    origin = profile.origin("namespaces")
    reasons = [
        Reason("namespace", kind, origin, _NAMESPACES[kind])
        for kind in profile.namespaces
        if kind != "network"
    ]
    if network is None:
        alone = "a loopback of its own and no other interface"
        reason = Reason("namespace", "network", origin, "one of its own, without any interface up")
        if grants.loopback is not None:
            reason = Reason("namespace", "network", grants.loopback, alone)
        reasons.append(reason)
    else:
        shared = "shared with the host, with its loopback and abstract sockets"
        reasons.append(Reason("namespace", "network", network, shared))
    granted = ", ".join(capabilities) or "none"
    reasons.append(Reason("capabilities", "all sets", profile.origin("capabilities"), granted))
    for key, detail in (("masked_paths", "hidden"), ("readonly_paths", "read-only")):
        paths: tuple[str, ...] = getattr(profile, key)
        reasons += [Reason("mask", path, profile.origin(key), detail) for path in paths]
    for limit in profile.rlimits:
        reasons.append(Reason("limit", limit.type, limit.origin, f"{limit.soft} to {limit.hard}"))
    return reasons


def _identity_reasons(request: BundleRequest, uid: int) -> list[Reason]:
    profile, caller = request.profile, request.caller
    who = f"{caller.user}, uid {uid}" + (" inside" if uid != caller.uid else "")
    no_new = "cannot gain any" if profile.no_new_privileges else "may gain some by set-uid programs"
    reasons = [
        Reason("process", "args", "caller", " ".join(request.process.args)),
        Reason("process", "user", "caller", who),
        Reason("process", "privileges", profile.origin("no_new_privileges"), no_new),
    ]
    if profile.hostname:
        reasons.append(Reason("process", "hostname", profile.origin("hostname"), profile.hostname))
    return reasons


def write_bundle(bundle: Bundle, dest: Path) -> None:
    """Makes the directory `dest`, whole or not at all; an empty one may be there already.

    Not flushed to disk: a bundle can be compiled again, where `is_whole` says so. Raises UsageError
    if `dest` is taken.
    """
    taken = UsageError(
        f"`{dest}` is there already and not an empty directory",
        hint="give the bundle a new directory, or remove the old one first",
    )
    try:
        if os.path.lexists(dest) and not (dest.is_dir() and not any(dest.iterdir())):
            raise taken
        fresh = dest.absolute().with_name(f".bundle-{os.urandom(8).hex()}")
        try:
            _fill(bundle, fresh)
            # rename(2) replaces an empty directory, and nothing else.
            os.rename(fresh, dest)
        finally:
            remove_tree(fresh)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise taken from error
        raise EkaError(f"cannot write the bundle `{dest}`: {error.strerror}") from error


def is_whole(bundle: Bundle, dest: Path) -> bool:
    """Whether all of the bundle is at `dest`; a loss of power may have left less, or less in it.

    Raises OSError.
    """
    try:
        whole = (dest / "config.json").stat().st_size > 0
    except (FileNotFoundError, NotADirectoryError):
        return False
    return whole and holds_entries(dest / "rootfs", bundle.rootfs)


def _fill(bundle: Bundle, fresh: Path) -> None:
    for directory in (fresh, fresh / "rootfs"):
        directory.mkdir()
        directory.chmod(0o755)
    write_entries(fresh / "rootfs", bundle.rootfs)
    config = bundle.spec.to_json()
    digest = bundle_digest(config, bundle.rootfs)
    record = make_record(digest, bundle.rootfs, bundle.reasons, bundle.passed)
    (fresh / RECORD).write_bytes(record.to_json())
    (fresh / "config.json").write_bytes(config)
