"""What an export is of: a target as for `eka run`, resolved to a closure, a program and its shell.

Every format (images, rootfs, bundles, single files) starts from one `Export`, and every kind of
target is resolved here and nowhere else. What a script asks for beyond its packages (paths,
variables, the network) belongs to a machine, not into an image: it is told to the person who
exports, and stands in labels for the one who runs it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from eka.config import Settings
from eka.fetching import Reach
from eka.prepare import artifacts, gather, search_path, words_of
from eka.program import Programs
from eka.script.flags import Flags
from eka.shell import Shell, find_shell, require_shell
from eka.target import from_target
from eka.wanted import SH, Wanted
from eka_runtime.castore.node import FileNode
from eka_runtime.castore.services import require_blob
from eka_runtime.errors import InterpreterNotFound, NotExecutable, UsageError
from eka_runtime.linux.elf import ELF_MAGIC
from eka_runtime.nix.path import STORE_DIR, StorePath
from eka_runtime.oci.bundle import ShellFiles
from eka_runtime.oci.image import File
from eka_runtime.oci.image_platform import host_platform, platform_of_elf
from eka_runtime.store.pathinfo import PathInfo

APP = "/app"
"""Where a script lies in what is exported."""

_HEAD = 4096
_NAME = re.compile(r"[a-z0-9]+(?:[._-]+[a-z0-9]+)*")


class Export(NamedTuple):
    """`words` start the program, `arguments` are its default ones. `name` has no tag.

    `asked` is what the target wants of a machine: network, read, write, env; in words of a header.
    `identity` are labels that say what a target was evaluated from.
    """

    wanted: Wanted
    infos: Mapping[StorePath, PathInfo]
    packages: tuple[StorePath, ...]
    words: tuple[str, ...]
    arguments: tuple[str, ...]
    path: str
    shell: ShellFiles
    file: File | None
    platform: Mapping[str, str]
    name: str
    version: str
    asked: Mapping[str, tuple[str, ...]]
    env: tuple[tuple[str, str], ...]
    identity: Mapping[str, str]


def resolve(
    target: str,
    flags: Flags,
    reach: Reach,
    settings: Settings,
    arguments: tuple[str, ...] = (),
    *,
    shell: bool = True,
) -> Export:
    """Raises as `from_target`, and what finding the program raises.

    Without `shell`, there is a /bin/sh only if the packages have one.
    """
    before = len(reach.installed)
    wanted = from_target(target, flags, reach)
    found = _resolved(wanted, reach, settings, arguments, shell)
    identity = artifacts(reach.installed[before:])
    if label := identity.get("dev.eka.atom.label"):
        version = identity["dev.eka.atom.version"]
        found = found._replace(name=_clean(label), version=_tag(version) or "latest")
    return found._replace(identity=identity)


def _resolved(
    wanted: Wanted, reach: Reach, settings: Settings, arguments: tuple[str, ...], shell: bool
) -> Export:
    programs, _ = gather(wanted, reach)
    found = find_shell(programs, settings)
    if not shell:
        found = _of_packages(found)
    try:
        words = words_of(wanted, programs)
    except (InterpreterNotFound, NotExecutable):
        # A library, a text, a set of tools: nothing starts by itself, but there may be a shell.
        if wanted.program is not None:
            raise
        words, arguments = (), arguments or ((SH,) if found.files.sh else ())
    name, version = _name_of(wanted, words)
    if wanted.main and not words:
        wanted = wanted._replace(main=None, roots=(wanted.main,))
    if words[:1] == (SH,):
        require_shell(found)
    if reach.store.writable:
        # A collection that begins now leaves them alone.
        reach.store.paths.touch(info.path for info in programs.closure.values())
    file = _script(wanted)
    return Export(
        wanted,
        {info.path: info for info in programs.closure.values()},
        tuple(info.path for info in programs.packages),
        (*words, file.place) if file else words,
        arguments,
        dict(search_path(programs))["PATH"],
        found.files,
        file,
        _platform(programs, words, file),
        name,
        version,
        _asked(wanted),
        tuple(_stated(wanted)),
        {},
    )


def _of_packages(shell: Shell) -> Shell:
    files = shell.files
    sh = files.sh if files.sh and files.sh.kind == "store" else None
    env = files.env if files.env and files.env.kind == "store" else None
    return Shell(ShellFiles(sh, env), None)


def _script(wanted: Wanted) -> File | None:
    if wanted.program is None or wanted.program.file is None:
        return None
    source = Path(wanted.program.file)
    try:
        data = source.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read `{source}`: {error.strerror}") from error
    return File(f"{APP}/{source.name}", data, True)


def _name_of(wanted: Wanted, words: tuple[str, ...]) -> tuple[str, str]:
    """A name as images have it, and a version, "latest" if none is known."""
    if wanted.script is not None:
        return _clean(wanted.script.stem), "latest"
    if wanted.main is not None:
        return name_and_version(wanted.main.path.name)
    return _clean(os.path.basename(words[0])), "latest"


def name_and_version(text: str) -> tuple[str, str]:
    """As Nix splits a package's name: the version begins at the first `-` before a digit."""
    name, dash, rest = text, "", ""
    if match := re.search(r"-(?=[0-9])", text):
        name, dash, rest = text[: match.start()], "-", text[match.end() :]
    return _clean(name), (_tag(rest) if dash else "") or "latest"


