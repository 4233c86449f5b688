"""The flags of `eka-run`: one table for the command line, a script's `#!eka-run` lines and --help.

Neither argparse nor click: parsing must stop at the first word that is no flag, since what follows
belongs to the script, and a line in a script needs its columns in errors.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from eka.script.stated import VARIABLE, Place, Stated, nearest, quoted
from eka_runtime.errors import EkaError, UsageError


class Flags(NamedTuple):
    """What flags state; what a header block states has the same shape."""

    packages: tuple[Stated[str], ...] = ()
    interpreter: Stated[str] | None = None
    network: Stated[bool | str] | None = None  # true is host, false is off
    read: tuple[Stated[str], ...] = ()
    write: tuple[Stated[str], ...] = ()
    devices: tuple[Stated[str], ...] = ()
    home: Stated[str] | None = None
    limits: tuple[Stated[str], ...] = ()
    nesting: Stated[bool] | None = None
    env: tuple[Stated[str], ...] = ()
    locked: bool = False
    require_sandbox: bool = False
    explain: bool = False
    keep: bool = False
    view: str | None = None
    profile: str | None = None
    record: bool = False
    lazy: bool = False
    json: bool = False
    store: str | None = None
    directory: str | None = None
    offline: bool = False
    color: str | None = None
    verbosity: int = 0
    version: bool = False
    help: bool = False

    @property
    def network_origin(self) -> str | None:
        """Who asked for the host's network; None when it is not granted."""
        return self._network_origin(True, "host")

    @property
    def loopback_origin(self) -> str | None:
        """Who asked for a loopback of the run's own."""
        return self._network_origin("loopback")

    def _network_origin(self, *modes: bool | str) -> str | None:
        return self.network.origin if self.network and self.network.value in modes else None


class Flag(NamedTuple):
    """`metavar` is empty for a flag that takes no value; it then gives `field` the `constant`."""

    field: str
    long: str
    short: str
    metavar: str
    in_script: bool
    help: str
    constant: bool | int = True
    choices: tuple[str, ...] = ()


FLAGS: Final = (
    Flag("packages", "--package", "-p", "P", True, "a store path, a link to one, or an atom"),
    Flag("interpreter", "--interpreter", "-i", "I", True, "program that runs the script"),
    Flag("network", "--net", "", "", True, "grant the host's network"),
    Flag("network", "--no-net", "", "", True, "no network, whatever the script says", False),
    Flag(
        "network", "--network", "", "MODE", True, "off, loopback (its own), or host",
        choices=("off", "loopback", "host"),
    ),
    Flag("read", "--read", "", "PATH", True, "show PATH, read-only"),
    Flag("write", "--write", "", "PATH", True, "show PATH, writable"),
    Flag("env", "--env", "", "NAME[=V]", True, "pass a variable on, or set it"),
    Flag("devices", "--device", "", "PATH", True, "show a device such as /dev/kvm"),
    Flag(
        "home", "--home", "", "MODE", True, "private (empty), persistent (the script's own), none",
        choices=("private", "persistent", "none"),
    ),
    Flag("limits", "--limit", "", "NAME=N", True, "memory, pids, cpu, time, files, file-size"),
    Flag("nesting", "--nesting", "", "", True, "let it make namespaces and mounts of its own"),
    Flag("locked", "--locked", "", "", True, "fail unless FILE.lock is there and current"),
    Flag("lazy", "--lazy", "", "", True, "start before all is fetched, where that can be"),
    Flag("require_sandbox", "--require-sandbox", "", "", True, "refuse a weaker sandbox"),
    Flag("explain", "--explain", "", "", False, "say what would be granted, and run nothing"),
    Flag("keep", "--keep", "", "", False, "keep the bundle and say where it is"),
    Flag(
        "view", "--view", "", "VIEW", False, "auto, bind, overlay or fuse (EKA_VIEW)",
        choices=("auto", "bind", "overlay", "fuse"),
    ),
    Flag("profile", "--profile", "", "FILE", False, "a sandbox profile, such as ./mine.toml"),
    Flag("record", "--record", "", "", False, "note the run in the ledger (`eka log --runs`)"),
    Flag("json", "--json", "", "", False, "print data as JSON objects"),
    Flag("store", "--store", "", "DIR", False, "use the store in DIR (EKA_STORE)"),
    Flag("directory", "--directory", "-C", "DIR", False, "start in DIR"),
    Flag("offline", "--offline", "", "", False, "fetch nothing"),
    Flag(
        "color", "--color", "", "WHEN", False, "auto, always or never",
        choices=("auto", "always", "never"),
    ),
    Flag("verbosity", "--verbose", "-v", "", False, "say more", 1),
    Flag("verbosity", "--quiet", "-q", "", False, "say only errors", -1),
    Flag("version", "--version", "", "", False, "print the version"),
    Flag("help", "--help", "-h", "", False, "print this text"),
)  # fmt: skip

