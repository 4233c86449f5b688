"""What goes through a launch unchanged: statuses, streams, words, variables, limits."""

from __future__ import annotations

import hashlib
import os
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from signal import Signals
from typing import IO

from tests.host.conftest import ENV, TIMEOUT, Box, bind

WORDS = [
    [b""],
    [b"", b"", b"x", b""],
    [b"two words", b"'single'", b'"double"', b"$HOME `id` \\n %s"],
    [b"line\nbreak", b"\n", b"end\n\n", b"\ttab\r\x01\x1b\x7f"],
    ["ünï→😀".encode(), b"\\0101", b"-n", b"--"],
    [b"\xff\xfe", b"caf\xe9\n\n", b"\xed\xa0\x80", b"plain", b"", b"-e \\ \xff _"],
    [b"x" * 100_000, b"y" * 100_000],
    [b"\xff\\" * 50_000],
]


def test_the_exit_status_is_the_programs(box: Box) -> None:
    plan = box.plan()
    for status in (0, 1, 2, 125, 127, 128, 143, 255):
        done = box.sh(f"exit {status}", plan=plan)
        assert (done.returncode, done.stderr) == (status, b"")


def test_every_exit_status_passes(outer: Box) -> None:
    plan = outer.plan()

    def status(number: int) -> int:
        return outer.sh(f"exit {number}", plan=plan).returncode

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(status, range(256))) == list(range(256))


def test_a_program_that_dies_of_a_signal(box: Box) -> None:
    plan = box.plan()
    for number in (Signals.SIGSEGV, Signals.SIGTERM, Signals.SIGKILL, Signals.SIGABRT):
        done = box.sh(f"kill -{number} $$; echo survived", plan=plan)
        assert (done.returncode, done.stdout) == (128 + number, b"")


def test_a_missing_program_is_127(any_box: Box) -> None:
    done = any_box.run(["/bin/no-such-program"])
    assert done.returncode == 127
    assert b"/bin/no-such-program" in done.stderr


def test_a_directory_is_126(any_box: Box) -> None:
    done = any_box.run(["/bin"])
    assert done.returncode == 126
    assert done.stderr != b""


def test_a_runtime_that_cannot_set_up_the_bundle_is_125(any_box: Box) -> None:
    plan = any_box.plan(mounts=[bind(Path("/no/such/source"), "/data")])
    done = any_box.run(["/bin/true"], plan=plan)
    assert done.returncode == 125
    assert done.stderr != b""


def test_a_program_is_its_caller_and_has_no_capability(box: Box) -> None:
    done = box.sh("id -u; id -g; grep -E '^(Cap|NoNewPrivs)' /proc/self/status")
    uid, gid, *lines = done.stdout.decode().splitlines()
    own = (box.user.uid, box.user.gid)
    assert (int(uid), int(gid)) == ((0, 0) if box.runtime == "runc" else own)
    values = dict(line.split() for line in lines)
    assert values.pop("NoNewPrivs:") == "1"
    assert set(values.values()) == {"0" * 16}


def test_a_program_has_only_its_streams_and_no_blocked_signal(box: Box) -> None:
    done = box.sh("ls /proc/$$/fd; grep -E '^Sig(Blk|Pnd)' /proc/$$/status")
    assert done.stdout.split() == [
        *(b"0", b"1", b"2"),
        *(b"SigPnd:", b"0" * 16, b"SigBlk:", b"0" * 16),
    ]


def test_stdin_reaches_stdout(box: Box) -> None:
    data = os.urandom(1 << 20) * 16
    done = box.run(["/bin/cat"], input=data)
    assert done.returncode == 0
    assert done.stdout == data


def test_a_gibibyte_passes(outer: Box) -> None:
    block = os.urandom(1 << 20)
    process = outer.start("exec cat", stdin=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    sent = hashlib.sha256()

    def feed(stdin: IO[bytes]) -> None:
        with stdin:
            for _ in range(1024):
                sent.update(block)
                stdin.write(block)

    feeder = threading.Thread(target=feed, args=(process.stdin,))
    feeder.start()
    received = hashlib.sha256()
    with process.stdout as stdout:
        while data := stdout.read(1 << 20):
            received.update(data)
    feeder.join()
    assert process.wait(TIMEOUT) == 0
    assert received.digest() == sent.digest()


def test_what_the_program_does_not_read_is_left_to_the_caller(outer: Box) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"first\nsecond\n")
    os.close(writing)
    done = outer.run(["/bin/dd", "bs=6", "count=1"], stdin=reading)
    assert done.stdout == b"first\n"
    with open(reading, "rb") as rest:
        assert rest.read() == b"second\n"


