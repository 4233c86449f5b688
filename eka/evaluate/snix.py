"""snix's evaluator, where the store has one: a second backend, to keep the interface honest.

It evaluates values. It writes no derivations through a Nix daemon, since it speaks to its own
services, so it has no `plan`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple

from eka.evaluate.evaluator import Answer, Capability, Command
from eka.evaluate.nix import failure
from eka_runtime.errors import EvaluationError
from eka_runtime.nix.path import StorePath

PROGRAM = "snix"


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
        expression = f"builtins.toJSON (import {entry})"
        words = (f"{self.path}/bin/{PROGRAM}", "--strict", "--raw", "-E", expression)
        return Command(words, services)

    def value(self, answer: Answer) -> object:
        if answer.status != 0:
            raise failure(answer)
        try:
            return json.loads(answer.out)
        except (ValueError, RecursionError) as error:
            raise EvaluationError(f"the evaluator's answer makes no sense: {error}") from error
