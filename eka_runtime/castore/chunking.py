"""Cuts contents into chunks where the contents say so, exactly where snix would.

FastCDC of 2020 with normalization level 1 and seed 0: a chunk has between half and twice the
average size, and bytes inserted move no cut far behind them. Where the cuts are is not part of any
format; cutting where snix cuts is what lets two writers share chunks. `pyfastcdc` finds the cuts
of the Rust crate that snix uses, some hundred times faster than Python could.
"""

from __future__ import annotations

from collections.abc import Iterator

from pyfastcdc import FastCDC

from eka_runtime.castore.services import Read
from eka_runtime.errors import UsageError

AVERAGE = 1 << 18
MAX_CHUNK = 1 << 24
"""Bytes; FastCDC as snix has it makes no larger chunks, whatever it is told."""

# With half and twice of them still within the limits of snix's FastCDC.
_AVERAGES = range(512, (1 << 21) + 1)
_BLOCK = 1 << 21


def check_average(average: int) -> None:
    """Raises UsageError for an average size that snix would not take."""
    if average not in _AVERAGES:
        raise UsageError(
            f"average chunk size {average} is not from {_AVERAGES[0]} to {_AVERAGES[-1]} bytes"
        )


def chunks(read: Read, average: int = AVERAGE) -> Iterator[bytes]:
    """The contents in pieces; none if they are empty. Holds a few megabytes."""
    minimum, maximum = average // 2, average * 2
    # One for each stream: it must not be used by two threads.
    cutter = FastCDC(average, min_size=minimum, max_size=maximum, normalized_chunking=1)
    kept = b""
    while block := _fill(read, kept, max(_BLOCK, 2 * maximum)):
        at_end = len(block) < max(_BLOCK, 2 * maximum)
        start = 0
        for chunk in cutter.cut_buf(block):
            # Nearer to the end than that, a cut could depend on what comes next.
            if not at_end and len(block) - start < maximum:
                break
            yield bytes(chunk.data)
            start += chunk.length
        kept = block[start:]


def _fill(read: Read, kept: bytes, size: int) -> bytes:
    """`kept` and what follows it, up to `size` bytes; less only at the end."""
    parts, missing = [kept], size - len(kept)
    while missing and (data := read(missing)):
        parts.append(data)
        missing -= len(data)
    return b"".join(parts)
