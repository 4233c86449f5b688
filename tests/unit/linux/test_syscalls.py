from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from eka_runtime.linux import syscalls


def test_syncfs_takes_any_descriptor_of_the_file_system(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        syscalls.syncfs(fd)
    finally:
        os.close(fd)


def test_an_error_has_the_number_the_name_of_the_call_and_the_kernels_words() -> None:
    with pytest.raises(OSError, match="syncfs: Bad file descriptor") as caught:
        syscalls.syncfs(-1)
    assert caught.value.errno == errno.EBADF


def test_mount_names_are_passed_as_bytes(tmp_path: Path) -> None:
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/\xff")
    with pytest.raises(OSError, match="mount: ") as caught:
        syscalls.mount("none", odd, "no-such-file-system")
    assert caught.value.errno in (errno.ENOENT, errno.EPERM, errno.ENODEV)


def test_unshare_rejects_unknown_flags() -> None:
    with pytest.raises(OSError, match="unshare: Invalid argument"):
        syscalls.unshare(1)
