"""What is known of a build before it begins."""

from __future__ import annotations

import pytest

from eka_runtime.build.attributes import Attributes
from eka_runtime.build.settings import BuildSettings
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


@pytest.mark.parametrize(
    ("system", "features", "enough"),
    [
        ("x86_64-linux", (), True),
        ("builtin", (), True),
        ("x86_64-linux", ("kvm",), True),
        ("aarch64-linux", (), False),
        ("x86_64-linux", ("kvm", "x86_64-linux"), False),
        ("kvm", (), False),
    ],
)
def test_what_a_builder_says_that_it_can_build(
    system: str, features: tuple[str, ...], enough: bool
) -> None:
    declared = BuildSettings(None, systems=("x86_64-linux",), features=("kvm",)).abilities
    assert declared.suffice(system, features) == enough
