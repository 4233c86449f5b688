"""Derivations: what is to be built, with what, by which program.

    Derive([outputs],[inputDrvs],[inputSrcs],"system","builder",[args],[env])

The text (ATerm, without white space) determines the path of the `.drv` and, by way of `outputs.py`,
the paths of what is built, so that reading and writing are exact inverses: what `parse` accepts,
`to_bytes` returns unchanged, and what Nix would not have written is refused. Texts need not be
UTF-8; as in `os.environ`, strange bytes are lone surrogates.

Out of scope: dynamic derivations (`DrvWithVersion`), and where output paths come from.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from hashlib import sha256
from types import MappingProxyType
from typing import NamedTuple, TypeVar

from eka_runtime.errors import FormatError
from eka_runtime.nix.hashes import DIGEST_SIZES, NixHash, check_digest
from eka_runtime.nix.path import StorePath, check_name, text_path

EXTENSION = ".drv"
IMPURE = "impure"
MAX_SIZE = 64 << 20

T = TypeVar("T")

_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_ESCAPE = str.maketrans(_ESCAPES)
_UNESCAPES = {text: character for character, text in _ESCAPES.items()}
_UNESCAPE = re.compile(r"\\(.?)", re.DOTALL)
_STRING = re.compile(r'"([^"\\]*(?:\\.[^"\\]*)*)"', re.DOTALL)
_METHODS = {"": "flat", "r:": "recursive", "text:": "text"}


class Output(NamedTuple):
    """As written: `path` is "" while unknown; `algo` may begin with `r:`; `hash` is hex."""

    path: str = ""
    algo: str = ""
    hash: str = ""

    @property
    def store_path(self) -> StorePath | None:
        return StorePath.parse(self.path) if self.path else None

    @property
    def fixed(self) -> bool:
        """Its contents are stated."""
        return self.hash not in ("", IMPURE)

    @property
    def floating(self) -> bool:
        """Its path will follow from its contents."""
        return bool(self.algo) and not self.fixed

    @property
    def impure(self) -> bool:
        """Floating, and built anew whenever it is asked for."""
        return self.hash == IMPURE

    @property
    def deferred(self) -> bool:
        """Input-addressed, but by inputs that are not known yet."""
        return not (self.path or self.algo)

    @property
    def method(self) -> str:
        """`flat`, `recursive` or `text`, as in content addresses."""
        return _METHODS[self._prefix]

    @property
    def hash_algo(self) -> str:
        return self.algo[len(self._prefix) :]

    def stated_hash(self) -> NixHash:
        """Of a fixed output."""
        return check_digest(self.hash_algo, _from_hex(self.hash))

    @property
    def _prefix(self) -> str:
        return self.algo[: self.algo.rfind(":") + 1]


class Derivation(NamedTuple):
    """Valid by construction through `parse`, `from_json` and `checked`.

    The name is that of its store path without `.drv`. Mappings are ordered as they are written.
    """

    name: str
    outputs: Mapping[str, Output]
    system: str
    builder: str
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = MappingProxyType({})
    input_drvs: Mapping[StorePath, tuple[str, ...]] = MappingProxyType({})
    input_srcs: tuple[StorePath, ...] = ()

    @classmethod
    def parse(cls, name: str, data: bytes) -> Derivation:
        """Raises FormatError for anything that Nix would not have written."""
        if len(data) > MAX_SIZE:
            raise FormatError(f"derivation {name} has more than {MAX_SIZE} bytes")
        reader = _Reader(data.decode("utf-8", "surrogateescape"), name)
        found = _read(reader).checked()
        if found.to_bytes() != data:
            raise FormatError(f"derivation {name} is not in canonical form")
        return found

    def checked(self) -> Derivation:
        """Itself in canonical order; FormatError if Nix could not have made it."""
        check_name(self.name + EXTENSION)
        for name in self.outputs:
            check_name(name)
            if name == "drv":
                raise FormatError(f"derivation {self.name} has an output called `drv`")
        _check_outputs(self)
        for path, wanted in self.input_drvs.items():
            if not path.name.endswith(EXTENSION) or not wanted:
                raise FormatError(f"derivation {self.name} has a bad input derivation {path}")
        if not self.system or not self.builder:
            raise FormatError(f"derivation {self.name} lacks a system or a builder")
        if any("\0" in text for text in (*self.args, self.builder, *self.env, *self.env.values())):
            raise FormatError(
                f"derivation {self.name} has a NUL byte in its arguments or variables"
            )
        return self._ordered()

    def to_bytes(self) -> bytes:
        return self.masked(self.outputs, self.env, _drv_texts(self.input_drvs))

    def masked(
        self,
        outputs: Mapping[str, Output],
        env: Mapping[str, str],
        inputs: Mapping[str, Iterable[str]],
    ) -> bytes:
        """The text with other outputs, variables and input names, as hashes modulo need it."""
        parts = (
            _list(
                f'("{name}","{output.path}","{output.algo}","{output.hash}")'
                for name, output in sorted(outputs.items())
            ),
            _list(
                f'("{drv}",{_list(map(_plain, sorted(names)))})'
                for drv, names in sorted(inputs.items())
            ),
            _list(map(_plain, sorted(map(str, self.input_srcs)))),
            _quote(self.system),
            _quote(self.builder),
            _list(map(_quote, self.args)),
            _list(f"({_quote(key)},{_quote(value)})" for key, value in _by_bytes(env)),
        )
        return _encode(f"Derive({','.join(parts)})")

    @property
    def path(self) -> StorePath:
        """Of the `.drv` itself."""
        references = (*self.input_drvs, *self.input_srcs)
        return text_path(self.name + EXTENSION, sha256(self.to_bytes()).digest(), references)

    @property
    def fixed(self) -> Output | None:
        """The only output, if its contents are stated."""
        output = self.outputs.get("out")
        return output if output is not None and output.fixed else None

    @property
    def floating(self) -> bool:
        return any(output.floating for output in self.outputs.values())

    @property
    def impure(self) -> bool:
        return any(output.impure for output in self.outputs.values())

    def output_name(self, output: str) -> str:
        """The name in that output's store path."""
        return output_path_name(self.name, output)

    def _ordered(self) -> Derivation:
        return self._replace(
            outputs=dict(sorted(self.outputs.items())),
            env=dict(_by_bytes(self.env)),
            input_drvs={
                path: tuple(sorted(set(names)))
                for path, names in sorted(self.input_drvs.items(), key=lambda item: str(item[0]))
            },
            input_srcs=tuple(sorted(set(self.input_srcs), key=str)),
        )


