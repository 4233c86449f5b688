"""Runs something in a process of its own, so that none of its threads stay behind in this one.

The kernel gives no user namespace to a process with more than one thread, and libraries that talk
to services start threads that never end. So whatever uses them before a bundle is entered is done
here. Constraint: no thread may have been started before.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import traceback
from collections.abc import Callable
from typing import NoReturn

from eka.report import EXIT_BUG, EXIT_INTERRUPTED
from eka_runtime import errors
from eka_runtime.errors import EkaError


def run_apart(work: Callable[[], object]) -> None:
    """Returns when `work` has; raises its EkaError. Files that are open here are not for it.

    Interrupted, both processes end; and the other one ends when this one is killed.
    """
    sys.stdout.flush()
    reading, writing = os.pipe()
    alive, lifeline = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        os.close(lifeline)
        _work_and_exit(work, writing, alive)
    os.close(writing)
    os.close(alive)
    try:
        with open(reading, "rb") as pipe:
            report = pipe.read()
        _, status = os.waitpid(child, 0)
    finally:
        os.close(lifeline)
    _raise(report, os.waitstatus_to_exitcode(status))


def _work_and_exit(work: Callable[[], object], report: int, alive: int) -> NoReturn:
    """No exit handlers and no destructors: what they would end is the parent's."""
    status = EXIT_BUG
    try:
        threading.Thread(target=_exit_with_parent, args=(alive,), daemon=True).start()
        work()
        status = 0
    except EkaError as error:
        os.write(report, json.dumps([_known_class(error), str(error), error.hint]).encode())
        status = error.exit_code
    except KeyboardInterrupt:
        status = EXIT_INTERRUPTED
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def _exit_with_parent(alive: int) -> None:
    """Nothing is ever written to this pipe: it ends when the parent does, however that is."""
    os.read(alive, 1)
    os._exit(EXIT_INTERRUPTED)


def _known_class(error: EkaError) -> str:
    kinds = (kind.__name__ for kind in type(error).__mro__)
    return next(name for name in kinds if isinstance(getattr(errors, name, None), type))


def _raise(report: bytes, status: int) -> None:
    if report:
        name, message, hint = json.loads(report)
        kind: type[EkaError] = getattr(errors, name)
        raise kind(message, hint=hint)
    if status in (EXIT_INTERRUPTED, -2):
        raise KeyboardInterrupt
    if status:
        how = f"by signal {-status}" if status < 0 else f"with status {status}"
        raise EkaError(f"the process that fetches ended {how}", hint="try again")
