"""The configuration of an evaluation: from what an atom declares and a person states to one value.

Later wins: the option's default in `[config]`, `[variants.NAME]` in the order they are named, each
`--config-file`, each `--set`, and for `platforms` this machine, `--system`, `--build-system` and
its like. Every key of the result knows who set it. The result, `platforms` included, is what is
hashed and what the expressions get as `cfg`; one configuration holds for a whole closure of atoms
(`for_dependency`). Written down in spec/config.md.

Out of scope: types and checks of options (`eka/atom/options.py`), hashes (`canonical.py`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import tomli

from eka.atom.manifest import Manifest
from eka.atom.options import RESERVED, Key, Option, Options
from eka.evaluate.canonical import MAX_DEPTH, Value, config_digest, config_hash_text, normalize
from eka.shapes import Problem
from eka_runtime.errors import OptionError

SIZE_LIMIT = 1 << 20
PLATFORMS = "platforms"
ROLES = ("build", "host", "target")

_SYSTEM = re.compile(r"[a-z0-9_]{1,32}-[a-z0-9_]{1,32}\Z")
_BARE = re.compile(r"""[^\s"'\[\]{}#=,\\]+\Z""")
_TABLE_END = re.compile(r"[\r\n]")


class Systems(NamedTuple):
    """What the options for systems say, "" for nothing. `every` is `--system`."""

    every: str = ""
    build: str = ""
    host: str = ""
    target: str = ""


class Stated(NamedTuple):
    """Nested tables as they were written, and who wrote them."""

    table: Mapping[str, object]
    origin: str


class Choices(NamedTuple):
    """Everything that a person stated about a configuration, in order."""

    stated: tuple[Stated, ...] = ()
    variants: tuple[str, ...] = ()
    systems: Systems = Systems()


class Declared(NamedTuple):
    """What a manifest says about configuration.

    Without `options` every key is taken. `systems` are the hosts it is for; () for any.
    """

    options: Options = MappingProxyType({})
    variants: Mapping[str, Mapping[Key, Value]] = MappingProxyType({})
    systems: tuple[str, ...] = ()

    @classmethod
    def of(cls, manifest: Manifest) -> Declared:
        variants = {
            name: {key: _plain(value) for key, value in values.items()}
            for name, values in manifest.variants.items()
        }
        return cls(manifest.config, variants, manifest.systems)


class Config(NamedTuple):
    """`values` is nested and complete; `origins` says of every value where it is from."""

    values: dict[str, Value]
    origins: Mapping[Key, str]

    def digest(self) -> bytes:
        return config_digest(self.values)

    def hash(self) -> str:
        return config_hash_text(self.digest())

    def system(self, role: str) -> str:
        platforms = self.values[PLATFORMS]
        assert isinstance(platforms, dict)
        return str(platforms[role])

    def leaves(self) -> list[tuple[str, Value, str]]:
        """(dotted key, value, origin), sorted by key."""
        return [
            (".".join(path), _at(self.values, path), self.origins[path])
            for path in sorted(self.origins)
        ]


def effective(declared: Declared, choices: Choices) -> Config:
    """The configuration in force.

    Raises OptionError for unknown keys and variants, values that do not fit, options without a
    value, and a host system that the atom is not for.
    """
    made = _Making(declared.options)
    for key, option in declared.options.items():
        if option.default is not None:
            made.put(key, _plain(option.default), "default")
    for name in choices.variants:
        for key, value in _variant(declared, name).items():
            made.put(key, value, f"variant {name}")
    for stated in choices.stated:
        made.take(stated)
    made.platforms(choices.systems)
    made.require("give it one: `--set {name}=…`")
    config = made.config()
    _check_host(declared, config)
    return config


def for_dependency(declared: Declared, root: Config, label: str) -> Config:
    """The configuration of an atom that the root atom depends on.

    It has the root's value for each option that it declares, and its own default for the others;
    one that declares nothing gets all of it. Raises OptionError, which names the dependency.
    """
    if not declared.options:
        return root
    made = _Making(declared.options)
    stated = dict(_by_option(root.values, declared.options))
    for key, option in declared.options.items():
        if key in stated:
            origin = root.origins.get(key, "the atom that depends on it")
            made.put(key, _checked(option, key, stated[key], f"of `{label}`, {origin}"), origin)
        elif option.default is not None:
            made.put(key, _plain(option.default), f"default of {label}")
    made.values[PLATFORMS] = root.values[PLATFORMS]
    made.origins |= {key: who for key, who in root.origins.items() if key[0] == PLATFORMS}
    made.require(f"`{label}` needs it: declare it in the atom that depends on `{label}`")
    return made.config()


