"""Work in a process of its own: its errors come back, its threads do not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import NoReturn

import pytest

from eka.apart import run_apart
from eka_runtime.errors import EkaError, PathNotFound, ServiceError

# Of threads that other tests left behind; eka itself forks before it starts any.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")


class Own(ServiceError):
    """Of a module that the parent never loads."""


def test_work_is_done_elsewhere(tmp_path: Path) -> None:
    def work() -> None:
        threading.Thread(target=threading.Event().wait, daemon=True).start()
        (tmp_path / "pid").write_text(str(os.getpid()))

    run_apart(work)
    assert int((tmp_path / "pid").read_text()) != os.getpid()


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (PathNotFound("no `ü`", hint="look"), PathNotFound),
        (Own("no answer"), ServiceError),
        (EkaError("x" * 100_000, hint=None), EkaError),
    ],
)
def test_its_errors_are_raised_here(error: EkaError, kind: type[EkaError]) -> None:
    def work() -> NoReturn:
        raise error

    with pytest.raises(kind) as caught:
        run_apart(work)
    assert type(caught.value) is kind
    assert (str(caught.value), caught.value.hint) == (str(error), error.hint)


def test_an_interrupt_and_a_kill(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_apart(lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(EkaError, match="ended by signal 9"):
        run_apart(lambda: os.kill(os.getpid(), signal.SIGKILL))

    def bug() -> NoReturn:
        raise ValueError("a bug")

    with pytest.raises(EkaError, match="with status 70"):
        run_apart(bug)
    assert "ValueError: a bug" in capfd.readouterr().err


LAUNCHER = """
import os, sys, threading
from eka.apart import run_apart
def work():
    os.write(1, b"ready\\n")
    threading.Event().wait()
run_apart(work)
"""


def test_it_ends_with_its_parent() -> None:
    command = [sys.executable, "-c", LAUNCHER]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.kill()
        # The end of the pipe, which the other process has, too.
        assert process.stdout.read() == b""
