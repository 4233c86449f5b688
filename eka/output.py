"""Everything a person or a script sees: the only module of eka that prints.

stdout carries data (lines, JSON objects, bytes); stderr carries words for people. Color and
progress appear only when stderr is a terminal (or `--color always`), and never under `NO_COLOR`.
`rich` is imported only when a progress bar is really drawn: most commands finish sooner.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

from eka_runtime.errors import EkaError

ColorMode = Literal["auto", "always", "never"]
Update = Callable[[int, int], None]


class Output:
    """One command's output. `verbosity` is -1 under --quiet, 0 by default, 1 and more under -v."""

    def __init__(
        self, *, json_mode: bool = False, verbosity: int = 0, color: ColorMode = "auto"
    ) -> None:
        self.json_mode = json_mode
        self.verbosity = verbosity
        self.color = color

    def data(self, line: str) -> None:
        """One line of data; surrogate escapes are written as the bytes they were."""
        self.bytes(line.encode("utf-8", "surrogateescape") + b"\n")

    def json(self, value: object) -> None:
        """One JSON object on one line, keys in the order given."""
        self.data(json.dumps(value, ensure_ascii=False, separators=(",", ":")))

    def bytes(self, data: bytes | memoryview) -> None:
        """Raw bytes to stdout, in order with `data`."""
        sys.stdout.flush()
        sys.stdout.buffer.write(data)

    def message(self, text: str) -> None:
        if self.verbosity >= 0:
            self._say(text)

    def detail(self, text: str) -> None:
        """Shown under -v only."""
        if self.verbosity > 0:
            self._say(text)

    def warning(self, text: str) -> None:
        if self.verbosity >= 0:
            self._say(f"{self._paint('warning', '33')}: {text}")

    def error(self, error: EkaError) -> None:
        self._say(f"{self._paint('error', '31')}: {error}")
        if error.hint:
            self._say(f"\n{self._paint('hint', '36')}: {error.hint}")

    @contextmanager
    def progress(self, label: str, total: int | None = None) -> Iterator[Update]:
        """Yields `update(items, bytes)` for absolute counts; drawn only if a person watches."""
        if not self._interactive():
            yield lambda items, size: None
            return
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed} {task.fields[size]}"),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(label, total=total, size="")
            yield lambda items, size: bar.update(task, completed=items, size=human_size(size))

    @contextmanager
    def live(self, lines: Callable[[], Sequence[str]]) -> Iterator[None]:
        """Keeps showing `lines()` below everything else, if a person watches; any thread may."""
        if not self._interactive():
            yield
            return
        from rich.console import Console, Group
        from rich.live import Live
        from rich.text import Text

        def render() -> Group:
            cut = (Text(line, no_wrap=True, overflow="ellipsis") for line in lines())
            return Group(*cut)

        console = Console(stderr=True)
        # Messages go through sys.stderr, which rich puts above what is shown.
        with Live(get_renderable=render, console=console, transient=True, refresh_per_second=8):
            yield

    def _interactive(self) -> bool:
        return self.verbosity >= 0 and not self.json_mode and sys.stderr.isatty()

    def _paint(self, text: str, code: str) -> str:
        return f"\x1b[1;{code}m{text}\x1b[0m" if self._colored() else text

    def _colored(self) -> bool:
        if self.color != "auto":
            return self.color == "always"
        return sys.stderr.isatty() and not os.environ.get("NO_COLOR")

    @staticmethod
    def _say(text: str) -> None:
        sys.stdout.flush()
        sys.stderr.write(text.encode("utf-8", "surrogateescape").decode("utf-8", "replace") + "\n")
        sys.stderr.flush()


def human_size(size: int) -> str:
    """Bytes for people: `512 B`, `1.5 MiB`."""
    if size < 1024:
        return f"{size} B"
    power = min((size.bit_length() - 1) // 10, 4)
    return f"{size / (1 << 10 * power):.1f} {' KMGT'[power]}iB"


def table(rows: Sequence[tuple[str, ...]], header: tuple[str, ...]) -> list[str]:
    """Lines of a plain table, columns padded to their widest cell, the last one left ragged."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (header, *rows)
    ]
