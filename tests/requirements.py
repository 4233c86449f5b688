"""What tests need of the host: asked by doing, skipped with the reason, never silently."""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest

_SBIN = "/usr/local/sbin:/usr/sbin:/sbin"


def require(tool: str) -> str:
    """Path of a program; skips the test without it, or fails it under EKA_TEST_REQUIRE_ALL."""
    found = shutil.which(tool, path=f"{os.environ.get('PATH', os.defpath)}:{_SBIN}")
    return found or lacking(f"`{tool}` is not installed")


def lacking(reason: str) -> NoReturn:
    """Skips with the reason; on a host that must have everything that is a failure."""
    if os.environ.get("EKA_TEST_REQUIRE_ALL"):
        pytest.fail(f"required here: {reason}")
    pytest.skip(reason)
