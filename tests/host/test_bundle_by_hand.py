"""Bundles of eka run by hand: `crun run -b DIR ID`, `runc run -b DIR ID`, nothing of eka around.

By every kind of user there is (tests/users.py).
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

import pytest

from eka_runtime.oci.bundle import (
    BundleRequest,
    Caller,
    Process,
    ShellFiles,
    ShellSource,
    compile_bundle,
    write_bundle,
)
from eka_runtime.oci.grants import Grants, resolve_grants
from eka_runtime.oci.profile import load_profile
from eka_runtime.view.plan import ViewMount, ViewPlan
from tests.cgroups import by_hand
from tests.requirements import lacking, require
from tests.users import User, get_user, labels

TREE = "/nix/store/00000000000000000000000000000000-tree"
FILE = "/nix/store/11111111111111111111111111111111-file"


class Person(NamedTuple):
    """Somebody who runs bundles from a directory of his own."""

    runtime: str
    user: User
    place: Path

    @property
    def home(self) -> Path:
        return self.place / "home"

    @property
    def project(self) -> Path:
        return self.home / "project"

    def own(self) -> None:
        """Gives him everything in his directory."""
        for path in [self.place, *self.place.rglob("*")]:
            os.chown(path, self.user.uid, self.user.gid, follow_symlinks=False)

    def run(
        self, bundle: Path, *, stdin: int | None = subprocess.DEVNULL
    ) -> subprocess.CompletedProcess[str]:
        state = self.place / "state"
        state.mkdir(exist_ok=True)
        if os.geteuid() == 0:
            self.own()
        command = [*by_hand(self.user), require(self.runtime), "--root", str(state)]
        if self.runtime == "crun":
            command.append("--cgroup-manager=disabled")
        return subprocess.run(
            [*command, "run", "-b", str(bundle), f"eka-{self.place.name}-{bundle.name}"],
            stdin=stdin,
            capture_output=True,
            text=True,
            env={"PATH": os.environ["PATH"], "HOME": str(self.home)},
            cwd=self.place,
            check=False,
        )


@pytest.fixture(params=product(("crun", "runc"), labels()), ids="-".join)
def person(request: pytest.FixtureRequest) -> Iterator[Person]:
    runtime, label = request.param
    require(runtime)
    # pytest's own temporary directories are closed to other users.
    place = Path(tempfile.mkdtemp(prefix=f"eka-hand-{runtime}-{label}-"))
    place.chmod(0o755)
    made = Person(runtime, get_user(label), place)
    (made.project / "sub").mkdir(parents=True)
    (made.home / "secret").write_text("secret")
    (made.project / "script").write_text("original\n")
    (made.project / "sub/notes").write_text("notes\n")
    try:
        yield made
    finally:
        shutil.rmtree(place)


def compiled(
    person: Person,
    words: Sequence[str],
    *,
    grants: Grants | None = None,
    view: ViewPlan | None = None,
    terminal: bool = False,
    cwd: Path | None = None,
) -> Path:
    busybox = ShellSource("host", require("busybox"))
    profile = load_profile("run")
    request = BundleRequest(
        profile=profile,
        view=view or ViewPlan("bind", (), ()),
        closure=(),
        process=Process(tuple(words), (), str(cwd or person.project), terminal),
        grants=grants or resolve(person),
        caller=Caller(
            person.user.uid, person.user.gid, person.user.name, "people", str(person.home)
        ),
        shell=ShellFiles(busybox, busybox),
        host_files=tuple(path for path in profile.host_paths() if os.path.exists(path)),
        # runc cannot set up a user namespace that has no uid 0.
        root_inside=person.runtime == "runc",
    )
    number = sum(1 for one in person.place.iterdir() if one.name.startswith("bundle"))
    place = person.place / f"bundle{number}"
    write_bundle(compile_bundle(request), place)
    return place


def resolve(
    person: Person, read: Sequence[str] = (), write: Sequence[str] = (), net: str | None = None
) -> Grants:
    return resolve_grants(
        [(text, "test") for text in read],
        [(text, "test") for text in write],
        person.project,
        str(person.home),
        str(person.project),
        True,
        person.project / "script",
        network=net,
    )


def output(person: Person, script: str, **options: object) -> str:
    bundle = compiled(person, ["/bin/sh", "-c", script], **options)  # type: ignore[arg-type]
    result = person.run(bundle)
    assert (result.returncode, result.stderr) == (0, ""), result
    return result.stdout


def test_a_program_is_its_caller_and_nobody_else(person: Person) -> None:
    uid, gid = (0, 0) if person.runtime == "runc" else (person.user.uid, person.user.gid)
    assert output(person, "id -u; id -g; id -un; echo ~; pwd; hostname").split() == [
        str(uid),
        str(gid),
        person.user.name,
        str(person.home),
        str(person.project),
        "eka",
    ]


def test_no_privilege_is_left(person: Person) -> None:
    text = output(person, "grep -E '^(Cap|NoNewPrivs)' /proc/self/status")
    values = dict(line.split() for line in text.splitlines())
    assert values.pop("NoNewPrivs:") == "1"
    assert set(values.values()) == {"0" * 16}
    assert len(values) == 5


def test_the_exit_status_is_the_programs(person: Person) -> None:
    assert person.run(compiled(person, ["/bin/sh", "-c", "exit 42"])).returncode == 42


def test_env_finds_programs(person: Person) -> None:
    assert person.run(compiled(person, ["/usr/bin/env", "sh", "-c", "exit 7"])).returncode == 7


def test_the_root_holds_nothing_of_the_host(person: Person) -> None:
    top = set(output(person, "ls -A /").split())
    assert top <= {
        "bin", "dev", "etc", "nix", "proc", "sys", "tmp", "usr", person.place.parts[1],
    }  # fmt: skip
    assert output(person, "ls -A /etc").split() == ["group", "hosts", "nsswitch.conf", "passwd"]
    assert output(person, "ls -A ~").split() == ["project"]
    assert output(person, "ls -A /nix/store") == ""


def test_the_root_cannot_be_written_but_temporary_places_can(person: Person) -> None:
    script = "for d in / /etc /bin /nix/store /proc/sys; do touch $d/x 2>/dev/null && echo $d; done"
    assert output(person, f"{script}; touch /tmp/x ~/x /dev/shm/x && echo fine") == "fine\n"


def test_modes_of_what_is_private_and_what_is_shared(person: Person) -> None:
    text = output(person, "stat -c %a ~ /tmp /dev/shm / /etc")
    assert text.split() == ["700", "1777", "1777", "755", "755"]


def test_the_working_directory_is_the_real_one_and_the_script_cannot_be_changed(
    person: Person,
) -> None:
    script = "echo made > made; cat sub/notes; echo x >> script || echo kept"
    bundle = compiled(person, ["/bin/sh", "-c", script])
    result = person.run(bundle)
    assert result.stdout == "notes\nkept\n"
    made = person.project / "made"
    assert made.read_text() == "made\n"
    assert made.stat().st_uid == person.user.uid
    assert (person.project / "script").read_text() == "original\n"


def test_nothing_is_created_in_the_bundle_by_running_it(person: Person) -> None:
    (person.place / "elsewhere").mkdir()
    grants = resolve(person, [str(person.place / "elsewhere"), "/etc/hostname"])
    bundle = compiled(person, ["/bin/sh", "-c", ":"], grants=grants)
    before = {path: path.lstat().st_mtime_ns for path in bundle.rglob("*")}
    assert person.run(bundle).returncode == 0
    assert {path: path.lstat().st_mtime_ns for path in bundle.rglob("*")} == before


def test_read_and_write_grants_nest_both_ways(person: Person) -> None:
    for name in ("closed/open", "open/closed"):
        (person.home / name).mkdir(parents=True)
    grants = resolve(person, ["~/closed", "~/open/closed"], ["~/closed/open", "~/open"])
    script = (
        "for d in closed closed/open open open/closed; do"
        " touch ~/$d/x 2>/dev/null && echo $d; done; true"
    )
    assert output(person, script, grants=grants).split() == ["closed/open", "open"]


def test_a_grant_through_a_link_appears_under_its_name(person: Person) -> None:
    (person.place / "real").mkdir()
    (person.place / "real/file").write_text("linked")
    (person.home / "link").symlink_to(person.place / "real")
    assert output(person, "cat ~/link/file", grants=resolve(person, ["~/link"])) == "linked"
    (person.project / "here").mkdir()
    (person.project / "here/file").write_text("linked")
    (person.project / "inside").symlink_to("here")
    assert output(person, "cat inside/file", grants=resolve(person, ["./inside"])) == "linked"


def test_store_paths_are_read_only_directories_and_files(person: Person) -> None:
    tree, file = person.place / "tree", person.place / "file"
    tree.mkdir()
    (tree / "x").write_text("x")
    file.write_text("file")
    view = ViewPlan(
        "bind", (ViewMount(str(tree), TREE, True), ViewMount(str(file), FILE, False)), ()
    )
    script = (
        f"cat {TREE}/x {FILE}; ls /nix/store | wc -l;"
        f" touch {TREE}/y 2>/dev/null || echo no; echo z 2>/dev/null > {FILE} || echo no"
    )
    assert output(person, script, view=view).split() == ["xfile2", "no", "no"]


def test_without_the_network_there_is_a_loopback_only(person: Person) -> None:
    assert (
        output(person, "ls /sys/class/net 2>/dev/null; tail -n +3 /proc/net/dev | wc -l") == "1\n"
    )
    grants = resolve(person, net="test")
    here = len(Path("/proc/net/dev").read_text().splitlines()) - 2
    text = output(person, "tail -n +3 /proc/net/dev | wc -l; cat /etc/resolv.conf", grants=grants)
    expected = Path("/etc/resolv.conf")
    content = expected.read_text() if expected.exists() else ""
    assert text == f"{here}\n{content}"


def test_processes_of_the_host_are_out_of_sight(person: Person) -> None:
    assert output(person, "echo $$; ls /proc | grep -c '^[0-9]'").split()[0] == "1"
    assert int(output(person, "ls /proc | grep -c '^[0-9]'")) <= 4


def test_switches_of_the_kernel_are_closed_even_to_root(person: Person) -> None:
    script = "echo x 2>/dev/null > /proc/sys/kernel/domainname || echo closed"
    assert output(person, script) == "closed\n"


def test_the_number_of_processors_is_known(person: Person) -> None:
    if not os.path.exists("/sys/devices/system/cpu/online"):
        lacking("this kernel has no /sys/devices/system/cpu")
    online = Path("/sys/devices/system/cpu/online").read_text()
    assert output(person, "cat /sys/devices/system/cpu/online; ls /sys") == f"{online}devices\n"


def test_a_home_as_working_directory_is_private(person: Person) -> None:
    grants = resolve_grants([], [], Path(), str(person.home), str(person.home), True)
    assert output(person, "pwd; ls -A", grants=grants, cwd=person.home) == f"{person.home}\n"


def test_a_terminal_is_a_terminal(person: Person) -> None:
    bundle = compiled(
        person, ["/bin/sh", "-c", "test -t 0 && test -t 1 && echo > /dev/tty"], terminal=True
    )
    leader, follower = os.openpty()
    os.fchmod(follower, stat.S_IRUSR | stat.S_IWUSR | stat.S_IROTH | stat.S_IWOTH)
    try:
        result = person.run(bundle, stdin=follower)
    finally:
        os.close(follower)
        os.close(leader)
    # Not its output: crun 1.8 may end before it has copied the last of it.
    assert result.returncode == 0, result
