"""The parts of a start that need no container; tests/host starts real ones."""

from __future__ import annotations

import errno
import json
import marshal
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eka_runtime.runtime.enter import SIGNALS, binding, render
from eka_runtime.runtime.planned import Plan
from eka_runtime.runtime.trial import RUNNER
from tests.installed import REPOSITORY
from tests.requirements import lacking

TEMPLATE = (b'{"args":[', "args", b'],"env":[', "env", b'],"terminal":', "terminal", b"}")
TEXT = st.text(st.characters(exclude_characters="\0", codec="utf-8"))


def make_plan(**changes: Any) -> Plan:
    plan = Plan(
        mode="outer",
        runtime=("/no/such/runtime", "--root=/no/such/state"),
        path="",
        state="/no/such/state",
        template=TEMPLATE,
        descriptors=0,
        rlimits=(),
        shell="",
        no_network=False,
        milliseconds=0,
        groups=(),
        settle=(),
        init=(),
        terminal=False,
        cover=(),
        readonly=(),
        protect=False,
        pinned=(),
        proc=b"",
        serve=(),
    )
    return plan | changes  # type: ignore[return-value]


def rendered(plan: Plan, args: list[bytes], env: list[bytes]) -> dict[str, Any]:
    config: dict[str, Any] = json.loads(render(plan, args, env, terminal=False))
    return config


@given(st.lists(TEXT), st.lists(TEXT))
def test_words_survive_json(args: list[str], env: list[str]) -> None:
    config = rendered(make_plan(), [a.encode() for a in args], [e.encode() for e in env])
    assert config == {"args": args, "env": env, "terminal": False}


def test_an_init_goes_before_the_program() -> None:
    config = rendered(make_plan(init=("/dev/init", "--")), [b"prog", b"arg"], [])
    assert config["args"] == ["/dev/init", "--", "prog", "arg"]


def test_words_that_are_not_utf8_go_through_the_shell() -> None:
    config = rendered(make_plan(init=("/dev/init",)), [b"prog", b"\xff"], [b"A=b", b"C=\xfe"])
    assert config["args"][:3] == ["/dev/init", "/bin/sh", "-c"]
    assert config["env"] == ["A=b"]


def test_a_plan_may_state_the_callers_limit() -> None:
    template = (b'{"limits":[', "limits", b"]}")
    infinite = (("RLIMIT_NOFILE", 2**64 - 1, 2**64 - 1),)
    soft, hard = (limit % (1 << 64) for limit in resource.getrlimit(resource.RLIMIT_NOFILE))
    assert rendered(make_plan(template=template, rlimits=infinite), [], []) == {
        "limits": [{"type": "RLIMIT_NOFILE", "soft": soft, "hard": hard}]
    }


def test_a_limit_raised_for_the_runtime_is_lowered_for_the_program() -> None:
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if soft == resource.RLIM_INFINITY:
        lacking("the limit of open files is infinite")
    assert rendered(make_plan(descriptors=soft), [b"prog"], [])["args"] == ["prog"]
    args = rendered(make_plan(descriptors=soft + 1), [b"prog"], [])["args"]
    assert (args[0], args[2], args[-1]) == ("/bin/sh", f'ulimit -S -n {soft}; exec "$@"', "prog")


def test_signals_of_faults_and_of_glibc_are_left_alone() -> None:
    assert not SIGNALS & {4, 5, 6, 7, 8, 9, 11, 13, 19, 31, 32, 33}
    assert {1, 2, 3, 10, 12, 14, 15, 17, 18, 20, 28, 34, 64} <= SIGNALS


def test_the_binding_turns_errno_into_an_error_that_names_the_call() -> None:
    call = binding()
    assert call("getppid") == os.getppid()
    with pytest.raises(OSError, match="mount /no/such/place"):
        call("mount", b"none", b"/no/such/place", b"tmpfs", 0, None)
    with pytest.raises(OSError, match="Bad file descriptor") as other:
        call("syncfs", -1)
    assert (other.value.errno, other.value.filename) == (errno.EBADF, "syncfs")


def test_a_start_loads_next_to_nothing(tmp_path: Path) -> None:
    """A start that fails early has imported all that an ordinary start imports."""
    file = tmp_path / "start"
    content: Any = (dict(make_plan()), [b"/bin/true"], [b"A=b"])
    file.write_bytes(marshal.dumps(content))
    words = ["-ISE", "-X", "importtime", "-c"]
    done = subprocess.run(
        [sys.executable, *words, RUNNER, REPOSITORY, file], capture_output=True, text=True
    )
    bare = subprocess.run(
        [sys.executable, *words, "import marshal, posix, sys"], capture_output=True, text=True
    )
    assert done.returncode == 125
    assert imported(done.stderr) - imported(bare.stderr) == {
        "__future__",
        "_ctypes",
        "eka_runtime",
        "eka_runtime.runtime",
        "eka_runtime.runtime.enter",
        "eka_runtime.runtime.isolate",
    }


def imported(report: str) -> set[str]:
    """Names in the output of -X importtime."""
    lines = (line for line in report.splitlines() if line.startswith("import time:"))
    return {line.rpartition("|")[2].strip() for line in lines} - {"imported package"}
