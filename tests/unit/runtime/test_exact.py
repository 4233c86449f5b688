from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eka_runtime.runtime.exact import through_shell
from tests.requirements import lacking, require

SHELLS = {"dash": ["dash"], "busybox": ["busybox", "sh"], "bash": ["bash", "--posix"]}
PRINT = "/usr/bin/printf"
WORD = st.binary(max_size=60).map(lambda data: data.replace(b"\0", b""))
VALUE = st.tuples(st.sampled_from([b"A", b"_x9", b"LONG_NAME"]), WORD)


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest) -> list[str]:
    name, *more = SHELLS[request.param]
    return [require(name), *more]


def run(shell: Sequence[str], args: Sequence[bytes], env: Sequence[bytes]) -> bytes:
    """Executes what `through_shell` makes, with `shell` as its /bin/sh."""
    words, variables = through_shell(args, env)
    assert words[:2] == ["/bin/sh", "-c"]
    variable_map = dict(text.split("=", 1) for text in variables)
    done = subprocess.run([*shell, *words[1:]], env=variable_map, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(words=st.lists(WORD, max_size=5))
def test_every_byte_of_an_argument_survives(shell: list[str], words: list[bytes]) -> None:
    output = run(shell, [PRINT.encode(), b"%s\\0", *words, b"\xff"], [])
    assert output == b"".join(word + b"\0" for word in (*words, b"\xff"))


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(pairs=st.lists(VALUE, max_size=3, unique_by=lambda pair: pair[0]))
def test_every_byte_of_a_variable_survives(
    shell: list[str], pairs: list[tuple[bytes, bytes]]
) -> None:
    env = [b"PATH=/usr/bin:/bin", *(name + b"=" + value for name, value in pairs)]
    output = run(shell, [require("env").encode(), b"-0"], env)
    # bash leaves these in what it executes, whatever the script does.
    found = [v for v in output.split(b"\0")[:-1] if not v.startswith((b"_=", b"SHLVL="))]
    assert sorted(found) == sorted(env)


def test_words_longer_than_the_kernel_takes_at_once(shell: list[str]) -> None:
    words = [b"\xff\n" * 30_000, b"x" * 19_999 + b"\xc3\xa9" + b"\xff", b"\xff" * 20_000]
    output = run(shell, [PRINT.encode(), b"%s\\0", *words], [b"A=" + b"\\\xff" * 30_000])
    assert output == b"".join(word + b"\0" for word in words)


def test_the_program_is_looked_up_in_the_new_path(shell: list[str]) -> None:
    printf = shutil.which("printf")
    if printf is None:
        lacking("no printf program")
    assert run(shell, [b"env", b"printf", b"%s", b"\xff"], [b"PATH=/usr/bin:/bin"]) == b"\xff"


@pytest.mark.parametrize("variable", [b"a.b=\xff", b"1a=\xff", b"\xff=1", b"=\xff"])
def test_names_that_no_shell_can_set_are_refused(variable: bytes) -> None:
    with pytest.raises(ValueError, match="no shell can set"):
        through_shell([b"prog"], [variable])