def output_path_name(name: str, output: str) -> str:
    """`hello` for `out`, `hello-dev` for `dev`."""
    return name if output == "out" else f"{name}-{output}"


def derivation_name(path: StorePath) -> str:
    """Name of the derivation at that path; FormatError if it is none."""
    if not path.name.endswith(EXTENSION):
        raise FormatError(f"{path} is not a derivation: its name does not end in {EXTENSION}")
    return path.name.removesuffix(EXTENSION)


def _check_outputs(drv: Derivation) -> None:
    outputs = drv.outputs
    if not outputs:
        raise FormatError(f"derivation {drv.name} has no outputs")
    for name, output in outputs.items():
        _check_output(drv, name, output)
    kinds = {
        (output.fixed, output.floating, output.impure, output.deferred)
        for output in outputs.values()
    }
    if len(kinds) > 1:
        raise FormatError(f"derivation {drv.name} mixes kinds of outputs")
    if any(output.fixed for output in outputs.values()) and set(outputs) != {"out"}:
        raise FormatError(f"derivation {drv.name} has a fixed output beside others")


def _check_output(drv: Derivation, name: str, output: Output) -> None:
    where = f"output {name} of derivation {drv.name}"
    if output.path and StorePath.parse(output.path).name != drv.output_name(name):
        raise FormatError(f"{where} has another name in its path {output.path}")
    if output.algo:
        prefix = output.algo[: output.algo.rfind(":") + 1]
        if prefix not in _METHODS or output.hash_algo not in DIGEST_SIZES:
            raise FormatError(f"{where} has an unknown hash algorithm {output.algo}")
    if output.fixed:
        output.stated_hash()
        if not output.path:
            raise FormatError(f"{where} states its contents but no path")
    elif output.hash and not output.algo:
        raise FormatError(f"{where} has a hash without an algorithm")
    if output.floating and output.path:
        raise FormatError(f"{where} is content-addressed but has a path already")