def test_closed_standard_streams_stay_out_of_the_way(outer: Box) -> None:
    command = outer.command(["/bin/sh", "-c", "echo out; echo err >&2; cat; exit 3"])
    done = outer.user.run(["/bin/sh", "-c", 'exec "$@" <&-', "sh", *command], timeout=TIMEOUT)
    assert (done.returncode, done.stdout) == (3, b"out\n")
    assert done.stderr.startswith(b"err\n")


def test_readers_notice_that_the_program_closed_its_output(outer: Box) -> None:
    process = outer.start("exec 0<&- 1>&- 2>&-; while :; do :; done", stderr=subprocess.STDOUT)
    assert process.stdout is not None
    with process.stdout as stdout:
        # Ends only if no other process holds the pipe: not the launcher, not its init.
        assert stdout.read() == b""
    process.kill()
    process.wait(TIMEOUT)


def test_arguments_are_exact(any_box: Box) -> None:
    plan = any_box.plan()
    for words in WORDS:
        done = any_box.run(["/bin/sh", "-c", 'printf "%s\\0" "$@"', "name", *words], plan=plan)
        assert done.stderr == b""
        assert done.stdout == b"".join(word + b"\0" for word in words)


def test_variables_are_exact(any_box: Box) -> None:
    plan = any_box.plan()
    for value in (b"", b"a\nb\n\n", b'"$x\\', "→😀".encode(), b"\xff\n\xfe=\n\n"):
        env = [*ENV, b"VALUE=" + value, b"OTHER=\xc3\xa9"]
        done = any_box.run(["/bin/env", "-0"], env=env, plan=plan)
        assert sorted(done.stdout.split(b"\0")[:-1]) == sorted(env)


def test_a_variable_no_shell_can_set_is_refused(outer: Box) -> None:
    done = outer.run(["/bin/env"], env=[*ENV, b"a.b=\xff"])
    assert done.returncode == 125
    assert b"`a.b`" in done.stderr


def test_many_mounts_need_no_higher_limit_and_leave_it_alone(any_box: Box) -> None:
    data = any_box.place / "source"
    data.mkdir()
    mounts = [bind(data, f"/tmp/{number}", "rro") for number in range(400)]
    command = any_box.command(["/bin/sh", "-c", "ulimit -n"], plan=any_box.plan(mounts=mounts))
    limited = ["/bin/sh", "-c", 'ulimit -S -n 300; exec "$@"', "sh", *command]
    done = any_box.user.run(limited, timeout=TIMEOUT)
    assert (done.stdout, done.stderr) == (b"300\n", b"")


def test_fifty_starts_at_once(any_box: Box) -> None:
    command = any_box.command(["/bin/sh", "-c", "read x; echo $x"])
    pipe = subprocess.PIPE
    running = [any_box.user.popen(command, stdin=pipe, stdout=pipe) for _ in range(50)]
    outputs = [
        process.communicate(b"%d\n" % number, timeout=TIMEOUT)[0]
        for number, process in enumerate(running)
    ]
    assert outputs == [b"%d\n" % number for number in range(50)]
    assert {process.returncode for process in running} == {0}
    assert os.listdir(any_box.state) in (["config.json"], [])


def test_degraded_mode_shows_processes_outside_and_nothing_more(degraded: Box) -> None:
    plan = degraded.plan()  # which may skip: not while something waits for the other process
    with degraded.user.popen(["sleep", "1000"]) as own:
        script = f"hostname; cat /proc/{own.pid}/comm; cat /proc/{own.pid}/environ; kill {own.pid}"
        done = degraded.sh(f"{script}; exit 42", plan=plan)
        assert own.poll() is None
        own.kill()
    assert (done.returncode, done.stdout) == (42, b"%s\nsleep\n" % os.uname().nodename.encode())
    assert b"environ': Permission denied" in done.stderr
    assert b"No such process" in done.stderr
