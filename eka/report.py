"""Runs a command to its exit status: the one place where an exception becomes a message.

Kept apart from `eka/cli.py` so that `eka-run` reports alike without loading click.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

from eka.output import Output
from eka_runtime.errors import EkaError, HostError

EXIT_BUG = 70
"""An exception nobody foresaw; EX_SOFTWARE of sysexits.h."""

_NOT_WRITTEN = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)

EXIT_INTERRUPTED = 130
EXIT_PIPE = 141


def run_guarded(output: Output, action: Callable[[], object]) -> int:
    """The status that `action` returns (0 for none), or that of the error it raised."""
    try:
        status = action()
        sys.stdout.flush()
    except EkaError as error:
        output.error(error)
        return error.exit_code
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader went away (`eka … | head`).
        _drop_output()
        return EXIT_PIPE
    except OSError as error:
        # Whoever opens files of the store or of the caller says which; only stdout has no name.
        if error.filename is not None or error.errno not in _NOT_WRITTEN:
            return _bug(output)
        _drop_output()
        output.error(EkaError(f"cannot write the output: {error.strerror}"))
        return EkaError.exit_code
    except RuntimeError as error:
        # Of threading, which has no class for it.
        if str(error) != "can't start new thread":
            return _bug(output)
        few = HostError("no thread can be started", hint="raise the limit: `ulimit -u`")
        output.error(few)
        return few.exit_code
    except Exception:
        return _bug(output)
    return status if isinstance(status, int) else 0


def leave(status: int) -> NoReturn:
    """Ends the process, when nothing is left to be done.

    Taking an interpreter apart with all that eka imports takes as long as starting a sandbox.
    Threads that somebody waits for at the end of a process are waited for.
    """
    threading = sys.modules.get("threading")
    if threading is not None and any(
        not thread.daemon for thread in threading.enumerate() if thread.name != "MainThread"
    ):
        sys.exit(status)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):  # closed, or None
            stream.flush()
    os._exit(status)


def _drop_output() -> None:
    """stdout must not be flushed again at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _bug(output: Output) -> int:
    error = sys.exc_info()[1]
    while error is not None:
        # What fails while Ctrl-C ends everything is no news.
        if isinstance(error, KeyboardInterrupt):
            return EXIT_INTERRUPTED
        error = error.__context__
    import traceback

    traceback.print_exc()
    output.error(EkaError("this is a bug in eka", hint="report it with the lines above"))
    return EXIT_BUG
