from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eka.script.shebang import Shebang, kernel_shebang

ECHO = b"/bin/echo"


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"", None),
        (b"#", None),
        (b" #!/bin/sh\n", None),
        (b"#!", Shebang(b"", None)),
        (b"#!\n", None),
        (b"#! \t \n", None),
        (b"#!\n/bin/sh\n", None),
        (b"#!/bin/sh\n", Shebang(b"/bin/sh", None)),
        (b"#!/bin/sh", Shebang(b"/bin/sh", None)),
        (b"#! \t/bin/sh \t \nx", Shebang(b"/bin/sh", None)),
        (b"#!/bin/sh -e  -x \t\n", Shebang(b"/bin/sh", b"-e  -x")),
        (b"#!/bin/sh\t-e", Shebang(b"/bin/sh", b"-e")),
        (b"#!/bin/sh\r\n", Shebang(b"/bin/sh\r", None)),
        (b"#!/bin/sh ", Shebang(b"/bin/sh", b"")),
        (b"#!/bin/sh\0 -e\n", Shebang(b"/bin/sh", None)),
        (b"#!/bin/sh -e\0 -x\n", Shebang(b"/bin/sh", b"-e")),
        (b"#!" + b"a" * 253 + b"\n", Shebang(b"a" * 253, None)),
        (b"#!" + b"a" * 254 + b"\n", None),
        (b"#!" + b"a" * 252 + b" -x\n", Shebang(b"a" * 252, None)),
        (b"#!" + b"a" * 253 + b" -x\n", Shebang(b"a" * 253, None)),
        (b"#!a " + b"x" * 300 + b"\n", Shebang(b"a", b"x" * 251)),
        (b"#!" + b" " * 300 + b"/bin/sh\n", None),
    ],
)
def test_the_kernels_rules(head: bytes, expected: Shebang | None) -> None:
    assert kernel_shebang(head) == expected


@pytest.mark.parametrize(
    "line",
    [
        b"%s\n",
        b" \t%s \t\n",
        b"%s a  b \t\n",
        b"%s\ta",
        b"%s",
        b"%s ",
        b"%s  ",
        b"%s a ",
        b"%s\0 a\n",
        b"%s a\0b\n",
        b"%s " + b"x" * 241 + b"\n",
        b"%s " + b"x" * 242 + b"\n",
        b"%s " + b"x" * 243 + b"\n",
        b"%s " + b"x" * 400,
        b"%s" + b" " * 300,
        b"/" * 243 + b"%s x\n",
        b"/" * 244 + b"%s x\n",
        b"/" * 245 + b"%s x\n",
        b" " * 241 + b"%s\n",
        b" " * 244 + b"%s\n",
        b" " * 245 + b"%s\n",
        b" " * 245 + b"%s a\n",
        b" " * 300 + b"%s\n",
        b"\n%s\n",
        b"",
        b"\n",
    ],
)
def test_the_kernel_agrees(line: bytes, tmp_path: Path) -> None:
    head = b"#!" + line.replace(b"%s", ECHO)
    assert run_by_kernel(head, tmp_path / "script") == expected_run(head, tmp_path / "script")


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from([b" ", b"\t", b"\0", b"\n", b"x", b" " * 90, b"y" * 90])))
def test_the_kernel_agrees_on_random_rests(tmp_path: Path, pieces: list[bytes]) -> None:
    head = b"#!" + ECHO + b" " + b"".join(pieces)
    assert run_by_kernel(head, tmp_path / "script") == expected_run(head, tmp_path / "script")


def expected_run(head: bytes, script: Path) -> bytes | int:
    shebang = kernel_shebang(head)
    if shebang is None:
        return errno.ENOEXEC
    if not shebang.interpreter:
        return errno.EACCES  # the empty path names the working directory
    assert shebang.interpreter.lstrip(b"/") == ECHO.lstrip(b"/")
    words = [shebang.argument, os.fsencode(script)]
    return b" ".join(word for word in words if word is not None) + b"\n"


def run_by_kernel(head: bytes, script: Path) -> bytes | int:
    """What /bin/echo prints when the kernel starts it for a script; an errno if it does not."""
    script.write_bytes(head)
    script.chmod(0o755)
    try:
        return subprocess.run([script], stdout=subprocess.PIPE, check=True).stdout
    except OSError as error:
        return error.errno or 0
