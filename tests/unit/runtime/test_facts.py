from __future__ import annotations

import pytest

from eka_runtime.runtime import facts

DENIED = "unshare: Operation not permitted"


@pytest.mark.parametrize(
    ("sysctl", "value", "allowed"),
    [
        ("kernel.unprivileged_userns_clone", "0", "1"),
        ("user.max_user_namespaces", "0", "15000"),
        ("kernel.apparmor_restrict_unprivileged_userns", "1", "0"),
    ],
)
def test_a_sysctl_is_the_first_suspect(sysctl: str, value: str, allowed: str) -> None:
    found = facts.explain_userns(DENIED, {sysctl: value}, seccomp=True)
    assert DENIED in found.problem
    assert f"`{sysctl}` is {value}" in found.problem
    assert f"`sysctl -w {sysctl}={allowed}`" in found.remedy


def test_then_a_seccomp_filter() -> None:
    found = facts.explain_userns(DENIED, {}, seccomp=True)
    assert "seccomp" in found.problem
    assert "--security-opt seccomp=unconfined" in found.remedy


def test_otherwise_the_administrator_is_asked() -> None:
    found = facts.explain_userns(DENIED, {}, seccomp=False)
    assert found.problem.endswith(DENIED)
    assert "administrator" in found.remedy
