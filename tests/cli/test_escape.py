"""The escape list of spec/threat-model.md: each attempt is made from inside, and refused.

By root, a user with subordinate ids and one without; under crun and under runc. The attempts that
need nothing but a shell are made by one script, and judged one by one.
"""

from __future__ import annotations

import os
import pty
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from eka_runtime.runtime.init import find_init
from tests.cli.world import World
from tests.requirements import lacking, require

RUNTIMES = ("crun", "runc")
SECRET = b"a secret of the host\n"
UNREACHED = 1000
"""Inside, processes are counted from 1; a host that is a container itself may have few, too."""

# Each succeeds (status 0) when it gets out. {host} is a process of the host, {busybox} a package,
# {other} a store path outside the closure, {beside} a directory of the caller's with a secret.
ATTEMPTS = {
    "another store path": "cat {other}",
    "a listing of the store": "ls /nix/store | grep -v -F -f closure",
    "up and out with ..": "cat ../{beside_name}/secret",
    "by name": "cat {beside}/secret",
    "a symbolic link out": "ln -s {beside} out; cat out/secret",
    "a symbolic link into /proc": "ln -s /proc/1/root root; cat root{beside}/secret",
    "/proc/1/root": "ls /proc/1/root/",
    "/proc/1/cwd": "ls /proc/1/cwd/",
    "/proc/1/environ": "cat /proc/1/environ && [ $$ != 1 ]",
    "the file of the runtime": "cat /proc/1/exe > /dev/null && [ -w /proc/1/exe ]",
    "a process of the host": "ls -d /proc/{host}",
    "a signal to the host": "kill -0 {host}",
    "ptrace of the host": "cat /proc/{host}/mem || cat /proc/{host}/maps",
    "the namespaces of another process": "nsenter -t {host} -m true || nsenter -t 1 -m true",
    "a mount": "mount -t tmpfs none /tmp",
    "a bind mount": "mkdir -p m; mount -o bind / m",
    "a remount of the root": "mount -o remount,rw /",
    "a remount of a package": "mount -o remount,bind,rw {busybox}",
    "uncovering a package": "umount {busybox} || umount -l {busybox}",
    "a mount in namespaces of its own": "unshare -Urm mount -t tmpfs none /tmp",
    "user namespaces": "unshare -U true",
    "chroot": "chroot / true",
    "writing a package": "echo x > {busybox}/bin/busybox",
    "writing beside the packages": "echo x > /nix/store/new",
    "permissions of a package": "chmod u+w {busybox}/bin/busybox",
    "times of a package": "touch {busybox}/bin/busybox",
    "a hard link to a package": "ln {busybox}/bin/busybox linked && echo x >> linked",
    "a package reopened": "exec 5< {busybox}/bin/busybox; echo x >> /proc/self/fd/5",
    "moving a package": "mv {busybox} /nix/store/moved",
    "a device node": "mknod node c 1 3",
    "a device node in /dev": "mknod /dev/mem c 1 1",
    "a device node that is there": "head -c 1 device",
    "a disk that is there": "head -c 1 disk",
    "kernel memory": "head -c 1 /proc/kcore || head -c 1 /dev/mem",
    "kernel switches": "echo 0 > /proc/sys/kernel/panic || echo h > /proc/sysrq-trigger",
    "the host's name": "hostname other",
    "the clock": "date -s 2001-01-01; [ $(date +%Y) = 2001 ]",
    "the kernel's log": "dmesg | grep .",
    "modules": "insmod device",
    "a higher priority": "nice -n -5 true && [ $(nice -n -5 nice) -lt 0 ]",
    "more open files": "ulimit -Hn $(($(ulimit -Hn)+1))",
    "rewriting the script": "echo exit >> escape",
    "replacing the script": "rm escape || mv escape gone",
    "another user's file": "cat private",
    "changing owners": "chown 65534 own",
    "core dumps into a pipe": "echo '|/bin/sh' > /proc/sys/kernel/core_pattern",
    "interfaces": "grep -v -e lo: -e '|' /proc/net/dev",
    "raising the loopback": "ifconfig lo 10.0.0.1 up",
    "keys of the session": "grep . /proc/keys",
    "control groups": "ls /sys/fs/cgroup | grep .",
    "disks of the host": "ls /sys/block | grep .",
}
NAMES = {name: f"attempt{number}" for number, name in enumerate(ATTEMPTS)}


def prepare(world: World, box: Path, beside: Path) -> None:
    """What the attempts find in the directory that they may write to."""
    world.file(beside / "secret", SECRET)
    base = Path(world.busybox).name
    world.file(box / "closure", f"{base}\n")
    world.file(box / "own", "")
    if os.geteuid() != 0:
        return
    # Root puts there what nobody else could.
    (box / "private").write_bytes(SECRET)
    os.chmod(box / "private", 0o600)
    os.chown(box / "private", 65534, 65534)
    for name, kind, number in (
        ("device", 0o020666, os.makedev(1, 5)),
        ("disk", 0o060666, os.stat("/").st_dev),
    ):
        os.mknod(box / name, kind, number)
        os.chmod(box / name, 0o666)


@contextmanager
def bystander(world: World) -> Iterator[int]:
    """A process of the user outside, whose number no process inside comes to have."""
    while True:
        process = world.popen("sleep", "600")
        with process:
            try:
                if process.pid > UNREACHED:
                    yield process.pid
                    return
            finally:
                process.kill()


def body(world: World, box: Path, beside: Path, host: int) -> str:
    values = {
        "host": host,
        "busybox": world.busybox,
        "other": world.other,
        "beside": beside,
        "beside_name": beside.name,
    }
    lines = []
    for name, attempt in ATTEMPTS.items():
        line = attempt.format(**values)
        lines.append(f"if ( {line} ) >/dev/null 2>&1; then echo {NAMES[name]} yes")
        lines.append(f"else echo {NAMES[name]} no; fi")
    return "\n".join(lines)


