"""Which of several failures a client is told."""

from __future__ import annotations

import pytest

from eka_runtime.build.scheduler import Outcome
from eka_runtime.daemon.realising import failure
from eka_runtime.errors import BuildCancelled, BuilderFailed, DependencyFailed, EkaError
from eka_runtime.nix.path import StorePath

_EFFECTS = [
    BuildCancelled("it was not begun, since another build failed"),
    DependencyFailed("it needs another, which was not built"),
]


def failed(error: EkaError) -> Outcome:
    return Outcome(StorePath.from_base(f"{'0' * 32}-it.drv"), "failed", {}, error=error)


@pytest.mark.parametrize("effect", _EFFECTS, ids=["not begun", "not built"])
def test_the_first_cause_is_told_and_not_what_came_of_it(effect: EkaError) -> None:
    causes = [BuilderFailed("first"), BuilderFailed("second")]
    assert str(failure([failed(error) for error in (effect, *causes)])) == "first"


def test_an_effect_is_told_where_there_is_nothing_else() -> None:
    """As when the client has gone."""
    effects = [failed(effect) for effect in _EFFECTS]
    assert str(failure(effects)) == str(_EFFECTS[0])
