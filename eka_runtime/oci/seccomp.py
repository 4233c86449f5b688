"""The system call filter of a bundle: the profile's, wider where containers were granted.

The filter itself is data (bundles/seccomp.json, in the form of config.json). Out of scope: turning
it into a program for the kernel, which the runtime does, or eka_runtime.linux.seccomp ahead of it.
"""

from __future__ import annotations

from eka_runtime.oci.explain import Reason, describe_filter
from eka_runtime.oci.grants import Grants
from eka_runtime.oci.profile import Profile
from eka_runtime.oci.spec_seccomp import Seccomp, Syscall


def compile_filter(profile: Profile, grants: Grants) -> Seccomp | None:
    """`linux.seccomp`; None where the profile has none."""
    base = profile.seccomp
    if base is None or grants.nesting is None or not profile.nesting:
        return base
    # An unconditional rule takes the place of those that look at arguments.
    kept = [rule for rule in base.syscalls or () if not set(rule.names) <= set(profile.nesting)]
    wider = Syscall(names=profile.nesting, action="SCMP_ACT_ALLOW")
    return base.replace(syscalls=(*kept, wider))


def filter_reasons(profile: Profile, grants: Grants) -> list[Reason]:
    seccomp = compile_filter(profile, grants)
    if seccomp is None:
        return [Reason("seccomp", "filter", profile.origin("seccomp"), "none")]
    reasons = [Reason("seccomp", "filter", profile.origin("seccomp"), describe_filter(seccomp))]
    if grants.nesting is not None:
        detail = "may make namespaces and mounts of its own"
        reasons.append(Reason("seccomp", "nesting", grants.nesting, detail))
    return reasons
