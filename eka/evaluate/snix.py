"""snix's evaluator, where the store has one: a second backend, to keep the interface honest.

It evaluates values. It writes no derivations through a Nix daemon, since it speaks to its own
services, so it has no `plan`. Without `scopedImport` its own builtins are what code sees: the
sandbox keeps it from files and the network, but not from `currentTime`, and expressions of the
composer `nix` do not see their dependencies as names. Tried with snix of December 2025.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import NamedTuple

from eka.evaluate.evaluator import Answer, Capability, Command
from eka.evaluate.nix import failure
from eka_runtime.errors import EvaluationError
from eka_runtime.nix.path import StorePath

PROGRAM = "snix"
_MODE = ("--no-warnings", "--strict", "--raw")
_FAILED = re.compile(r"^error\[E\d+\]: (.*)$", re.MULTILINE)
_THROWN = re.compile(r'error thrown: "(.*)"')
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_ESCAPED = {"n": "\n", "r": "\r", "t": "\t"}


class SnixEvaluator(NamedTuple):
    path: StorePath

    @property
    def name(self) -> str:
        return "snix"

    @property
    def roots(self) -> tuple[StorePath, ...]:
        return (self.path,)

    @property
    def capabilities(self) -> frozenset[Capability]:
        return frozenset(("value",))

    def command(self, entry: str, readable: Sequence[str]) -> Command:
        # It has no restricted mode: the sandbox alone keeps it from what is not `readable`.
        services = tuple(
            (f"{kind}_SERVICE_ADDR", "memory:") for kind in ("BLOB", "DIRECTORY", "PATH_INFO")
        )
        expression = f"builtins.toJSON {{ value = import {entry}; }}"
        words = (f"{self.path}/bin/{PROGRAM}", *_MODE, "-E", expression)
        return Command(words, services)

    def value(self, answer: Answer) -> object:
        if answer.status != 0:
            raise failure(answer._replace(err=_told(answer.err)))
        try:
            return json.loads(_unquoted(answer.out.decode()))["value"]
        except (ValueError, RecursionError, TypeError, KeyError) as error:
            raise EvaluationError(f"the evaluator's answer makes no sense: {error}") from error


def _told(text: str) -> str:
    """What went wrong, as Nix says it, of a text with the source of everything on the way."""
    match = _FAILED.search(text)
    if match is None:
        return text
    thrown = _THROWN.fullmatch(match[1])
    return f"error: {_unescaped(thrown[1]) if thrown else match[1]}"


def _unquoted(text: str) -> str:
    """Even `--raw` text is quoted, as in expressions; an object begins otherwise."""
    text = text.strip()
    return _unescaped(text[1:-1]) if text.startswith('"') else text


def _unescaped(text: str) -> str:
    return _ESCAPE.sub(lambda match: _ESCAPED.get(match[1], match[1]), text)
