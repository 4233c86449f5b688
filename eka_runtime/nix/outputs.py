"""Where the outputs of a derivation go: its hash modulo, and the paths that follow from it.

A hash modulo stands for what a derivation does, not for how its inputs are fetched: a fixed output
counts by its contents alone, and input derivations are replaced by their own hashes, those of equal
hash merged into one. Nix's `hashDerivationModulo`; snix does not merge.

Where an input is content-addressed, hashes are deferred: the derivation has no output paths until
its inputs are built and put in their derivations' place, which is `resolve`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import NamedTuple

from eka_runtime.errors import FormatError
from eka_runtime.nix import base32
from eka_runtime.nix.derivation import Derivation, Output, derivation_name, output_path_name
from eka_runtime.nix.path import StorePath, fixed_path, output_path, text_path

Read = Callable[[StorePath], Derivation]


class Modulo(NamedTuple):
    """`digests` has the SHA-256 of each output; deferred ones are no base for paths."""

    digests: Mapping[str, bytes]
    deferred: bool


class Modulos:
    """Hashes modulo of a graph of derivations; each derivation is read and hashed once."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self._known: dict[StorePath, Modulo] = {}

    def of_path(self, path: StorePath) -> Modulo:
        """FormatError for a cycle, which only a corrupt store has."""
        # Not recursive: graphs are deeper than Python's stack.
        pending, open_paths = [path], set[StorePath]()
        while pending:
            here = pending[-1]
            if here in self._known:
                pending.pop()
                continue
            drv = self._read(here)
            missing = [] if drv.fixed else [one for one in drv.input_drvs if one not in self._known]
            if not missing:
                self._known[here] = self.of(drv)
                open_paths.discard(here)
            elif here in open_paths:
                raise FormatError(f"derivation {here} depends on itself")
            else:
                open_paths.add(here)
                pending += missing
        return self._known[path]

    def of(self, drv: Derivation) -> Modulo:
        """What derivations see that use it."""
        if output := drv.fixed:
            text = f"fixed:out:{output.algo}:{output.hash}:{output.path}"
            return Modulo({"out": sha256(text.encode()).digest()}, False)
        if drv.impure:
            return Modulo(dict.fromkeys(drv.outputs, sha256(b"impure").digest()), True)
        digest, deferred = self._digest(drv, drv.outputs, drv.env)
        return Modulo(dict.fromkeys(drv.outputs, digest), deferred or drv.floating)

    def output_paths(self, drv: Derivation) -> dict[str, StorePath | None]:
        """Where each output belongs; None where only its contents or its inputs will tell."""
        if output := drv.fixed:
            return {"out": _fixed(drv, output)}
        digest, deferred = self._masked(drv)
        if deferred or drv.floating:
            return dict.fromkeys(drv.outputs)
        return {name: output_path(name, digest, drv.output_name(name)) for name in drv.outputs}

    def realisation_ids(self, drv: Derivation) -> dict[str, str]:
        """By output: `sha256:<hex>!<output>`, under which it is known what one became."""
        if drv.fixed or drv.impure:
            digests = self.of(drv).digests
        else:
            digests = dict.fromkeys(drv.outputs, self._masked(drv)[0])
        return {name: f"sha256:{digest.hex()}!{name}" for name, digest in digests.items()}

    def check(self, drv: Derivation) -> None:
        """FormatError unless the paths that a derivation states are those that belong to it."""
        for name, path in self.output_paths(drv).items():
            stated = drv.outputs[name].path
            if stated != (str(path) if path else ""):
                raise FormatError(
                    f"derivation {drv.name} states the path {stated or 'none'} for its output"
                    f" {name}, which should be {path or 'left open'}"
                )

    def fill(self, drv: Derivation) -> Derivation:
        """The derivation with its output paths, also in the variables named after them."""
        paths = self.output_paths(drv)
        outputs, env = dict(drv.outputs), dict(drv.env)
        for name, path in paths.items():
            if path is not None:
                outputs[name] = outputs[name]._replace(path=str(path))
                env[name] = str(path)
        return drv._replace(outputs=outputs, env=env)

    def _masked(self, drv: Derivation) -> tuple[bytes, bool]:
        """Without the paths of its own outputs."""
        outputs = {name: output._replace(path="") for name, output in drv.outputs.items()}
        env = {key: "" if key in outputs else value for key, value in drv.env.items()}
        return self._digest(drv, outputs, env)

    def _digest(
        self, drv: Derivation, outputs: Mapping[str, Output], env: Mapping[str, str]
    ) -> tuple[bytes, bool]:
        inputs: dict[str, set[str]] = {}
        deferred = False
        for path, names in drv.input_drvs.items():
            modulo = self.of_path(path)
            deferred |= modulo.deferred
            for name in names:
                if (digest := modulo.digests.get(name)) is None:
                    raise FormatError(f"derivation {path} has no output {name}, which is needed")
                inputs.setdefault(digest.hex(), set()).add(name)
        return sha256(drv.masked(outputs, env, inputs)).digest(), deferred


def output_placeholder(output: str) -> str:
    """What stands for an own output whose path is not known yet."""
    return _placeholder(f"nix-output:{output}")


def input_placeholder(drv: StorePath, output: str) -> str:
    """What stands for the output of an input derivation whose path is not known yet."""
    name = output_path_name(derivation_name(drv), output)
    return _placeholder(f"nix-upstream-output:{drv.hash}:{name}")


def resolve(drv: Derivation, built: Callable[[StorePath, str], StorePath]) -> Derivation:
    """The derivation with what its input derivations came to as plain sources.

    `built` gives the path of an input's output. Deferred output paths are filled in.
    """
    sources, texts = set(drv.input_srcs), dict[str, str]()
    for path, names in drv.input_drvs.items():
        for name in names:
            found = built(path, name)
            sources.add(found)
            texts[input_placeholder(path, name)] = str(found)
    rewritten = rewrite(drv._replace(input_drvs={}, input_srcs=tuple(sources)), texts).checked()
    if not any(output.deferred for output in rewritten.outputs.values()):
        return rewritten
    return Modulos(_no_inputs).fill(rewritten).checked()


def rewrite(drv: Derivation, texts: Mapping[str, str]) -> Derivation:
    """Builder, arguments and variables with some texts replaced by others."""

    def put(text: str) -> str:
        for old, new in texts.items():
            text = text.replace(old, new)
        return text

    env = {put(key): put(value) for key, value in drv.env.items()}
    return drv._replace(builder=put(drv.builder), args=tuple(map(put, drv.args)), env=env)


def _fixed(drv: Derivation, output: Output) -> StorePath:
    if output.method == "text":
        return text_path(drv.name, output.stated_hash().digest)
    algo, digest = output.stated_hash()
    return fixed_path(drv.name, algo, digest, output.method == "recursive")


def _placeholder(text: str) -> str:
    return "/" + base32.encode(sha256(text.encode()).digest())


def _no_inputs(path: StorePath) -> Derivation:
    raise FormatError(f"a resolved derivation has the input {path}")
