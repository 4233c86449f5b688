"""What a run is to be, as asked for: gathered from a script's header, flags, or a target.

Nothing is resolved here but the store paths that a file mentions. Relative grants of a script start
at the script's directory, those of the command line at the working directory; both are made
absolute at once, so that nobody later has to know.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO, NamedTuple

from eka.fetching import Reach
from eka.locked import Heeded, Locked, Statement, heed
from eka.packages import PackageRef
from eka.script.flags import Flags
from eka.script.header import Header, parse_header, read_head
from eka.script.scan import Candidate, describe_offset, resolve, scan
from eka.script.shebang import kernel_shebang
from eka.script.stated import Stated
from eka_runtime.errors import InterpreterNotFound, PathNotFound, UsageError
from eka_runtime.linux.elf import elf_interpreter, is_elf
from eka_runtime.nix.path import STORE_DIR
from eka_runtime.oci.grants import Asked
from eka_runtime.store.pathinfo import PathInfo
from eka_runtime.store.store import Store
from eka_runtime.view.plan import ViewPlan

SH = "/bin/sh"


class Program(NamedTuple):
    """`words[0]` is looked up in the packages' bin/ unless it is absolute; `file` follows them."""

    words: tuple[str, ...]
    asked_by: str
    file: str | None = None  # as typed


class Wanted(NamedTuple):
    """`roots` are store paths that the file or the target gave; `main` starts its own program.

    `statement` is what a lock of the script depends on, `lock` the current one, and `lasting` is
    false for what the next start has to find out again, because it was warned of. `keeper` names a
    persistent home that is no script's; `own_view` shows more than the closure. `said` is how many
    bytes of the script had a part in this, where not all of them had (`Header.size`).
    """

    packages: tuple[PackageRef, ...] = ()
    roots: tuple[PathInfo, ...] = ()
    program: Program | None = None
    main: PathInfo | None = None
    script: Path | None = None
    arguments: tuple[str, ...] = ()
    network: str | None = None  # who asked for the host's
    loopback: str | None = None  # who asked for one of its own
    read: tuple[Asked, ...] = ()
    write: tuple[Asked, ...] = ()
    env: tuple[Asked, ...] = ()
    limits: tuple[Asked, ...] = ()
    devices: tuple[Asked, ...] = ()
    home: Asked | None = None
    nesting: str | None = None  # who asked for it
    profile: str = "run"
    view: str | None = None
    lock: Locked | None = None
    statement: Statement | None = None
    lasting: bool = True
    keeper: str | None = None
    said: int | None = None
    own_view: Callable[[Store], ViewPlan] | None = None


def from_flags(flags: Flags, directory: Path | None = None, profile: str = "run") -> Wanted:
    """The part of a run that flags state. `directory` is the script's, for its own statements."""
    return Wanted(
        packages=tuple(
            PackageRef(item.value, item.origin, _base(item, directory)) for item in flags.packages
        ),
        network=flags.network_origin,
        loopback=flags.loopback_origin,
        read=_paths(flags.read, directory),
        write=_paths(flags.write, directory),
        env=tuple((item.value, item.origin) for item in flags.env),
        devices=tuple((item.value, item.origin) for item in flags.devices),
        home=(flags.home.value, flags.home.origin) if flags.home else None,
        limits=tuple((item.value, item.origin) for item in flags.limits),
        nesting=_asked_by(flags.nesting),
        profile=_profile(flags) or profile,
        view=flags.view,
    )


def from_file(
    file: str, command_line: Flags, reach: Reach, *, use_lock: bool = True
) -> tuple[Wanted, Flags]:
    """A script or binary with its header; also the flags in force, header included.

    Raises UsageError, HeaderError, LockError, PathNotFound for a mentioned path that is nowhere.
    """
    _refuse_pipe(file)
    head = read_head(file)
    header = parse_header(head, file)
    flags = header.with_flags(command_line)
    # Who names a view that shows only what is there has said no to what a header asks for.
    if flags.lazy and (command_line.lazy or flags.view in (None, "auto", "fuse")):
        reach.prefer_lazy()
    wanted = from_flags(flags, Path(os.path.realpath(file)).parent)
    wanted = wanted._replace(script=Path(file), program=_program(file, head, flags))
    scanned = not states_packages(header, flags)
    statement = Statement.of(file, flags, wanted.packages, scanned=scanned)
    heeded = heed(statement, reach, strict=flags.locked) if use_lock else Heeded()
    wanted = wanted._replace(statement=statement, lasting=not heeded.stale)
    if heeded.locked:
        wanted = _under_lock(wanted, heeded.locked, reach)
    elif scanned:
        wanted = wanted._replace(roots=mentioned(file, reach))
    return wanted if scanned else wanted._replace(said=header.size), flags


