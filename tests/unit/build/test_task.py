"""What is known of a build before it begins."""

from __future__ import annotations

import pytest

from eka_runtime.build.attributes import Attributes
from eka_runtime.build.task import Task
from eka_runtime.nix.derivation import Derivation, Output
from eka_runtime.nix.path import StorePath

OUT = StorePath("0" * 32, "x")
PLAIN = Output(str(OUT), "", "")


@pytest.mark.parametrize(
    ("output", "env", "apart"),
    [
        (PLAIN, {}, True),
        (PLAIN, {"__noChroot": "1"}, False),
        (Output(str(OUT), "sha256", "00" * 32), {}, False),
        (Output("", "r:sha256", "impure"), {}, False),
        (Output("", "r:sha256", ""), {}, True),
    ],
)
def test_who_may_hand_out_what_he_has_open(
    output: Output, env: dict[str, str], apart: bool
) -> None:
    """By the host's network; a file of such a builder must never become a blob itself."""
    drv = Derivation("x", {"out": output}, "x86_64-linux", "/bin/sh", (), env)
    made = Task(StorePath("1" * 32, "x.drv"), drv, Attributes.of(drv), (), {"out": OUT})
    assert made.reaches_host != apart
