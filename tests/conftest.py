"""Fixtures every test may use; what needs a host capability lives in tests/host/conftest.py."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hypothesis import settings

# A time limit per example would be a timing assertion; a database beside the checkout could not be
# written by another user, and a warning is an error here.
settings.register_profile("eka", database=None, deadline=None)
settings.load_profile("eka")

# Who starts the suite in the background (nohup, a shell's `&`, a runner of jobs) makes it and all
# that it starts ignore signals, which tests send.
for _signal in (signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM):
    signal.signal(_signal, signal.SIG_DFL)
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _leave_forks_alone() -> None:
    """gRPC's handlers of forks kill one child in some thousands where a channel or server is open
    (SIGSEGV, SIGABRT before it execs), and tests of services leave some open for tests of all else.

    What it is told counts when it starts, in this process alone: eka itself closes its channels
    before it forks, and children that open their own need the handlers.
    """
    os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
    import grpc

    grpc.insecure_channel("unix:/nonexistent").close()
    del os.environ["GRPC_ENABLE_FORK_SUPPORT"]


_leave_forks_alone()

VECTORS = Path(__file__).parent / "vectors"


@pytest.fixture(scope="session")
def vectors() -> Path:
    """The committed golden data (tests/vectors)."""
    return VECTORS
