"""What eka asks of an evaluator, and of a builder: two small interfaces, so that each is a module.

An evaluator is a program in the store that reads a request (`request.py`) in a sandbox, with the
daemon's socket beside it, and writes one JSON value to its standard output. What it is given, what
it may see and what becomes of its answer is the same for all (`sandbox.py`); a backend says which
program it is and how it is called. Every backend must pass tests/cli/test_evaluators.py.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

from eka_runtime.nix.path import StorePath

if TYPE_CHECKING:
    from eka_runtime.build.scheduler import Outcome
    from eka_runtime.build.settings import Abilities

Mode = Literal["value", "plan", "shell"]
Capability = Literal["value", "plan", "shell", "import-from-derivation"]


class Command(NamedTuple):
    """What runs in the sandbox: absolute words, and variables on top of the profile's."""

    words: tuple[str, ...]
    env: tuple[tuple[str, str], ...] = ()


class Answer(NamedTuple):
    """What came of a run: the exit status, and both streams."""

    status: int
    out: bytes
    err: str


class Evaluator(Protocol):
    """`roots` are the store paths that it needs to run; they say exactly which evaluator it is."""

    @property
    def name(self) -> str: ...

    @property
    def roots(self) -> tuple[StorePath, ...]: ...

    @property
    def capabilities(self) -> frozenset[Capability]: ...

    def command(self, entry: str, readable: Sequence[str]) -> Command:
        """Evaluates the file `entry`, which may read below `readable` and at /nix/store."""

    def value(self, answer: Answer) -> object:
        """The JSON value. Raises EvaluationError, or ImpureEvaluation that says what was asked."""


class Builder(Protocol):
    """Makes derivations real. eka's own is `eka_runtime/build/scheduler.py`; `eka/realising.py`,
    by which all of eka's commands build, knows it as this only.
    """

    @property
    def capabilities(self) -> Abilities: ...

    def realise(self, wanted: Mapping[StorePath, Collection[str]]) -> Mapping[StorePath, Outcome]:
        """Output names by derivation in, none for all of them; the outcome of each derivation out.

        Outputs of those that did not fail are valid in the store then. That one fails is an
        outcome; raises what planning raises.
        """
