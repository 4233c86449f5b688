"""What a builder is started with: its arguments, variables, and the files laid out for it.

Pure: a derivation and what surrounds it in, words and bytes out. The contract is that of Nix 2.8
(`initEnv`, `initTmpDir`, `writeStructuredAttrs`): twelve variables, the derivation's own beside
them, `passAsFile`, structured attributes, `exportReferencesGraph`. Placeholders of the outputs are
replaced everywhere. One difference: the program's own name (`$0`) is its whole path.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import NamedTuple, Protocol

from eka_runtime.build.attributes import Attributes
from eka_runtime.build.structured import shell_text, structured_json, structured_text
from eka_runtime.errors import FormatError
from eka_runtime.nix import base32
from eka_runtime.nix.derivation import Derivation
from eka_runtime.nix.outputs import output_placeholder
from eka_runtime.nix.path import STORE_DIR, StorePath, split

BUILD_TOP = "/build"

_GRAPH_FILE = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")


class Graph(Protocol):
    """The closure of store paths among the inputs, as builders may ask for it."""

    def registration(self, paths: Iterable[StorePath]) -> str:
        """As `nix-store --load-db` reads it. FormatError for a path that is no input."""

    def describe(self, paths: Iterable[StorePath]) -> list[dict[str, object]]:
        """As in structured attributes."""


class Start(NamedTuple):
    """`files` lie in the build directory, by name; texts may hold lone surrogates."""

    args: tuple[str, ...]
    env: dict[str, str]
    files: dict[str, str]

    def arg_bytes(self) -> list[bytes]:
        return [_bytes(word) for word in self.args]

    def env_bytes(self) -> list[bytes]:
        return [_bytes(f"{name}={value}") for name, value in sorted(self.env.items())]


def prepare(
    drv: Derivation,
    outputs: Mapping[str, StorePath],
    graph: Graph,
    *,
    cores: int,
    impure: Mapping[str, str],
) -> Start:
    """`outputs`: where each output is to be written; `impure`: the caller's environment.

    Raises FormatError for attributes that make no sense.
    """
    attributes = Attributes.of(drv)
    rewrites = {output_placeholder(name): str(path) for name, path in outputs.items()}
    files: dict[str, str] = {}
    env = {
        "PATH": "/path-not-set",
        "HOME": "/homeless-shelter",
        "NIX_STORE": STORE_DIR,
        "NIX_BUILD_CORES": str(cores),
    }
    if attributes.structured is not None:
        _lay_out_attributes(attributes.structured, drv, graph, env, files)
    else:
        _lay_out_variables(drv, attributes, env, files)
        files |= _exported_graphs(drv.env.get("exportReferencesGraph", ""), graph)
    env |= dict.fromkeys(("NIX_BUILD_TOP", "TMPDIR", "TEMPDIR", "TMP", "TEMP", "PWD"), BUILD_TOP)
    if drv.fixed:
        env["NIX_OUTPUT_CHECKED"] = "1"
    if drv.fixed or drv.impure:
        env |= {name: impure.get(name, "") for name in attributes.strings("impureEnvVars")}
    env |= {"NIX_LOG_FD": "2", "TERM": "xterm-256color"}
    return Start(
        args=tuple(_rewrite(word, rewrites) for word in (drv.builder, *drv.args)),
        env={_rewrite(name, rewrites): _rewrite(env[name], rewrites) for name in env},
        files={name: _rewrite(text, rewrites) for name, text in files.items()},
    )


def _lay_out_variables(
    drv: Derivation, attributes: Attributes, env: dict[str, str], files: dict[str, str]
) -> None:
    as_files = set(attributes.strings("passAsFile"))
    for name, value in drv.env.items():
        if name in as_files:
            file = f".attr-{base32.encode(sha256(_bytes(name)).digest())}"
            files[file] = value
            env[f"{name}Path"] = f"{BUILD_TOP}/{file}"
        elif not name or "=" in name:
            raise FormatError(f"derivation {drv.name} has a variable that cannot be set: {name!r}")
        else:
            env[name] = value


def _lay_out_attributes(
    stated: Mapping[str, object],
    drv: Derivation,
    graph: Graph,
    env: dict[str, str],
    files: dict[str, str],
) -> None:
    value = structured_json(stated, {name: output_placeholder(name) for name in drv.outputs}, graph)
    files[".attrs.json"] = structured_text(value)
    files[".attrs.sh"] = shell_text(value)
    env["NIX_ATTRS_JSON_FILE"] = f"{BUILD_TOP}/.attrs.json"
    env["NIX_ATTRS_SH_FILE"] = f"{BUILD_TOP}/.attrs.sh"


def _exported_graphs(text: str, graph: Graph) -> dict[str, str]:
    words = text.split()
    if len(words) % 2:
        raise FormatError(f"`exportReferencesGraph` has an odd number of words: {text[:200]!r}")
    files = {}
    for file, place in zip(words[::2], words[1::2], strict=True):
        if not _GRAPH_FILE.fullmatch(file):
            raise FormatError(f"`exportReferencesGraph` has the bad file name {file[:200]!r}")
        files[file] = graph.registration([split(place)[0]])
    return files


def _rewrite(text: str, rewrites: Mapping[str, str]) -> str:
    for old, new in rewrites.items():
        text = text.replace(old, new)
    return text


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
