"""From what a person asked to a bundle that can be started: packages, program, grants, closure.

Used alike by `eka-run`, `eka run`, `eka shell`, `eka explain` and `eka bundle create`.
Deterministic: the same request on the same store and host compiles to the same bundle. Nothing is
executed here.
"""

from __future__ import annotations

import grp
import hashlib
import os
import pwd
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from eka import warm
from eka.base import children_of, shell_of_base, with_base
from eka.config import Settings, cache_dir, config_dir, data_dir, state_dir
from eka.fetching import Reach
from eka.packages import links_of, resolve_packages
from eka.program import Programs
from eka.shell import find_shell, require_shell
from eka.version import __version__
from eka.wanted import SH, Wanted
from eka_runtime.errors import CwdError, GrantError, UsageError
from eka_runtime.nix.path import STORE_DIR, StorePath
from eka_runtime.oci.bundle import Base, Bundle, BundleRequest, Caller, Process, compile_bundle
from eka_runtime.oci.grants import Grant, Grants, resolve_grants, within
from eka_runtime.oci.mounts import inner_home
from eka_runtime.oci.profile import load_profile
from eka_runtime.runtime.probe import overlay_obstacle
from eka_runtime.store.pathinfo import PathInfo
from eka_runtime.store.roots import root_for
from eka_runtime.view.choose import show
from eka_runtime.view.plan import ViewPlan

if TYPE_CHECKING:
    from eka.evaluate.installing import Installed

CONTAINED = "contained"
"""What stands for a view where the store paths are part of the rootfs."""


class Prepared(NamedTuple):
    """A compiled bundle, and what it was made from that may change behind its back.

    It is not `lasting` when a later start has to be warned of the same. `promised` are paths of the
    closure that are not valid: this is a lazy start. `caches` have some of them. `said` is as in
    `Wanted`.
    """

    bundle: Bundle
    closure: tuple[StorePath, ...]
    grants: Grants
    view_sources: tuple[str, ...]
    host_files: tuple[str, ...]
    links: tuple[str, ...]
    lasting: bool
    subject: str
    promised: tuple[PathInfo, ...] = ()
    said: int | None = None
    caches: tuple[str, ...] = ()


def prepare(
    wanted: Wanted,
    settings: Settings,
    reach: Reach,
    root_inside: bool,
    *,
    contained: bool = False,
    caller: Caller | None = None,
) -> Prepared:
    """Raises what resolving, finding and granting raise.

    The store gains checkouts, and the packages that it lacked and far services had. A bundle that
    is to be `contained` has the closure in its rootfs, where it is put later, and shows no working
    directory. `caller` is who runs it, if not this user.
    """
    cwd = "/" if contained else working_directory()
    profile = load_profile(wanted.profile)
    wanted = with_base(wanted, profile, reach)
    programs, packages = gather(wanted, reach)
    shell, base = find_shell(programs, settings), None
    if profile.base is not None:
        base = Base(profile.base, partial(children_of, programs, profile.base))
        shell = shell_of_base(programs, profile.base, shell)
    caller = caller or current_caller()
    grants = resolve_grants(
        read=wanted.read,
        write=wanted.write,
        env=wanted.env,
        network=wanted.network,
        loopback=wanted.loopback,
        devices=wanted.devices,
        device_names=profile.devices,
        nesting=wanted.nesting,
        limits=wanted.limits,
        base=Path(cwd),
        home=caller.home,
        cwd=cwd,
        grant_cwd=profile.grant_cwd and not contained,
        script=wanted.script,
        own=[os.fspath(place(os.environ)) for place in (cache_dir, config_dir, state_dir)],
        hidden=[os.fspath(settings.store)],
    )
    grants, kept = _with_home(grants, wanted, caller)
    words = words_of(wanted, programs)
    if words[:1] == (SH,):
        require_shell(shell)
    store = reach.store
    promised = tuple(info for info in programs.closure.values() if info.path in reach.promised)
    lasting = wanted.lasting and not promised and all(one.lasting for one in reach.installed)
    if wanted.lock and not wanted.lock.check(programs.closure.values(), reach):
        lasting = False
    if store.writable:
        closure = (info.path for info in programs.closure.values())
        store.paths.touch(path for path in closure if path not in reach.promised)
        if wanted.lock and programs.closure:
            store.roots.add(root_for(wanted.lock.file, None))
    view = ViewPlan(CONTAINED, (), ())
    if not contained:
        view = _view(wanted, settings, programs, lazy=bool(promised))
    request = BundleRequest(
        profile=profile,
        view=view,
        closure=tuple(info.path for info in programs.closure.values()),
        process=Process(_with_file(words, wanted), search_path(programs), cwd, False, warm.umask()),
        grants=grants,
        caller=caller,
        shell=shell.files,
        host_files=tuple(file for file in profile.host_paths() if os.path.exists(file)),
        annotations={"dev.eka.version": __version__, **artifacts(reach.installed)},
        packages=packages,
        root_inside=root_inside,
        base=base,
    )
    return Prepared(
        _compile(request, wanted, words),
        request.closure,
        grants,
        (*(mount.source for mount in view.mounts), *kept),
        (
            *profile.host_paths(),
            *([shell.host] if shell.host else []),
            *_lock_files(wanted),
            *_evaluated(reach),
            *([wanted.profile] if "/" in wanted.profile else []),
        ),
        tuple(link for ref in wanted.packages for link in links_of(ref)),
        lasting,
        _subject(wanted),
        promised,
        wanted.said,
        tuple(reach.promised_by),
    )