def _tag(version: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]", "-", version)[:128]


def _clean(text: str) -> str:
    found = "-".join(_NAME.findall(text.lower()))
    return found or "image"


def _asked(wanted: Wanted) -> dict[str, tuple[str, ...]]:
    network = "host" if wanted.network else "loopback" if wanted.loopback else "off"
    base = wanted.script.resolve().parent if wanted.script else Path.cwd()
    found = {
        "network": (network,),
        "read": tuple(_as_written(path, base) for path, _ in wanted.read),
        "write": tuple(_as_written(path, base) for path, _ in wanted.write),
        "env": tuple(text for text, _ in wanted.env if "=" not in text),
        "devices": tuple(path for path, _ in wanted.devices),
        "limits": tuple(text for text, _ in wanted.limits),
    }
    return {key: values for key, values in found.items() if values}


def _as_written(path: str, base: Path) -> str:
    """Where this checkout lies must not be told: the same script makes the same image anywhere."""
    inside = os.path.normpath(path)
    if inside == os.fspath(base):
        return "."
    return inside.removeprefix(f"{base}/") if not path.startswith("~") else path


def _stated(wanted: Wanted) -> list[tuple[str, str]]:
    texts = (text.partition("=") for text, _ in wanted.env if "=" in text)
    return [(name, value) for name, _, value in texts]


def _platform(programs: Programs, words: tuple[str, ...], file: File | None) -> Mapping[str, str]:
    """By the first ELF file among those that matter; the host's where there is none."""
    if file and file.data.startswith(ELF_MAGIC):
        return platform_of_elf(file.data[:_HEAD])
    for place in _programs(programs, words):
        head = _head(programs, place)
        if head.startswith(b"#!"):
            interpreter = head[2:].split(b"\n")[0].split()
            head = _head(programs, os.fsdecode(interpreter[0])) if interpreter else b""
        if head.startswith(ELF_MAGIC):
            return platform_of_elf(head)
    return host_platform()


def _programs(programs: Programs, words: tuple[str, ...]) -> Iterator[str]:
    yield from (word for word in words if word.startswith(f"{STORE_DIR}/"))
    for info in (*programs.packages, *programs.closure.values()):
        yield from (f"{info.path}/bin/{name}" for name in programs.executables(info))


def _head(programs: Programs, place: str) -> bytes:
    node = programs.node_at(place)
    if not isinstance(node, FileNode):
        return b""
    with require_blob(programs.store.blobs, node.digest) as reader:
        return reader.read(_HEAD)
