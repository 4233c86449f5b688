"""The variables of a bundle: profile defaults, then what eka sets, then what was asked for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from eka_runtime.errors import SpecError
from eka_runtime.oci.explain import Reason
from eka_runtime.oci.grants import Grants
from eka_runtime.oci.profile import Passed, Profile

_PLACEHOLDER = re.compile(r"\{([a-z]+)\}")


def expand(text: str, values: Mapping[str, str]) -> str:
    """Puts values for `{user}`, `{home}` …; the names were checked when the profile was read."""
    return _PLACEHOLDER.sub(lambda match: values[match[1]], text)


def compile_environment(
    profile: Profile,
    stated: Iterable[tuple[str, str]],
    grants: Grants,
    values: Mapping[str, str],
) -> tuple[tuple[str, ...], list[Reason]]:
    """NAME=VALUE texts sorted by name, and the reason for each.

    A variable that is passed on has no value here: it must not be written to a file.
    """
    found = {
        default.name: (expand(default.text, values), default.origin)
        for default in profile.environment
    }
    for name, value in stated:
        found[name] = (value, "packages" if name == "PATH" else "eka")
    for grant in grants.env:
        if grant.value is not None:
            found[grant.name] = (grant.value, grant.origin)
    for name, (value, _) in found.items():
        if "=" in name or "\0" in name + value:
            raise SpecError(f"the variable `{name}` cannot be passed to a program")
    reasons = [Reason("env", name, origin, value) for name, (value, origin) in found.items()]
    for passed in passed_variables(profile, grants):
        when = "on a terminal, yours" if passed.terminal_only else "yours"
        reasons.append(Reason("env", passed.name, passed.origin, f"{when} at each launch, if set"))
    texts = tuple(f"{name}={value}" for name, (value, _) in sorted(found.items()))
    return texts, reasons


def passed_variables(profile: Profile, grants: Grants) -> tuple[Passed, ...]:
    """Sorted by name; a grant wins over the profile, and a stated value over both."""
    found = {passed.name: passed for passed in profile.passed}
    for grant in grants.env:
        found.pop(grant.name, None)
        if grant.value is None:
            found[grant.name] = Passed(grant.name, False, grant.origin)
    return tuple(found[name] for name in sorted(found))