_BY_NAME = {name: flag for flag in FLAGS for name in (flag.long, flag.short) if name}
_LISTS = ("packages", "read", "write", "env", "devices", "limits")
_STATED = ("interpreter", "network", "nesting", "home", *_LISTS)


def parse_flags(
    argv: Sequence[str], places: Sequence[Place] | None = None
) -> tuple[Flags, list[str]]:
    """The flags before the first other word or `--`, and the words from there on.

    With `places`, one for each word, the words are a script's `#!eka-run` line: only flags that a
    script may state are known, every word must be one, and errors are HeaderErrors. Otherwise
    errors are UsageErrors.
    """
    reader = _Reader(argv, places)
    while reader.parse_next():
        pass
    return reader.flags(), list(argv[reader.index :])


def combine(*layers: Flags) -> Flags:
    """One record of several, the strongest first: command line, `#!eka-run` lines, header block.

    Lists concatenate in that order, so that stronger packages come first on PATH; of several
    statements about one variable the strongest is kept.
    """
    merged: dict[str, Any] = {}
    for name in Flags._fields:
        values = [getattr(layer, name) for layer in layers]
        if name in _LISTS:
            merged[name] = tuple(item for value in values for item in value)
        else:
            merged[name] = next((value for value in values if value), None) or values[0]
    merged["env"] = _strongest_variables(layers)
    return Flags(**merged)


def render_help() -> str:
    lines = [
        "Usage: eka-run [FLAGS] FILE [ARG…]",
        "",
        "Run a script or program with the packages and grants that its header states.",
    ]
    for in_script, title in ((True, "Also in `#!eka-run` lines of a script:"), (False, "Others:")):
        rows = [(_usage(flag), flag.help) for flag in FLAGS if flag.in_script == in_script]
        lines += ["", title, *(f"  {usage:<26}{text}" for usage, text in rows)]
    return "\n".join(lines) + "\n"


def _usage(flag: Flag) -> str:
    short = f"{flag.short}, " if flag.short else "    "
    return f"{short}{flag.long} {flag.metavar}".rstrip()


def _strongest_variables(layers: Sequence[Flags]) -> tuple[Stated[str], ...]:
    found: dict[str, Stated[str]] = {}
    for flags in reversed(layers):
        for item in flags.env:
            found[item.value.partition("=")[0]] = item
    return tuple(found.values())


def _is_cluster(word: str) -> bool:
    """`-vv`: short flags in one word, none of which takes a value."""
    flags = [_BY_NAME.get(f"-{letter}") for letter in word[1:]]
    return len(flags) > 1 and all(flag and not flag.metavar for flag in flags)


