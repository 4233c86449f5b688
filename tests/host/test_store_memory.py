"""Large files go in and out in little memory, however large they are.

EKA_LARGE_FILE makes the file larger by hand (in MiB; 10240 is what the store was built for).
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.installed import REPOSITORY
from tests.stores import assert_clean

SIZE = int(os.environ.get("EKA_LARGE_FILE", "256")) << 20
MOST = 200 << 20

# Prints the most memory that eka had, and passes its status on.
MEASURED = """\
import resource, subprocess, sys
done = subprocess.run([sys.executable, "-m", "eka", "store", *sys.argv[1:]])
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss << 10, file=sys.stderr)
sys.exit(done.returncode)
"""


def peak(store: Path, out: Path, *words: str | Path) -> int:
    """Bytes of memory; stdout goes to a file."""
    command: list[str | Path] = [sys.executable, "-c", MEASURED, *words]
    env = os.environ | {"EKA_STORE": os.fspath(store)}
    with out.open("wb") as stdout:
        done = subprocess.run(
            command, stdout=stdout, stderr=subprocess.PIPE, env=env, cwd=REPOSITORY, check=False
        )
    assert done.returncode == 0, done.stderr.decode()
    return int(done.stderr.split()[-1])


@pytest.mark.timeout(0 if SIZE > 1 << 30 else 120)
def test_a_large_file_takes_little_memory(tmp_path: Path) -> None:
    large, first, second = (tmp_path / name for name in ("large", "first", "second"))
    with large.open("wb") as file:
        # Mostly a hole, which costs the disk nothing; no two chunks of the rest are alike.
        for place in range(0, SIZE, SIZE // 16):
            file.seek(place)
            file.write(os.urandom(1 << 16))
        file.truncate(SIZE)
    out, stream, restored = (tmp_path / name for name in ("out", "stream", "restored"))
    peaks = {"add": peak(first, out, "add", large)}
    path = out.read_text().strip()
    peaks["export"] = peak(first, stream, "export", path)
    peaks["import"] = peak(second, out, "import", stream)
    stream.unlink()
    peaks["verify"] = peak(second, out, "verify", "--deep")
    peaks["restore"] = peak(second, out, "restore", path, restored)
    subprocess.run(["cmp", large, restored], check=True)
    assert max(peaks.values()) < MOST, peaks
    for root in (first, second):
        assert_clean(root)