def _under_lock(wanted: Wanted, locked: Locked, reach: Reach) -> Wanted:
    """With the locked store paths in place of what was stated; they are fetched if need be."""
    lock = locked.lock
    reach.expect(locked.check_path)
    reach.fetch(lock.roots())
    stated = zip(wanted.packages, lock.packages or (), strict=True)
    return wanted._replace(
        packages=tuple(ref._replace(text=str(path)) for ref, (_, path) in stated),
        roots=tuple(reach.info(path) for path in lock.mentioned or ()),
        lock=locked,
    )


def _refuse_pipe(file: str) -> None:
    # What is read from it for the header would be missing when the program starts.
    if os.path.exists(file) and not os.path.isdir(file) and not os.path.isfile(file):
        raise UsageError(f"`{file}` is not a regular file", hint="save the script to a file first")


def states_packages(header: Header, flags: Flags) -> bool:
    """`packages = []` is a statement too: this file needs nothing."""
    stated = header.metadata is not None and "packages" in header.metadata.stated
    return stated or bool(flags.packages)


def mentioned(file: str, reach: Reach) -> tuple[PathInfo, ...]:
    """The store paths whose text occurs in a file. Raises PathNotFound for one that is not there.

    What the store lacks is fetched where far services have it. A binary may mention what it never
    needs, so there only its ELF interpreter must be present.
    """
    with open(file, "rb") as stream:
        candidates = scan(stream.read)
    found = resolve(candidates, reach.by_hash)
    if found.missing:
        reach.fetch_mentioned(found.missing, required=bool(_needed(file, found.missing)))
        found = resolve(candidates, reach.by_hash)
    if needed := _needed(file, found.missing):
        with open(file, "rb") as stream:
            raise _not_there(stream, file, needed[0])
    return tuple(reach.info(path) for path in found.paths)


def _needed(file: str, missing: tuple[Candidate, ...]) -> list[Candidate]:
    binary = bool(missing) and is_elf(file)
    return [item for item in missing if not binary or _is_loader(file, item)]


def _is_loader(file: str, candidate: Candidate) -> bool:
    loader = elf_interpreter(Path(file))
    return loader is not None and loader.startswith(f"{STORE_DIR}/{candidate.hash}".encode())


def _not_there(stream: BinaryIO, file: str, candidate: Candidate) -> PathNotFound:
    where = describe_offset(stream, file, candidate.offset)
    return PathNotFound(
        f"{where}: `{candidate}` is not in the store",
        hint="import it (`nix-store --export … | eka store import`), or state the packages in a "
        "header, so that the file is not scanned",
    )


def _program(file: str, head: bytes, flags: Flags) -> Program:
    if flags.interpreter is not None:
        words = _split(flags.interpreter)
        return Program(words, flags.interpreter.origin, file)
    if is_elf(file):
        _check_loader(file)
        return Program((), "the file itself", file)
    own = kernel_shebang(head)
    if own and own.interpreter.startswith(STORE_DIR.encode() + b"/"):
        words = tuple(map(os.fsdecode, filter(None, own)))
        return Program(words, f"the first line of {file}", file)
    return Program(("sh",), "default", file)


def _profile(flags: Flags) -> str | None:
    """A name, or the absolute path of a file."""
    stated = flags.profile
    return os.path.abspath(stated) if stated and "/" in stated else stated


def _asked_by(statement: Stated[bool] | None) -> str | None:
    return statement.origin if statement and statement.value else None


def _split(interpreter: Stated[str]) -> tuple[str, ...]:
    try:
        words = tuple(shlex.split(interpreter.value))
    except ValueError as error:
        raise UsageError(f"`{interpreter.value}` ({interpreter.origin}): {error}") from None
    if not words:
        raise UsageError(f"the interpreter ({interpreter.origin}) is blank")
    return words


def _check_loader(file: str) -> None:
    loader = elf_interpreter(Path(file))
    if loader is not None and not loader.startswith(STORE_DIR.encode() + b"/"):
        name = os.fsdecode(loader)
        raise InterpreterNotFound(
            f"`{file}` needs the loader `{name}`, which is not in a bundle",
            hint="run programs that were built for a Nix store, or static ones",
        )


def _base(item: Stated[str], directory: Path | None) -> Path:
    return directory if item.in_script and directory else Path.cwd()


def _paths(items: Iterable[Stated[str]], directory: Path | None) -> tuple[Asked, ...]:
    return tuple((_absolute(item, directory), item.origin) for item in items)


def _absolute(item: Stated[str], directory: Path | None) -> str:
    if item.value.startswith(("~", "/")):
        return item.value
    return os.path.join(_base(item, directory), item.value)
