"""The default system call filter, judged call by call, and the compiler that makes it a program."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from eka_runtime.linux.seccomp import compile_filter
from eka_runtime.oci.grants import Grants
from eka_runtime.oci.judge import judge
from eka_runtime.oci.profile import load_profile
from eka_runtime.oci.seccomp import compile_filter as filter_of
from eka_runtime.oci.spec_seccomp import Seccomp
from tests.bpf import ALLOW, ERRNO, verdict
from tests.requirements import lacking

FILE = Path(__file__).parents[3] / "bundles" / "seccomp.json"
EPERM, ENOSYS = 1, 38
NEWUSER = 0x10000000
TIOCSTI, TIOCLINUX, TCGETS = 0x5412, 0x541C, 0x5401


def default() -> dict[str, Any]:
    data: dict[str, Any] = json.loads(FILE.read_bytes())
    return data


def compiled(data: dict[str, Any]) -> bytes:
    return compile_filter(data) or lacking("no libseccomp")


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("read", ()),
        ("openat2", ()),
        ("execve", ()),
        ("clone", (17,)),
        ("ioctl", (0, TCGETS)),
        ("ioctl", (0, TIOCSTI + 1)),
        # A C library with `int request` sends the sign along.
        ("ioctl", (0, 0xFFFFFFFF80045430)),
        ("ioctl", (0, 0x80045430)),
        ("socket", (1,)),
        ("socket", (10,)),
        ("unshare", (0x200,)),
        ("personality", (0x40000,)),
        ("ptrace", (0,)),
    ],
)
def test_what_programs_do_is_allowed(name: str, arguments: tuple[int, ...]) -> None:
    assert verdict(compiled(default()), name, arguments) == ALLOW


@pytest.mark.parametrize(
    ("name", "arguments", "error"),
    [
        ("ioctl", (0, TIOCSTI), EPERM),
        ("ioctl", (0, TIOCLINUX), EPERM),
        # The kernel looks at the lower half only (CVE-2019-10063).
        ("ioctl", (0, 0x1_0000_0000 + TIOCSTI), ENOSYS),
        ("ioctl", (0, 0xFFFFFFFF_00000000 + TIOCSTI), ENOSYS),
        ("clone", (NEWUSER | 17,), ENOSYS),
        ("clone", (0x1_0000_0000 | NEWUSER,), ENOSYS),
        ("unshare", (NEWUSER,), ENOSYS),
        ("socket", (40,), ENOSYS),
        *((name, (), ENOSYS) for name in ("clone3", "setns", "mount", "umount2", "pivot_root")),
        *((name, (), ENOSYS) for name in ("fsopen", "open_tree", "move_mount", "mount_setattr")),
        *((name, (), ENOSYS) for name in ("bpf", "perf_event_open", "io_uring_setup", "keyctl")),
        *((name, (), ENOSYS) for name in ("add_key", "request_key", "kexec_load", "userfaultfd")),
        *((name, (), ENOSYS) for name in ("init_module", "open_by_handle_at", "chroot", "syslog")),
        *((name, (), ENOSYS) for name in ("reboot", "swapon", "settimeofday", "quotactl")),
    ],
)
def test_what_reaches_deep_into_the_kernel_is_refused(
    name: str, arguments: tuple[int, ...], error: int
) -> None:
    assert verdict(compiled(default()), name, arguments) == ERRNO | error


def test_the_order_of_rules_does_not_matter() -> None:
    turned = default()
    turned["syscalls"].reverse()
    program = compiled(turned)
    assert verdict(program, "ioctl", (0, TIOCSTI)) == ERRNO | EPERM
    assert verdict(program, "ioctl", (0, TCGETS)) == ALLOW


def test_nesting_allows_containers_and_no_more() -> None:
    wider = filter_of(load_profile("run"), Grants(nesting="--nesting"))
    assert wider is not None
    program = compiled(wider.to_data())
    for name, arguments in (("mount", ()), ("unshare", (NEWUSER,)), ("clone", (NEWUSER,))):
        assert verdict(program, name, arguments) == ALLOW
    for name in ("kexec_load", "io_uring_setup", "perf_event_open"):
        assert verdict(program, name) == ERRNO | ENOSYS
    assert verdict(program, "ioctl", (0, TIOCSTI)) == ERRNO | EPERM


@pytest.mark.parametrize(
    "change",
    [
        {"flags": ["SECCOMP_FILTER_FLAG_LOG"]},
        {"architectures": ["SCMP_ARCH_X86_64"]},
        {"defaultAction": "SCMP_ACT_KILL"},
        {"syscalls": [{"names": ["read"], "action": "SCMP_ACT_NOTIFY"}]},
        {"syscalls": [{"action": "SCMP_ACT_ALLOW"}]},
    ],
)
def test_what_is_out_of_the_ordinary_is_left_to_the_runtime(change: dict[str, Any]) -> None:
    assert compile_filter(default() | change) is None


def test_unknown_system_calls_stay_refused() -> None:
    more = {"names": ["of_the_future", "mount"], "action": "SCMP_ACT_ALLOW"}
    data = default()
    assert verdict(compiled(data | {"syscalls": [*data["syscalls"], more]}), "mount") == ALLOW


def test_the_file_is_a_filter_and_small() -> None:
    judge(Seccomp, FILE.read_bytes())
    assert len(compiled(default())) // 8 < 1000
