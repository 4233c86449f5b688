"""Compiles a system call filter into the kernel's own form (classic BPF), with libseccomp.

A runtime does the same at every start, for 2 ms and more with every architecture; done once, on the
cold path, it is free. Source: seccomp_rule_add(3), and config-linux.md#seccomp for the names.
Constraint: None whenever in doubt, so that the runtime compiles the filter itself.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

COMPATIBLE = {"x86_64": ("x86",), "aarch64": ("arm",)}
"""Architectures whose programs the kernel runs, too: libseccomp's names by those of uname(2)."""

_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000  # SCMP_ACT_*, <seccomp.h>
_COMPARISONS = ("NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ")  # enum scmp_compare, from 1
_OPTIMIZE, _BINARY_TREE = (
    8,
    2,
)  # libseccomp 2.5: the kernel walks ten steps instead of 300, at each start
_EPERM = 1
_SIMPLE = {"defaultAction", "defaultErrnoRet", "syscalls"}


class _Comparison(ctypes.Structure):
    """struct scmp_arg_cmp."""

    _fields_ = (
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("a", ctypes.c_uint64),
        ("b", ctypes.c_uint64),
    )


class _Unknown(Exception):
    """A filter that says more than allow and errno, or that libseccomp refuses."""


def compile_filter(seccomp: Mapping[str, Any]) -> bytes | None:
    """The BPF of `linux.seccomp`, for this machine and the architectures compatible with it.

    None without libseccomp, or for a filter with flags, actions or architectures of its own.
    """
    library = _library()
    if library is None or not set(seccomp) <= _SIMPLE:
        return None
    try:
        default = _action(seccomp["defaultAction"], seccomp.get("defaultErrnoRet"))
        with _context(library, default) as context:
            library.seccomp_attr_set(context, _OPTIMIZE, _BINARY_TREE)
            for name in COMPATIBLE.get(os.uname().machine, ()):
                _check(library.seccomp_arch_add(context, _architecture(library, name)))
            for rule in seccomp.get("syscalls", ()):
                _add(library, context, rule, default)
            return _export(library, context)
    except (_Unknown, KeyError, ValueError):
        return None


def _add(library: ctypes.CDLL, context: int, rule: Mapping[str, Any], default: int) -> None:
    action = _action(rule["action"], rule.get("errnoRet"))
    if action == default:
        return
    comparisons = [_comparison(argument) for argument in rule.get("args", ())]
    array = (_Comparison * max(1, len(comparisons)))(*comparisons)
    for name in rule["names"]:
        number = library.seccomp_syscall_resolve_name(name.encode())
        if number != -1:  # __NR_SCMP_ERROR: newer than the library, so it stays refused
            _check(library.seccomp_rule_add_array(context, action, number, len(comparisons), array))


def _comparison(argument: Mapping[str, Any]) -> _Comparison:
    operator = _COMPARISONS.index(argument["op"].removeprefix("SCMP_CMP_")) + 1
    value, second = argument["value"], argument.get("valueTwo", 0)
    return _Comparison(argument["index"], operator, value, second)


def _action(name: str, errno: int | None) -> int:
    if name == "SCMP_ACT_ALLOW":
        return _ALLOW
    if name != "SCMP_ACT_ERRNO":
        raise _Unknown
    return _ERRNO | (_EPERM if errno is None else errno)


def _architecture(library: ctypes.CDLL, name: str) -> int:
    found: int = library.seccomp_arch_resolve_name(name.encode())
    if found == 0:
        raise _Unknown
    return found


@contextmanager
def _context(library: ctypes.CDLL, default: int) -> Iterator[int]:
    context = library.seccomp_init(default)
    if not context:
        raise _Unknown
    try:
        yield context
    finally:
        library.seccomp_release(context)


def _export(library: ctypes.CDLL, context: int) -> bytes:
    fd = os.memfd_create("eka-filter")
    try:
        _check(library.seccomp_export_bpf(context, fd))
        return os.pread(fd, os.fstat(fd).st_size, 0)
    finally:
        os.close(fd)


def _check(result: int) -> None:
    if result < 0:
        raise _Unknown


@functools.cache
def _library() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL("libseccomp.so.2")
    except OSError:
        return None
    pointer, number = ctypes.c_void_p, ctypes.c_uint32
    library.seccomp_init.restype = pointer
    library.seccomp_init.argtypes = (number,)
    library.seccomp_release.argtypes = (pointer,)
    library.seccomp_attr_set.argtypes = (pointer, ctypes.c_int, number)
    library.seccomp_arch_add.argtypes = (pointer, number)
    library.seccomp_arch_resolve_name.restype = number
    library.seccomp_rule_add_array.argtypes = (
        *(pointer, number, ctypes.c_int, ctypes.c_uint, ctypes.POINTER(_Comparison)),
    )
    library.seccomp_export_bpf.argtypes = (pointer, ctypes.c_int)
    return library