class _Reader:
    """A cursor over the text; every method advances it or raises FormatError."""

    def __init__(self, text: str, name: str) -> None:
        self._text, self._name, self._at = text, name, 0

    def expect(self, token: str) -> None:
        if not self._text.startswith(token, self._at):
            raise self.error(f"`{token}` expected")
        self._at += len(token)

    def string(self) -> str:
        if not (match := _STRING.match(self._text, self._at)):
            raise self.error("a string expected")
        self._at = match.end()
        found = match[1]
        return _UNESCAPE.sub(self._unescape, found) if "\\" in found else found

    def items(self, item: Callable[[], T]) -> list[T]:
        self.expect("[")
        found = list[T]()
        while not self._text.startswith("]", self._at):
            if found:
                self.expect(",")
            found.append(item())
        self._at += 1
        return found

    def strings(self, size: int) -> list[str]:
        self.expect("(")
        found = [self.string()]
        for _ in range(size - 1):
            self.expect(",")
            found.append(self.string())
        self.expect(")")
        return found

    def end(self) -> None:
        if self._at != len(self._text):
            raise self.error("the end expected")

    def error(self, message: str) -> FormatError:
        return FormatError(f"derivation {self._name}: {message} at character {self._at}")

    def _unescape(self, match: re.Match[str]) -> str:
        if (found := _UNESCAPES.get(match[0])) is None:
            raise self.error(f"unknown escape {match[0]!r} in the string before it")
        return found


def _read(reader: _Reader) -> Derivation:
    name = reader._name
    if reader._text.startswith("DrvWithVersion("):
        raise FormatError(f"derivation {name} is a dynamic one, which is not supported")
    reader.expect("Derive(")
    outputs = reader.items(lambda: reader.strings(4))
    reader.expect(",")
    inputs = reader.items(lambda: _input(reader))
    reader.expect(",")
    sources = reader.items(reader.string)
    reader.expect(",")
    system = reader.string()
    reader.expect(",")
    builder = reader.string()
    reader.expect(",")
    args = reader.items(reader.string)
    reader.expect(",")
    env = reader.items(lambda: reader.strings(2))
    reader.expect(")")
    reader.end()
    return Derivation(
        name=name,
        outputs={output: Output(*rest) for output, *rest in outputs},
        system=system,
        builder=builder,
        args=tuple(args),
        env={key: value for key, value in env},
        input_drvs={StorePath.parse(path): tuple(names) for path, names in inputs},
        input_srcs=tuple(map(StorePath.parse, sources)),
    )


def _input(reader: _Reader) -> tuple[str, list[str]]:
    reader.expect("(")
    path = reader.string()
    reader.expect(",")
    names = reader.items(reader.string)
    reader.expect(")")
    return path, names


def _by_bytes(texts: Mapping[str, str]) -> list[tuple[str, str]]:
    # Lone surrogates sort as characters before some that follow them as bytes.
    return sorted(texts.items(), key=lambda item: _encode(item[0]))


def _drv_texts(inputs: Mapping[StorePath, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    return {str(path): names for path, names in inputs.items()}


def _list(items: Iterable[str]) -> str:
    return f"[{','.join(items)}]"


def _plain(text: str) -> str:
    return f'"{text}"'


def _quote(text: str) -> str:
    return f'"{text.translate(_ESCAPE)}"'


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _from_hex(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise FormatError(f"{text[:160]!r} is not hexadecimal") from None
