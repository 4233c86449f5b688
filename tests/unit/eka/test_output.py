"""What goes where: data to stdout as it is, words to stderr, color only when asked for."""

from __future__ import annotations

import os
import sys

import pytest

from eka.output import Output, human_size, table
from eka.report import EXIT_BUG, EXIT_INTERRUPTED, run_guarded
from eka_runtime.errors import EkaError, HeaderError


def test_data_keeps_bytes_that_are_not_utf8(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    output = Output()
    output.data(os.fsdecode(b"\xff name"))
    output.json({"key": "é"})
    output.bytes(b"\0")
    sys.stdout.flush()
    assert capfdbinary.readouterr().out == b'\xff name\n{"key":"\xc3\xa9"}\n\0'


def test_an_error_has_its_hint_and_no_color_when_piped(capfd: pytest.CaptureFixture[str]) -> None:
    Output().error(EkaError("it broke", hint="mend it"))
    assert capfd.readouterr() == ("", "error: it broke\n\nhint: mend it\n")


def test_color_is_a_choice(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    Output(color="always").warning("careful")
    assert "\x1b[" in capfd.readouterr().err
    Output(color="never").warning("careful")
    assert capfd.readouterr().err == "warning: careful\n"


def test_quiet_says_errors_only(capfd: pytest.CaptureFixture[str]) -> None:
    output = Output(verbosity=-1)
    output.message("a")
    output.warning("b")
    output.detail("c")
    output.error(EkaError("d"))
    assert capfd.readouterr().err == "error: d\n"


def test_every_failure_has_a_status(capfd: pytest.CaptureFixture[str]) -> None:
    def fail(error: BaseException) -> None:
        raise error

    def fail_at_the_end() -> None:
        try:
            raise KeyboardInterrupt
        finally:
            raise ValueError("closed already")

    output = Output()
    assert run_guarded(output, lambda: None) == 0
    assert run_guarded(output, lambda: 5) == 5
    assert run_guarded(output, lambda: fail(HeaderError("x"))) == HeaderError.exit_code
    assert run_guarded(output, lambda: fail(KeyboardInterrupt())) == EXIT_INTERRUPTED
    assert run_guarded(output, fail_at_the_end) == EXIT_INTERRUPTED
    assert capfd.readouterr().err.count("bug") == 0
    assert run_guarded(output, lambda: fail(ZeroDivisionError())) == EXIT_BUG
    assert "this is a bug in eka" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1536, "1.5 KiB"), (1 << 40, "1.0 TiB"),
     (1 << 52, "4096.0 TiB")],
)  # fmt: skip
def test_sizes_for_people(size: int, text: str) -> None:
    assert human_size(size) == text


def test_tables_are_aligned() -> None:
    lines = table([("a", "long cell", "x"), ("bbbb", "c", "")], ("A", "B", "C"))
    assert lines == ["A     B          C", "a     long cell  x", "bbbb  c"]