class _Reader:
    """Walks over the words; `values` and `lists` are the fields of Flags so far."""

    def __init__(self, argv: Sequence[str], places: Sequence[Place] | None) -> None:
        self.argv = argv
        self.places = places
        self.index = 0
        self.values: dict[str, Any] = {}
        self.lists: dict[str, list[Stated[str]]] = {name: [] for name in _LISTS}
        self.after_package = False

    def flags(self) -> Flags:
        lists: dict[str, Any] = {name: tuple(items) for name, items in self.lists.items()}
        return Flags(**lists, **self.values)

    def parse_next(self) -> bool:
        """Takes one flag with its value; False at the end of the flags."""
        if self.index == len(self.argv):
            return False
        word = self.argv[self.index]
        if not word.startswith("-") or word == "-":
            return self._plain_word(word)
        if word == "--" and self.places is None:
            self.index += 1
            return False
        if _is_cluster(word):
            for letter in word[1:]:
                self._store(self._find(f"-{letter}"), None, f"-{letter}")
        else:
            self._take_flag(word)
        self.index += 1
        return True

    def _take_flag(self, word: str) -> None:
        name, equals, value = word.partition("=")
        flag = self._find(name)
        if equals and not flag.metavar:
            raise self._error(f"`{name}` takes no value", hint=f"write `{name}`")
        if not flag.metavar:
            self._store(flag, None, name)
        else:
            self._store(flag, value if equals else self._value(flag, name), name)
        self.after_package = flag.field == "packages"

    def _plain_word(self, word: str) -> bool:
        if self.places is None:
            return False
        # nix-shell's habit: `-p` takes all words up to the next flag. On a command line that would
        # swallow FILE, but no FILE can stand in a script.
        if not self.after_package:
            raise self._error(f"{quoted(word)} is not a flag", hint="begin with `-p` for a package")
        self._store(_BY_NAME["-p"], word, "-p")
        self.index += 1
        return True

    def _find(self, name: str) -> Flag:
        flag = _BY_NAME.get(name)
        in_script = self.places is not None
        if flag and (flag.in_script or not in_script):
            return flag
        if flag:
            raise self._error(
                f"`{name}` is for the command line, not for a script", hint=f"remove `{name}`"
            )
        near = nearest(name, [f.long for f in FLAGS if f.in_script or not in_script])
        short = _BY_NAME.get(name[:2])
        if near is None and short and short.metavar:
            near = f"{short.short} {name[2:]}"
        hint = f"write {quoted(near)}" if near else "see `eka-run --help`"
        raise self._error(f"unknown flag {quoted(name)}", hint=hint)

    def _value(self, flag: Flag, name: str) -> str:
        following = self.argv[self.index + 1 : self.index + 2]
        if not following or (following[0].startswith("-") and following[0] != "-"):
            hint = f"write `{name} {flag.metavar}`"
            if following:
                hint += f", or `{flag.long}={following[0]}` if that is the value"
            raise self._error(f"`{name}` needs a value", hint=hint)
        self.index += 1
        return following[0]

    def _store(self, flag: Flag, value: str | None, name: str) -> None:
        if value is not None:
            self._check(flag, value, name)
        given: Any = flag.constant if value is None else value
        if flag.field in _STATED:
            place = self.places[self.index] if self.places else None
            origin = f"{flag.long} ({place})" if place else flag.long
            given = Stated(given, origin, place is not None)
        if flag.field in _LISTS:
            self.lists[flag.field].append(given)
        elif flag.field == "verbosity" and given > 0:
            self.values["verbosity"] = max(self.values.get("verbosity", 0), 0) + 1
        else:
            self.values[flag.field] = given

    def _check(self, flag: Flag, value: str, name: str) -> None:
        if not value:
            raise self._error(f"`{name}` needs a value that is not empty")
        if "\0" in value:
            raise self._error(f"null character in the value of `{name}`")
        if flag.choices and value not in flag.choices:
            listed = ", ".join(f"`{choice}`" for choice in flag.choices)
            raise self._error(f"`{name}` cannot be {quoted(value)}", hint=f"use one of {listed}")
        if flag.field == "env" and not re.fullmatch(VARIABLE, value):
            raise self._error(
                f"{quoted(value)} is not a variable",
                hint="write NAME to pass a variable on, or NAME=value to set one",
            )

    def _error(self, message: str, *, hint: str | None = None) -> EkaError:
        if self.places is None:
            return UsageError(message, hint=hint)
        return self.places[self.index].error(message, hint=hint)