@pytest.fixture(scope="module")
def outcomes() -> dict[tuple[str, str], dict[str, str]]:
    """By user and runtime, kept for all tests of this module."""
    return {}


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_an_attempt_is_refused(
    world: World, outcomes: dict[tuple[str, str], dict[str, str]], runtime: str, attempt: str
) -> None:
    key = (world.user.label, runtime)
    if key not in outcomes:
        outcomes[key] = attempt_all(world, runtime)
    assert outcomes[key][NAMES[attempt]] == "no"


def attempt_all(world: World, runtime: str) -> dict[str, str]:
    require(runtime)
    box, beside = (world.directory(f"{name}-{runtime}") for name in ("escape", "beside"))
    prepare(world, box, beside)
    with bystander(world) as host:
        script = world.script(box, body(world, box, beside, host), name="escape")
        done = world.run(script, cwd=box, env={"EKA_RUNTIME": runtime}, timeout=100)
    assert done.status == 0, done
    assert (beside / "secret").read_bytes() == SECRET
    return dict(line.split() for line in done.out.decode().splitlines())


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_nothing_outlives_the_run(world: World, box: Path, runtime: str) -> None:
    escape = "(setsid sh -c 'trap \"\" HUP TERM; sleep 1000' &)"
    script = world.script(box, f"{escape}; nohup sleep 1000 >/dev/null 2>&1 & {escape}; exit 3")
    # The pipe ends when the last process that holds it has.
    done = world.run(script, cwd=box, env={"EKA_RUNTIME": require(runtime)}, timeout=100)
    assert done.status == 3


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_nothing_outlives_a_killed_launcher(world: World, box: Path, runtime: str) -> None:
    if b"mode: outer" not in world.run("eka", "doctor", env={"EKA_RUNTIME": runtime}).out:
        lacking("outside the outer mode this takes a static init: tests/host/test_launch_lifetime")
    script = world.script(box, "echo ready; setsid sleep 1000 & sleep 1000")
    env = {"EKA_RUNTIME": runtime}
    process = world.popen(script, cwd=box, env=env, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGKILL)
    with process.stdout as stdout:
        assert stdout.read() == b""
    assert process.wait() == -signal.SIGKILL


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_set_uid_file_gives_nothing(world: World, box: Path, runtime: str) -> None:
    init = find_init() or lacking("no static program that shows its own user: tini")
    if os.geteuid() != 0:
        lacking("only root can make a file that others would be root by")
    owner = 65534 if world.user.uid == 0 else 0
    shutil.copy(init.path, box / "init")
    os.chown(box / "init", owner, owner)
    os.chmod(box / "init", 0o6755)
    body = "./init -- sh -c 'grep ^[UG]id: /proc/$PPID/status'; grep ^[UG]id: /proc/self/status"
    script = world.script(box, body)
    done = world.run(script, cwd=box, env={"EKA_RUNTIME": require(runtime)})
    lines = done.out.decode().splitlines()
    assert len(lines) == 4, done
    assert lines[:2] == lines[2:]


PUSH = """\
import ctypes, fcntl, os
def attempt(number):
    result = ctypes.CDLL(None, use_errno=True).ioctl(0, ctypes.c_ulong(number), b"x")
    return os.strerror(ctypes.get_errno()) if result < 0 else "pushed"
print(os.isatty(0), *(attempt(n) for n in (0x5412, 0x541C, 0x100005412)), sep="; ")
"""


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_input_is_not_pushed_into_the_callers_terminal(
    world: World, box: Path, runtime: str
) -> None:
    python = os.path.realpath("/usr/bin/python3")
    places = [python, "/usr/lib", "/lib64", "/lib"]
    if not all(map(os.path.exists, places)):
        lacking("no Python in /usr/bin with its libraries in /lib")
    world.file(box / "push.py", PUSH)
    script = world.script(box, f"{python} -ISE push.py", f"read = {places!r}")
    master, slave = pty.openpty()
    try:
        # With one stream that is no terminal, the program gets the others as they are.
        env = {"EKA_RUNTIME": require(runtime)}
        done = world.run(script, cwd=box, env=env, stdin=slave, start_new_session=True)
    finally:
        os.close(master)
        os.close(slave)
    seen = done.out.decode().strip().split("; ")
    assert seen[1:3] == ["Operation not permitted"] * 2, done
    assert seen[3] in ("Function not implemented", "Bad address")


def test_grants_by_links_and_dots(world: World, box: Path) -> None:
    """A program that may write here cannot make the next run's grant lead elsewhere."""
    beside = world.directory(f"{box.name}-beside")
    world.file(beside / "secret", SECRET)
    script = world.script(box, "cat data/secret; cat link/secret", 'read = ["./data"]')
    (box / "data").symlink_to(beside)
    done = world.run(script, cwd=box)
    assert (done.status, done.out) == (42, b"")
    assert b"which the program may write to" in done.err
    # By someone who may not write there, it is the caller's own link, and followed.
    assert world.run(script, cwd="/").out == b""
    for text in ("./data/..", "./data/../../secret", "./missing/../data"):
        asked = world.script(box, "true", f'read = ["{text}"]', name="asked")
        assert world.run(asked, cwd=box).status == 42


@pytest.mark.parametrize("place", ["/", "/proc", "/proc/1/root", "/nix/store", "/etc", "/dev"])
def test_grants_that_nobody_gets(world: World, box: Path, place: str) -> None:
    (box / "link").symlink_to(place)
    for text in (place, "./link"):
        script = world.script(box, "true", f'read = ["{text}"]')
        assert world.run(script, cwd=box).status == 42
