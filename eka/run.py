"""`eka-run`, the cold path: a script's first start, and every start that `eka.warm` will not take.

Reads the header, compiles the bundle into the cache, leaves a launch record for the next start, and
enters the bundle by the same code as a warm start does.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NoReturn

from eka import warm
from eka.launching import explain, get_ready, record_launch, require_full_sandbox
from eka.output import Output
from eka.script.flags import Flags, parse_flags, render_help
from eka.version import __version__
from eka.wanted import from_file
from eka_runtime.errors import UsageError


def main(argv: list[str] | None = None) -> NoReturn:
    """Does not return: the process ends with the program's status, or the error's."""
    from eka.report import run_guarded

    output = Output()
    words = sys.argv[1:] if argv is None else argv
    status = run_guarded(output, lambda: run(words, output))
    sys.stdout.flush()
    # The program has run and the launcher's namespaces are not ours any more: no exit handlers.
    os._exit(status)


def run(argv: list[str], output: Output) -> int:
    flags, rest = parse_flags(argv)
    apply_output(flags, output)
    if flags.help:
        output.bytes(render_help().encode())
        return 0
    if flags.version:
        output.data(f"eka-run {__version__}")
        return 0
    if not rest:
        raise UsageError("no FILE to run", hint="see `eka-run --help`")
    if flags.directory:
        change_directory(flags.directory)
    return run_file(rest[0], rest[1:], flags, argv[: len(argv) - len(rest)], output)


def run_file(
    file: str, arguments: list[str], flags: Flags, words: list[str], output: Output
) -> int:
    """`words` are the flags as typed: a launch record is found again by them."""
    fingerprint = _fingerprint(file)
    store_dir = Path(flags.store) if flags.store else None
    with get_ready(
        lambda reach: from_file(file, flags, reach),
        store_dir,
        output,
        offline=flags.offline,
        record=flags.record,
        lazy=flags.lazy,
    ) as found:
        ready, stated = found
        if stated.explain:
            return explain(ready.bundle.reasons, ready.notes, output)
        if stated.require_sandbox:
            require_full_sandbox(ready)
        if stated.keep:
            output.message(f"bundle: {ready.bundle_dir}")
        elif ready.prepared.lasting and not flags.directory:
            record_launch(words, file, fingerprint, ready, output)
        return ready.start(arguments, output)


def apply_output(flags: Flags, output: Output) -> None:
    output.json_mode = flags.json
    output.verbosity = flags.verbosity
    if flags.color in ("auto", "always", "never"):
        output.color = flags.color  # type: ignore[assignment]


def change_directory(directory: str) -> None:
    try:
        os.chdir(directory)
    except OSError as error:
        raise UsageError(f"cannot change to `{directory}`: {error.strerror}") from error


def _fingerprint(file: str) -> bytes | tuple[int, ...] | None:
    try:
        return warm.fingerprint(os.fsencode(file))
    except OSError:
        return None  # reading it will say what is wrong


if __name__ == "__main__":
    main()