def _view(wanted: Wanted, settings: Settings, programs: Programs, *, lazy: bool) -> ViewPlan:
    if wanted.own_view is not None:
        return wanted.own_view(programs.store)
    strategy = wanted.view or settings.view or "auto"
    if lazy:
        if wanted.view not in (None, "auto", "fuse"):
            raise UsageError(
                f"`--view {wanted.view}` shows only what is there, and `--lazy` starts before",
                hint="leave one of them out",
            )
        strategy = "fuse"
    return show(programs.store, list(programs.closure.values()), strategy, overlay_obstacle)


def _subject(wanted: Wanted) -> str:
    """What is run, in one word, for a person who reads of it later."""
    if wanted.script is not None:
        return os.path.realpath(wanted.script)
    if wanted.main is not None:
        return str(wanted.main.path)
    return wanted.program.words[0] if wanted.program and wanted.program.words else SH


def _lock_files(wanted: Wanted) -> tuple[str, ...]:
    # That there is none is a fact that may change, too.
    return (wanted.statement.lock,) if wanted.statement else ()


def _with_home(grants: Grants, wanted: Wanted, caller: Caller) -> tuple[Grants, tuple[str, ...]]:
    """The grants with the home that was asked for, and the directory that must be there for it.

    A persistent home is made now, private to the caller and named after the script's place.
    """
    if wanted.home is None or wanted.home[0] != "persistent":
        return grants._replace(home=wanted.home), ()
    origin = wanted.home[1]
    if wanted.script is None and wanted.keeper is None:
        raise UsageError(f"a persistent home ({origin}) is a script's", hint="run a script file")
    place = inner_home("private", caller.home)
    if place != caller.home or any(within(place, grant.path) for grant in grants.paths):
        raise GrantError(f"a persistent home ({origin}) cannot be at `{caller.home}` here")
    kept = data_dir(os.environ) / "home" / (wanted.keeper or _home_name(wanted.script))
    try:
        kept.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise GrantError(f"cannot make the home `{kept}` ({origin}): {error.strerror}") from error
    grant = Grant(place, True, origin, os.path.realpath(kept), True)
    return grants._replace(paths=(grant, *grants.paths)), (os.fspath(kept),)


def _home_name(script: Path | None) -> str:
    name = script or Path()
    place = os.fsencode(os.path.realpath(name))
    return f"{name.name}-{hashlib.blake2b(place, digest_size=10).hexdigest()}"


