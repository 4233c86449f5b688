"""Models of `linux.seccomp` (runtime-spec, config-linux.md#seccomp)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, Self

from eka_runtime.oci.spec_base import Model

if TYPE_CHECKING:
    from eka_runtime.oci.judge import Opt, SomeStrings, UInt32, UInt64

SeccompAction = Literal[
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_KILL_THREAD",
    "SCMP_ACT_TRAP",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_TRACE",
    "SCMP_ACT_ALLOW",
    "SCMP_ACT_LOG",
    "SCMP_ACT_NOTIFY",
]
SeccompArch = Literal[
    "SCMP_ARCH_X86",
    "SCMP_ARCH_X86_64",
    "SCMP_ARCH_X32",
    "SCMP_ARCH_ARM",
    "SCMP_ARCH_AARCH64",
    "SCMP_ARCH_LOONGARCH64",
    "SCMP_ARCH_M68K",
    "SCMP_ARCH_MIPS",
    "SCMP_ARCH_MIPS64",
    "SCMP_ARCH_MIPS64N32",
    "SCMP_ARCH_MIPSEL",
    "SCMP_ARCH_MIPSEL64",
    "SCMP_ARCH_MIPSEL64N32",
    "SCMP_ARCH_PPC",
    "SCMP_ARCH_PPC64",
    "SCMP_ARCH_PPC64LE",
    "SCMP_ARCH_S390",
    "SCMP_ARCH_S390X",
    "SCMP_ARCH_SH",
    "SCMP_ARCH_SHEB",
    "SCMP_ARCH_PARISC",
    "SCMP_ARCH_PARISC64",
    "SCMP_ARCH_RISCV64",
]
SeccompFlag = Literal[
    "SECCOMP_FILTER_FLAG_TSYNC",
    "SECCOMP_FILTER_FLAG_LOG",
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
]
SeccompOperator = Literal[
    "SCMP_CMP_NE",
    "SCMP_CMP_LT",
    "SCMP_CMP_LE",
    "SCMP_CMP_EQ",
    "SCMP_CMP_GE",
    "SCMP_CMP_GT",
    "SCMP_CMP_MASKED_EQ",
]


class SyscallArg(Model):
    index: UInt32
    value: UInt64
    valueTwo: Opt[UInt64] = None
    op: SeccompOperator


class Syscall(Model):
    names: SomeStrings
    action: SeccompAction
    errnoRet: Opt[UInt32] = None
    args: Opt[tuple[SyscallArg, ...]] = None


class Seccomp(Model):
    defaultAction: SeccompAction
    defaultErrnoRet: Opt[UInt32] = None
    flags: Opt[tuple[SeccompFlag, ...]] = None
    listenerPath: Opt[str] = None
    listenerMetadata: Opt[str] = None
    architectures: Opt[tuple[SeccompArch, ...]] = None
    syscalls: Opt[tuple[Syscall, ...]] = None

    @classmethod
    def shipped(cls, data: Mapping[str, Any]) -> Self:
        """Of a filter that comes with eka, which needs no judge."""
        rules = [
            Syscall(**{**rule, "names": tuple(rule["names"]), **_conditions(rule)})
            for rule in data["syscalls"]
        ]
        return cls(**{**data, "syscalls": tuple(rules)})


def _conditions(rule: Mapping[str, Any]) -> dict[str, tuple[SyscallArg, ...]]:
    return {"args": tuple(SyscallArg(**arg) for arg in rule["args"])} if "args" in rule else {}
