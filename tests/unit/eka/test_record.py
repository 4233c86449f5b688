"""What is recorded was still before the process began, whenever its code is imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CODE = """
import sys, time
from pathlib import Path
file, record = map(Path, sys.argv[1:])
file.write_text("changed")
# Longer than the steps that file times move in.
until = time.monotonic_ns() + 60_000_000
while time.monotonic_ns() < until:
    pass
from eka.record import Dependencies, write_start_record
print(write_start_record(record, b"x", Dependencies((bytes(file),), (), (), (), ()), {}))
"""


def recorded(file: Path, code: str) -> bytes:
    words = [sys.executable, "-c", code, file, file.with_name("record")]
    return subprocess.run(words, capture_output=True, check=True).stdout


def test_a_file_that_changed_since_the_start_is_not_recorded(tmp_path: Path) -> None:
    assert recorded(tmp_path / "file", CODE) == b"False\n"
    # The file is still by now, and so is eka.
    assert recorded(tmp_path / "file", CODE.replace('file.write_text("changed")', "")) == b"True\n"