def _compile(request: BundleRequest, wanted: Wanted, words: tuple[str, ...]) -> Bundle:
    bundle = compile_bundle(request)
    process = bundle.spec.process
    if process is None or process.cwd == request.process.cwd:
        return bundle
    # The working directory is not shown, so a relative name of the file would lead nowhere.
    args = _with_file(words, wanted, request.process.cwd)
    return compile_bundle(request._replace(process=request.process._replace(args=args)))


def _with_file(words: tuple[str, ...], wanted: Wanted, base: str = "") -> tuple[str, ...]:
    """The words, then the script as it was typed: what the kernel does for a `#!` line."""
    file = wanted.program.file if wanted.program else None
    if file is None:
        return (*words, *wanted.arguments)
    if not words and "/" not in file:
        file = f"./{file}"
    return (*words, os.path.join(base, file), *wanted.arguments)


def artifacts(installed: Iterable[Installed]) -> dict[str, str]:
    """Which configuration of which atom this is; of several, their artifact ids."""
    found = [one.annotations for one in installed if "dev.eka.artifact" in one.annotations]
    if len(found) < 2:
        return dict(found[0]) if found else {}
    ids = dict.fromkeys(one["dev.eka.artifact"] for one in found)
    return {"dev.eka.artifact": " ".join(ids)}


def _evaluated(reach: Reach) -> tuple[str, ...]:
    """Files and directories of atoms: with them the packages change."""
    return tuple(sorted({place for one in reach.installed for place in one.depends}))


def working_directory() -> str:
    """Raises CwdError when it was deleted or may not be entered."""
    hint = "change to a directory that you can enter, or use `eka -C DIR`"
    try:
        cwd = os.getcwd()
    except OSError as error:
        raise CwdError(
            f"the working directory is not there: {error.strerror}", hint=hint
        ) from error
    if not os.access(cwd, os.X_OK):
        raise CwdError(f"the working directory `{cwd}` is not accessible", hint=hint)
    return cwd


def current_caller() -> Caller:
    """The caller's ids and names; ids without an entry get names made of the number."""
    uid, gid = os.geteuid(), os.getegid()
    try:
        entry = pwd.getpwuid(uid)
        user, home = entry.pw_name, os.environ.get("HOME") or entry.pw_dir
    except KeyError:
        user, home = f"user{uid}", os.environ.get("HOME") or f"/home/user{uid}"
    try:
        group = grp.getgrgid(gid).gr_name
    except KeyError:
        group = f"group{gid}"
    return Caller(uid, gid, user, group, os.path.normpath(home))


def gather(wanted: Wanted, reach: Reach) -> tuple[Programs, dict[str, str]]:
    """The packages with their closure, and who asked for each package."""
    stated = resolve_packages(wanted.packages, reach)
    asked = {str(info.path): ref.origin for info, ref in stated}
    for info in (*wanted.roots, *([wanted.main] if wanted.main else [])):
        asked.setdefault(str(info.path), "target" if info is wanted.main else "found in the file")
    roots = [info for info, _ in stated] + [*wanted.roots]
    roots += [wanted.main] if wanted.main else []
    packages = tuple({info.path: info for info in roots}.values())
    found = reach.closure([info.path for info in packages])
    closure = {path.base: info for path, info in sorted(found.items())}
    return Programs(reach.store, packages, closure), asked


def words_of(wanted: Wanted, programs: Programs) -> tuple[str, ...]:
    if wanted.program is None:
        return (programs.main_program(wanted.main),) if wanted.main else (SH,)
    if not wanted.program.words:
        return ()
    first, *rest = wanted.program.words
    if first == "sh":
        first = programs.find("sh") or SH
    elif not first.startswith("/") or first.startswith(STORE_DIR + "/"):
        first = programs.require(first, wanted.program.asked_by)
    return (first, *rest)


def search_path(programs: Programs) -> tuple[tuple[str, str], ...]:
    # /bin and /usr/bin hold nothing but sh and env; they come last so that packages win.
    return (("PATH", ":".join([*programs.search_path(), "/bin", "/usr/bin"])),)