class _Making:
    def __init__(self, options: Options) -> None:
        self.options = options
        self.values: dict[str, Value] = {}
        self.origins: dict[Key, str] = {}

    def take(self, stated: Stated) -> None:
        for key, value in _by_option(stated.table, self.options):
            if key[0] == PLATFORMS:
                self._platform(key, value, stated.origin)
            elif key[0] in RESERVED:
                raise OptionError(f"`{_name(key)}` ({stated.origin}) is filled in by eka")
            else:
                self.put(key, self._value(key, value, stated.origin), stated.origin)

    def _value(self, key: Key, value: object, origin: str) -> Value:
        if not self.options:
            return normalize(value, f"{_name(key)} ({origin})")
        if key not in self.options:
            raise _unknown(key, origin, self.options)
        return _checked(self.options[key], key, value, origin)

    def put(self, path: Key, value: Value, origin: str) -> None:
        """Replaces what is at or below `path`, and whatever is in its way."""
        table = self.values
        for part in path[:-1]:
            inner = table.get(part)
            if not isinstance(inner, dict):
                inner = table[part] = {}
            table = inner
        table[path[-1]] = value
        self.origins = {
            other: who
            for other, who in self.origins.items()
            if other != path[: len(other)] and path != other[: len(path)]
        }
        self.origins[path] = origin

    def _platform(self, key: Key, value: object, origin: str) -> None:
        if len(key) != 2 or key[1] not in ROLES:
            known = ", ".join(f"`{PLATFORMS}.{role}`" for role in ROLES)
            raise OptionError(
                f"`{_name(key)}` ({origin}) is not a platform", hint=f"there are {known}"
            )
        self.put(key, check_system(value, f"{_name(key)} ({origin})"), origin)

    def platforms(self, systems: Systems) -> None:
        stated = dict(self.values.pop(PLATFORMS, {}) or {})  # type: ignore[arg-type]
        origins = {role: self.origins.get((PLATFORMS, role), "") for role in ROLES}
        for role in ROLES:
            flag = getattr(systems, role)
            if flag:
                stated[role], origins[role] = flag, f"--{role}-system"
            elif systems.every:
                stated[role], origins[role] = systems.every, "--system"
        machine = this_system()
        for role, other in (("build", ""), ("host", "build"), ("target", "host")):
            if role not in stated:
                stated[role] = stated[other] if other else machine
                origins[role] = f"as platforms.{other}" if other else "this machine"
            checked = check_system(stated[role], f"{PLATFORMS}.{role} ({origins[role]})")
            self.put((PLATFORMS, role), checked, origins[role])

    def require(self, hint: str) -> None:
        """Raises OptionError when an option has no value."""
        for key, option in self.options.items():
            if key not in self.origins:
                raise OptionError(
                    f"`{_name(key)}` ({option.type}) has no value",
                    hint=hint.replace("{name}", _name(key)),
                )

    def config(self) -> Config:
        return Config(self.values, self.origins)


def _checked(option: Option, key: Key, value: object, origin: str) -> Value:
    found = normalize(value, f"{_name(key)} ({origin})")
    try:
        return _plain(option.check(found, key))
    except Problem as problem:
        hint = problem.hint
        if option.type == "string" and not isinstance(value, str):
            hint = f"quote text, also for the shell: `--set '{_name(key)}=\"some text\"'`"
        raise OptionError(f"{problem.message} ({origin})", hint=hint) from None


def _unknown(key: Key, origin: str, options: Options) -> OptionError:
    from difflib import get_close_matches

    name, known = _name(key), [_name(option) for option in options]
    if any(other[: len(key)] == key for other in options):
        return OptionError(f"`{name}` ({origin}) is a group of options, not an option")
    close = get_close_matches(name, known, n=1)
    some = ", ".join(f"`{one}`" for one in known[:8]) + (", …" if len(known) > 8 else "")
    hint = f"did you mean `{close[0]}`?" if close else f"it has {some}"
    return OptionError(f"`{name}` ({origin}) is not an option of this atom", hint=hint)


