"""What a script cannot do, and can once its header grants it. Each refusal is the kernel's."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli.world import World
from tests.requirements import lacking


@contextmanager
def greeting_server() -> Iterator[int]:
    """A TCP server on the host's loopback that greets whoever connects; yields its port."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.sendall(b"from the host\n")

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.mark.parametrize("granted", [False, True])
def test_network(world: World, box: Path, granted: bool) -> None:
    header = f"network = {str(granted).lower()}"
    script = world.script(box, 'nc 127.0.0.1 "$1" </dev/null', header)
    with greeting_server() as port:
        done = world.run(script, str(port))
    assert (b"from the host" in done.out) == granted
    assert (done.status == 0) == granted


@pytest.mark.parametrize("granted", [False, True])
def test_home(world: World, box: Path, granted: bool) -> None:
    home = world.directory(f"home-{granted}")
    world.file(home / "private", "my secret\n")
    script = world.script(box, "cat ~/private; echo mine > ~/new; cat ~/new")
    flags = [f"--read={home}/private"] if granted else []
    done = world.run("eka-run", *flags, script, env={"HOME": str(home)}, cwd=box)
    assert (b"my secret" in done.out) == granted
    assert b"mine" in done.out
    assert not (home / "new").exists()


def test_a_home_as_working_directory_is_not_shown(world: World, box: Path) -> None:
    world.file(box / "private", "my secret\n")
    script = world.script(box, "ls -A; cat private")
    done = world.run(script, env={"HOME": str(box)}, cwd=box)
    assert b"my secret" not in done.out
    assert b"is not visible to the program because it is the home directory" in done.err


def test_host_processes_are_not_visible(world: World, box: Path) -> None:
    script = world.script(box, 'ls -d /proc/[0-9]*; kill -0 "$1" 2>&1; cat /proc/"$1"/comm 2>&1')
    done = world.run(script, str(os.getpid()))
    lines = done.out.decode().splitlines()
    assert len([line for line in lines if line.startswith("/proc/")]) < 6
    assert "No such process" in done.out.decode()


@pytest.mark.parametrize("place", ["/", "/etc", "/nix/store", "/usr/bin", "{busybox}", "{beside}"])
def test_nothing_outside_the_grants_can_be_written(world: World, box: Path, place: str) -> None:
    beside = world.directory(f"{box.name}-beside")
    where = place.format(busybox=world.busybox, beside=beside)
    script = world.script(box, f"echo x > {where}/made && echo written")
    done = world.run(script, cwd=box)
    assert b"written" not in done.out
    assert list(beside.iterdir()) == []


def test_a_write_grant_writes_and_a_read_grant_does_not(world: World, box: Path) -> None:
    away = world.directory(f"{box.name}-away")
    readable = world.directory(f"{box.name}-readable")
    world.file(readable / "data", "to be read\n")
    body = f"cat {readable}/data; echo x > {readable}/new; echo done > {away}/new"
    script = world.script(box, body, f'read = ["{readable}"]\nwrite = ["../{away.name}"]')
    done = world.run(script, cwd=box)
    assert done.out == b"to be read\n"
    assert b"Read-only file system" in done.err
    assert (away / "new").read_text() == "done\n"
    assert sorted(os.listdir(readable)) == ["data"]


def test_the_script_cannot_rewrite_itself(world: World, box: Path) -> None:
    script = world.script(box, 'echo "exit 0" >> "$0"')
    before = script.read_bytes()
    done = world.run(script, cwd=box)
    assert done.status != 0
    assert script.read_bytes() == before


def test_no_privileges(world: World, box: Path) -> None:
    script = world.script(box, "grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status")
    done = world.run(script)
    status = dict(line.split(":\t") for line in done.out.decode().splitlines())
    assert status.pop("NoNewPrivs") == "1"
    assert {value for key, value in status.items() if key.startswith("Cap")} == {"0" * 16}


@pytest.mark.parametrize(
    "attempt",
    [
        "mount -t tmpfs none /tmp",
        "mount -o remount,rw /",
        "mount -o remount,bind,rw {busybox}",
        "umount {busybox}",
        "chroot / true",
        "hostname other",
        "mknod /tmp/null c 1 3",
        "chmod u+w {busybox}/bin/busybox",
        "ls /proc/1/root/",
        "cat /proc/1/environ",
        "echo 0 > /proc/sys/kernel/panic",
        "cat /proc/kcore",
        "ifconfig lo down",
    ],
)
def test_the_kernel_refuses(world: World, box: Path, attempt: str) -> None:
    line = attempt.format(busybox=world.busybox)
    script = world.script(box, f"{line} && echo succeeded")
    done = world.run(script, cwd=box)
    assert b"succeeded" not in done.out
    assert done.status != 0


def test_shell_and_env_are_there(world: World, box: Path) -> None:
    script = world.file(
        box / "script", "#!/usr/bin/env eka-run\n/usr/bin/env A=b /bin/sh -c 'echo $A'\n", 0o755
    )
    assert world.run(script).out == b"b\n"


def test_tmp_is_private_and_gone_afterwards(world: World, box: Path) -> None:
    script = world.script(box, "ls -A /tmp; echo x > /tmp/eka-left; ls /tmp")
    assert b"eka-left" in world.run(script, cwd="/").out
    assert not os.path.exists("/tmp/eka-left")


def test_a_store_inside_the_working_directory_is_hidden(world: World, box: Path) -> None:
    env = {"EKA_STORE": str(box / "store")}
    script = world.file(box / "script", "#!/usr/bin/env eka-run\necho store/* > seen\n", 0o755)
    assert world.run(script, cwd=box, env=env).status == 0
    assert (box / "store" / "format").exists()
    assert (box / "seen").read_text() == "store/*\n"


