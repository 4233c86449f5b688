"""The warm path of `eka eval` and `eka run`: the same command line again, with nothing changed.

As for `eka-run` (`warm.py`), a first time leaves a record of everything that the answer depends on,
and this module answers from it only while each of those facts is still true; anything missing or
odd is left to the whole program. A record of `eval` is what was printed, one of `run` is a launch.

CONSTRAINT: imports what `eka.warm` does and nothing more: click alone costs as much as a container.

    $XDG_CACHE_HOME/eka/launch/<key>    beside the records of eka-run; marshal of a dict, mode 0600
    key = BLAKE2b of: format, working directory, the words, and EKA_* XDG_* HOME PATH as they are

Out of scope: writing records (`record.py`).
"""

from __future__ import annotations

import marshal
import posix
import sys
from _blake2 import blake2b

from eka import warm

FORMAT = b"eka command record 1"

_WITH_VALUE = warm.FLAGS_WITH_VALUE | {
    b"--set",
    b"--variant",
    b"--system",
    b"--build-system",
    b"--host-system",
    b"--target-system",
    b"--attr",
    b"-A",
}
_WITHOUT_VALUE = warm.FLAGS_WITHOUT_VALUE | {b"--raw", b"--json"}


def attempt(words: list[bytes]) -> None:
    """Does what the words ask for and ends the process, or returns."""
    line = split(words)
    if line is None:
        return
    key, arguments = line
    try:
        record = marshal.loads(warm.read_own(record_file(key)))
        if "bundle" in record:
            # First of all: what is found to be there has to stay there while the program runs.
            warm.hold(record["bundle"])
        if record["format"] != FORMAT or not warm.unchanged(record):
            return
    except (OSError, ValueError, EOFError, TypeError, KeyError):
        return
    if "printed" in record:
        _print(record["printed"])
        posix._exit(0)
    _start(record, arguments)


def split(words: list[bytes]) -> tuple[list[bytes], list[bytes]] | None:
    """(what a record is found by, arguments of the program); None for the whole program.

    The first word is the command. Only flags are taken whose whole effect is in a record: a
    `--config-file` is not.
    """
    command, index, target = words[0], 1, False
    while index < len(words):
        word = words[index]
        name, equals, _ = word.partition(b"=")
        if word in _WITH_VALUE:
            index += 2
        elif word in _WITHOUT_VALUE or (equals and name in _WITH_VALUE):
            index += 1
        elif word.startswith(b"-") or not word or target:
            return None
        elif command == b"run":
            return words[: index + 1], words[index + 1 :]
        else:
            index, target = index + 1, True
    return (words, []) if command == b"eval" else None


def record_file(key: list[bytes]) -> bytes:
    """Raises OSError without a working directory, KeyError without a home."""
    environ = posix.environ
    cache = environ.get(b"XDG_CACHE_HOME", b"")
    if not cache.startswith(b"/"):
        cache = environ[b"HOME"] + b"/.cache"
    shaping = [name + b"=" + value for name, value in environ.items() if warm.shapes(name)]
    head = b"%d %d %o" % (sys.hexversion, posix.geteuid(), warm.umask())
    text = b"\0".join([FORMAT, head, posix.getcwdb(), *key, b"", *sorted(shaping)])
    return cache + b"/eka/launch/" + blake2b(text, digest_size=20).hexdigest().encode()


def _print(data: bytes) -> None:
    view = memoryview(data)
    try:
        while view:
            view = view[posix.write(1, view) :]
    except BrokenPipeError:
        posix._exit(141)


def _start(record: warm.Record, arguments: list[bytes]) -> None:
    from eka_runtime.runtime.enter import Refused

    for note in record["notes"]:
        warm.warn(note)
    try:
        status = warm.start(record, arguments)
    except Refused:
        # What an earlier probe found holds no longer; the whole program probes again.
        return
    posix._exit(status)