def _variant(declared: Declared, name: str) -> Mapping[Key, Value]:
    if name in declared.variants:
        return declared.variants[name]
    known = ", ".join(f"`{one}`" for one in sorted(declared.variants))
    raise OptionError(
        f"there is no variant `{name}`",
        hint=f"the atom has {known}" if known else "the atom declares no `[variants]`",
    )


def _plain(value: object) -> Value:
    """Lists as JSON has them: options and variants hold tuples."""
    return list(value) if isinstance(value, tuple) else value  # type: ignore[return-value]


def _name(key: Key) -> str:
    return ".".join(key)


def _check_host(declared: Declared, config: Config) -> None:
    host = config.system("host")
    if declared.systems and host not in declared.systems:
        raise OptionError(
            f"this atom is not for `{host}` ({config.origins[PLATFORMS, 'host']})",
            hint=f"it is for {', '.join(declared.systems)}: choose one with `--host-system`",
        )


def check_system(value: object, where: str) -> str:
    """A Nix system such as `x86_64-linux`. Raises OptionError."""
    if isinstance(value, str) and _SYSTEM.match(value):
        return value
    raise OptionError(f"`{where}`: {value!r} is not a system", hint="write one as `x86_64-linux`")


def this_system() -> str:
    """Of the machine we are on, by Nix's name for it."""
    machine = os.uname().machine
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(machine, machine) + "-linux"


def parse_set(text: str) -> Stated:
    """`--set KEY=VALUE`: a line of TOML, or a value that is no TOML at all and then is a string.

    Raises OptionError.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip() or _TABLE_END.search(text):
        raise OptionError(
            f"`--set {text}` is not KEY=VALUE", hint="write it as in `--set threads=4`"
        )
    try:
        table = tomli.loads(text)
    except tomli.TOMLDecodeError as error:
        table = _bare(key, value.strip(), error)
    return Stated(table, "--set")


def _bare(key: str, value: str, error: tomli.TOMLDecodeError) -> dict[str, object]:
    try:
        if _BARE.match(value):
            return tomli.loads(f'{key} = "{value}"')
    except tomli.TOMLDecodeError:
        pass
    raise OptionError(
        f"`--set {key}={value}` is not valid TOML: {error}",
        hint=f"quote text, also for the shell: `--set '{key.strip()}=\"some text\"'`",
    )


def read_config_file(file: str) -> Stated:
    """`--config-file`: TOML, or JSON by its name. Raises OptionError."""
    try:
        with open(file, "rb") as stream:
            data = stream.read(SIZE_LIMIT + 1)
    except OSError as error:
        raise OptionError(f"cannot read `{file}`: {error.strerror}") from error
    if len(data) > SIZE_LIMIT:
        raise OptionError(f"`{file}` is larger than {SIZE_LIMIT >> 10} KiB")
    table = _parse(file, data)
    if not isinstance(table, dict):
        raise OptionError(f"`{file}` must hold an object")
    return Stated(table, os.path.basename(file))


def _parse(file: str, data: bytes) -> object:
    import json

    try:
        text = data.decode("utf-8")
        if file.endswith(".json"):
            return json.loads(text, object_pairs_hook=_unique)
        return tomli.loads(text)
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        kind = "JSON" if file.endswith(".json") else "TOML"
        raise OptionError(f"`{file}` is not valid {kind}: {error}") from error


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice in an object")
    return found


def _by_option(
    table: Mapping[str, object], options: Options, above: Key = ()
) -> Iterator[tuple[Key, object]]:
    """The leaves of nested tables; one that is where an option is, is not taken apart."""
    for name, value in table.items():
        key = (*above, name)
        if isinstance(value, Mapping) and value and key not in options:
            if len(key) > MAX_DEPTH:
                raise OptionError(f"`{_name(key[:4])}…` is nested too deeply")
            yield from _by_option(value, options, key)
        else:
            yield key, value


def _at(table: Mapping[str, Value], path: Key) -> Value:
    value: Value = dict(table)
    for part in path:
        assert isinstance(value, dict)
        value = value[part]
    return value


def choices_of(
    files: Sequence[str], sets: Sequence[str], variants: Sequence[str], systems: Systems
) -> Choices:
    """From the options of a command line. Raises OptionError."""
    stated = [*map(read_config_file, files), *map(parse_set, sets)]
    return Choices(tuple(stated), tuple(variants), systems)
