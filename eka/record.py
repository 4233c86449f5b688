"""Writes launch records, the cache that `eka.warm` starts from.

A record is written only when nothing that it depends on can have changed while it was being made:
every file must have been still (by its change time) since before this process began, and the script
must have the same content before and after. Otherwise the next start tries again.
"""

from __future__ import annotations

import marshal
import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from eka import again, warm
from eka.kept import publish

_STARTTIME = 22
_TICK = 20_000_000  # ns; file times move in steps of a kernel tick, at most 10 ms


class Dependencies(NamedTuple):
    """What shaped a launch: `files` by their stamps, the kernel's by their `contents`, `places` by
    where they really are, symbolic `links` by what they say, and what has to be `present`."""

    files: tuple[bytes, ...]
    contents: tuple[bytes, ...]
    places: tuple[bytes, ...]
    links: tuple[bytes, ...]
    present: tuple[bytes, ...]


def write_record(
    flags: list[bytes],
    file: bytes,
    script: bytes | tuple[int, ...] | None,
    depends: Dependencies,
    launch: Mapping[str, Any],
    said: int | None = None,
) -> bool:
    """Whether a record was written. `script` is `warm.fingerprint(file)` from before reading it.

    With `said`, only so many first bytes of the script have shaped the launch.
    """
    facts = _facts(depends)
    statement: bytes | tuple[int, ...] | None
    statement = None if said is None else warm.statement(file, said)
    if script is None or script != warm.fingerprint(file) or facts is None:
        return False
    if statement is None:
        said, statement = None, script
    record = {"format": warm.FORMAT, "said": said, "script": statement, **facts, **launch}
    return publish(Path(os.fsdecode(warm.record_file(flags, file))), marshal.dumps(record))


def write_command_record(
    words: Sequence[str], depends: Dependencies, answer: Mapping[str, Any]
) -> bool:
    """For a command line of `eka`, command first: see `eka/again.py`. Whether it was written.

    `answer` has what was `printed`, or it is a launch.
    """
    line = again.split([os.fsencode(word) for word in words])
    if line is None:
        return False
    target = Path(os.fsdecode(again.record_file(line[0])))
    return write_start_record(target, again.FORMAT, depends, answer)


def write_start_record(
    target: Path, form: bytes, depends: Dependencies, answer: Mapping[str, Any]
) -> bool:
    """At a place, and of a format, of the caller's own. Whether it was written."""
    facts = _facts(depends)
    if facts is None:
        return False
    return publish(target, marshal.dumps({"format": form, **facts, **answer}))


def _facts(depends: Dependencies) -> dict[str, Any] | None:
    """None while something is in motion."""
    stamps = {path: warm.stamp(path) for path in {*depends.files, *_own_files()}}
    if not _still(stamps.values()):
        return None
    return {
        "stamps": sorted(stamps.items()),
        "contents": [(path, warm.content(path)) for path in depends.contents],
        "places": [(path, warm.real(path)) for path in depends.places],
        "links": [(link, os.readlink(link)) for link in depends.links],
        "present": list(depends.present),
    }


def _own_files() -> Iterable[bytes]:
    """The sources of eka that had a part in this launch, so that no upgrade or edit is missed."""
    for name, module in sys.modules.items():
        if name.partition(".")[0] in ("eka", "eka_runtime") and module.__file__:
            yield os.fsencode(module.__file__)


def _still(stamps: Iterable[tuple[int, ...] | None]) -> bool:
    changed = max((stamp[-1] for stamp in stamps if stamp), default=0)
    return changed < _began() - _TICK


@cache
def _began() -> int:
    """When this process was started, by the clock that files have their times from; ns.

    Not when this module was imported: that may be after everything that is to be recorded.
    """
    # Fields 3 and following of proc_pid_stat(5); the name before them may have anything in it.
    fields = Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()
    ticks = int(fields[_STARTTIME - 3])
    age = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - ticks * 10**9 // os.sysconf("SC_CLK_TCK")
    return time.time_ns() - age
