"""eka at home in containers, and its exports as containers, by testcontainers and podman's API."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.containers.engine import IMAGE, Ended, Engine
from tests.requirements import lacking
from tests.seed import NixClosure
from tests.users import labels

# One start of each kind, one fact to a line; a view or a nested bundle that is denied says so.
SCRIPT = """
set -eu
export PATH=$VENV/bin:$PATH HOME=/tmp/home TMPDIR=/tmp
mkdir -p $HOME /tmp/work && cd /tmp/work
eka store import < $STREAM > /dev/null
printf '%s\\n' '#!/usr/bin/env eka-run' '# /// eka' "# packages = [\\"$GREET\\"]" '# ///' \\
    'greet "$1"; id -u' > script
chmod +x script
./script cold
./script warm
for view in overlay fuse; do
    eka run --view $view $GREET $view || echo "$view: $?"
done
eka run --nesting $BUSYBOX/bin/unshare -U -r $BUSYBOX/bin/id -u || echo "nesting: $?"
eka run --require-sandbox $GREET strict || echo "strict: $?"
eka store verify && echo verified
"""


class Inside(NamedTuple):
    """What a container is given, and what eka makes of it; `views` are those that work."""

    options: dict[str, Any]
    mode: str
    views: tuple[str, ...]

    @property
    def uid(self) -> int:
        return int(self.options.get("user", "0").split(":")[0])


UNMASKED = {"security_opt": ["unmask=ALL", "seccomp=unconfined"]}
FUSE = {"devices": ["/dev/fuse"]}
EVERY = ("overlay", "fuse")
CASES = {
    "default": Inside({}, "degraded", EVERY[:1]),
    "as-a-user": Inside({"user": "1000:1000"}, "degraded", EVERY[:1]),
    "unmasked-with-fuse": Inside({**UNMASKED, **FUSE}, "outer", EVERY),
    "privileged": Inside({"privileged": True}, "outer", EVERY),
}
# Each takes seconds: what differs between engines of different users is tried with each of them.
FOR = {
    "root": ("as-a-user", "unmasked-with-fuse", "privileged"),
    "sub": ("default",),
    "nosub": ("privileged",),
    "self": ("default", "privileged"),
}
PAIRS = [
    pytest.param(label, name, id=f"{label}-{name}") for label in labels() for name in FOR[label]
]


def start(engine: Engine, case: Inside, venv: Path, closure: NixClosure) -> Ended:
    busybox = next(path for path in closure.paths if path.endswith("-busybox-tools"))
    env = {
        "VENV": os.fspath(venv),
        "STREAM": os.fspath(closure.stream),
        "GREET": closure.root,
        "BUSYBOX": busybox,
    }
    mounts = (Path("/usr"), venv, closure.stream)
    return engine.run(IMAGE, "/bin/sh", "-c", SCRIPT, mounts=mounts, env=env, **case.options)


@pytest.mark.parametrize(("engine", "name"), PAIRS, indirect=["engine"])
def test_eka_runs_inside(name: str, engine: Engine, venv: Path, closure: NixClosure) -> None:
    case = CASES[name]
    if "fuse" in case.views and not os.access("/dev/fuse", os.R_OK | os.W_OK):
        lacking("/dev/fuse is not there, or not for everybody")
    ended = start(engine, case, venv, closure)
    lines = ended.out.splitlines()
    assert ended.status == 0, ended.err

    def greeting(word: str) -> str:
        return f"Hello, {word}! I live in {closure.root}/bin/greet"

    uid = str(case.uid)
    assert lines[:4] == [greeting("cold"), uid, greeting("warm"), uid]
    for view in EVERY:
        assert (greeting(view) in lines) == (view in case.views), ended.err
    assert "0" in lines[4:], "a bundle with nesting cannot make a user namespace of its own"
    assert (greeting("strict") in lines) == (case.mode != "degraded")
    assert lines[-1] == "verified"


def test_an_export_is_a_container(engine: Engine, venv: Path, closure: NixClosure) -> None:
    """eka exports beside the container, as the same user; the engine starts it by its API."""
    user, place = engine.user, engine.podman.place / "home"
    env = {
        "PATH": f"{venv}/bin:/usr/bin:/bin",
        "EKA_STORE": str(place / "store"),
        "HOME": str(place),
    }
    with closure.stream.open("rb") as stream:
        user.run(["eka", "store", "import"], env=env, stdin=stream, cwd=place, check=True)
    words = ("eka", "export", closure.root, "-o", "greet.tar", "--json")
    made = user.run(words, env=env, cwd=place)
    assert made.returncode == 0, made.stderr.decode()
    name = engine.load(place / "greet.tar")
    assert name == json.loads(made.stdout)["name"] == "localhost/greet:1.0"
    ran = user.run(["eka", "run", closure.root, "you"], env=env, cwd=place)
    ended = engine.run(name, "you")
    assert (ended.status, ended.out) == (0, ran.stdout.decode()), ended.err