def test_where_eka_keeps_its_records_is_not_granted(world: World, box: Path) -> None:
    script = world.script(box, "echo evil > host.json && echo written")
    cache = world.place / "cache" / "eka"
    cache.mkdir(parents=True, exist_ok=True)
    done = world.run(script, cwd=cache)
    assert b"written" not in done.out
    assert b"where eka keeps its own files" in done.err
    asked = world.script(box, "true", f'write = ["{cache}"]')
    assert world.run(asked, cwd=box).status == 42


@pytest.mark.parametrize("granted", [False, True])
def test_containers_of_its_own(world: World, box: Path, granted: bool) -> None:
    header = f"nesting = {str(granted).lower()}"
    script = world.script(box, "unshare -Urm sh -c 'mount -t tmpfs none /tmp && echo made'", header)
    done = world.run(script)
    assert (done.out == b"made\n") == granted, done.err.decode()


def test_a_filter_is_in_force(world: World, box: Path) -> None:
    script = world.script(box, "grep -E '^Seccomp(_filters)?:' /proc/self/status")
    done = world.run(script)
    assert done.out.split()[1] == b"2", done
    for runtime in ("crun", "runc"):
        done = world.run(script, env={"EKA_RUNTIME": runtime})
        assert done.out.split()[1] == b"2", done


@pytest.mark.parametrize("mode", ["off", "loopback"])
def test_a_network_of_its_own(world: World, box: Path, mode: str) -> None:
    body = "(nc -l -p 5000 </dev/null &) ; i=0; while ! echo x | nc 127.0.0.1 5000 2>/dev/null\n"
    tries = 600 if mode == "loopback" else 20  # other programs may keep the machine busy
    body += f"do i=$((i+1)); [ $i -gt {tries} ] && exit 9; sleep 0.1; done; echo reached"
    script = world.script(box, body, f'network = "{mode}"')
    for _ in range(2):
        done = world.run(script)
        outer = b"mode: outer" in world.run("eka", "doctor").out
        assert (b"reached" in done.out) == (mode == "loopback" or not outer), done
    interfaces = world.run(world.script(box, "cat /proc/net/dev", f'network = "{mode}"'))
    assert [line for line in interfaces.out.splitlines()[2:] if b"lo:" not in line] == []
    explained = world.run("eka", "explain", "--json", script).out.decode().splitlines()
    (origin,) = [row["origin"] for row in map(json.loads, explained) if row["subject"] == "network"]
    assert origin.startswith("network (" if mode == "loopback" else "profile run")


def test_a_persistent_home_is_the_scripts_own(world: World, box: Path) -> None:
    home, data = (world.directory(f"{box.name}-{name}") for name in ("home", "data"))
    world.file(home / "private", "my secret\n")
    env = {"HOME": str(home), "XDG_DATA_HOME": str(data)}
    body = "echo x >> ~/kept; wc -l < ~/kept; ls -A ~"
    one, two = (
        world.script(box, body, 'home = "persistent"', name=name) for name in ("one", "two")
    )
    for expected in (b"1\nkept\n", b"2\nkept\n", b"3\nkept\n"):
        assert world.run(one, env=env, cwd=box).out == expected
    assert world.run(two, env=env, cwd=box).out == b"1\nkept\n"
    assert sorted(os.listdir(home)) == ["private"]
    (kept,) = (data / "eka" / "home").glob("one-*")
    assert kept.stat().st_mode & 0o777 == 0o700
    for directory in (kept, *kept.parent.glob("two-*")):
        (directory / "kept").unlink()
        directory.rmdir()
    assert world.run(one, env=env, cwd=box).out == b"1\nkept\n"


def test_no_home(world: World, box: Path) -> None:
    script = world.script(box, "echo $HOME; touch ~/x || echo denied", 'home = "none"')
    done = world.run(script, cwd=box)
    assert done.out == b"/\ndenied\n"


def test_devices(world: World, box: Path) -> None:
    if not os.path.exists("/dev/fuse"):
        lacking("no /dev/fuse")
    body = "test -c /dev/fuse && echo there; test -e /dev/kvm || echo 'not there'"
    asked = world.script(box, body, 'devices = ["/dev/fuse"]')
    assert world.run(asked, cwd=box).out == b"there\nnot there\n"
    for text in ("/dev/mem", "/dev/../dev/mem", "/dev/vda"):
        script = world.script(box, "true", f'devices = ["{text}"]')
        assert world.run(script, cwd=box).status == 42
    script = world.script(box, "true", 'write = ["/dev/fuse"]')
    assert world.run(script, cwd=box).status == 42


def test_variables_by_pattern(world: World, box: Path) -> None:
    script = world.script(box, "env | grep -e MY_ -e ^PA -e YOUR_ | sort", 'env = ["MY_*", "PA*"]')
    env = {"MY_ONE": "1", "MY_TWO": "2", "YOUR_ONE": "3", "PATH_MORE": "4"}
    for _ in range(2):
        lines = world.run(script, env=env, cwd=box).out.splitlines()
        assert lines[:2] == [b"MY_ONE=1", b"MY_TWO=2"]
        assert lines[2].startswith(b"PATH=/nix/store/")
        assert lines[3:] == [b"PATH_MORE=4"]


def test_a_passed_variable_replaces_a_default(world: World, box: Path) -> None:
    script = world.script(box, "env | grep ^LANG=", 'env = ["LANG"]')
    assert world.run(script, cwd=box, env={"LANG": "xx"}).out == b"LANG=xx\n"
