"""Exports against podman, and a single file against the same root file system as a squashfs.

`podman save` reads an image from its own storage; eka renders one from the store. Both write the
same layers to a file on the same disk. Memory is that of the process with the most, as the kernel
counted it. Of compressed images only eka's are shown: podman's oci-archive uses gzip and one core.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from eka.bench.store import big_file, mixed_files
from tests.bench.measure import Contender, race, report
from tests.podman import Podman, podman_of
from tests.requirements import require
from tests.seed import busybox_tree
from tests.users import get_user, labels

GIB = 1 << 30
EKA = Path(sys.executable).parent / "eka"


def run() -> list[object]:
    # Not in /tmp, which may be a tmpfs.
    with tempfile.TemporaryDirectory(prefix="eka-bench-", dir="/var/tmp") as name:
        place = Path(name)
        place.chmod(0o755)
        with podman_of(get_user(labels()[0])) as podman:
            return [_images(place, podman), _single(place)]


def _environment(place: Path) -> dict[str, str]:
    own = {"EKA_STORE": str(place / "store"), "XDG_CACHE_HOME": str(place / "cache")}
    return os.environ | own


def _eka(place: Path, *words: str | Path) -> str:
    command = [EKA, *words]
    done = subprocess.run(command, env=_environment(place), stdout=subprocess.PIPE, check=True)
    return done.stdout.decode().strip()


def _images(place: Path, podman: Podman) -> dict[str, object]:
    tree = place / "tree-2"
    tree.mkdir()
    big_file(tree / "big", 3 * GIB // 2)
    mixed_files(tree / "mixed", 40_000)
    path = _eka(place, "store", "add", tree)
    shutil.rmtree(tree)
    archive, saved = place / "eka.tar", place / "podman.tar"
    _eka(place, "export", path, "-o", archive)
    size = archive.stat().st_size
    env, inside = _environment(place), podman.user.environment(podman.environment())
    # Not by `podman(…)`: this takes minutes on a slow disk.
    subprocess.run(podman.command("load", "-q", "-i", archive), env=inside, check=True)
    archive.unlink()

    def fresh() -> None:
        os.sync()
        for file in (archive, saved):
            file.unlink(missing_ok=True)

    def eka(name: str, *words: str | Path) -> Contender:
        return Contender(name, [os.fspath(word) for word in words], env, before=fresh)

    save = podman.command("save", "-q", "--format=docker-archive", "-o", saved, "localhost/tree:2")
    pipe = f"{EKA} export {path} -o - | cat > {archive}"
    contenders = [
        eka("eka export -o FILE", EKA, "export", path, "-o", archive),
        eka("eka export -o - | cat > FILE", "sh", "-c", pipe),
        eka("eka export, zstd", EKA, "export", path, "-o", archive, "--compression=zstd"),
        Contender("podman save -o FILE", save, inside, fresh),
    ]
    timings = race(contenders, rounds=3, warmup=0)
    result = report(f"an image of {size / 1e9:.1f} GB", timings, ["podman save -o FILE"])
    peak = _peak(contenders[0])
    print(f"{'peak memory of eka export':34}{peak >> 10:>7} MiB")
    fresh()
    return {**result, "peak_kib": peak}


def _peak(contender: Contender) -> int:
    """In KiB."""
    process = subprocess.Popen(
        contender.argv, env=contender.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_maxrss


def _single(place: Path) -> dict[str, object]:
    """busybox and Python's library, of which a start reads nothing, or everything."""
    tools = _eka(place, "store", "add", busybox_tree(place))
    library = place / "library-1"
    ignored = shutil.ignore_patterns("__pycache__", "test", "site-packages", "dist-packages")
    shutil.copytree(sysconfig.get_path("stdlib"), library, ignore=ignored, symlinks=True)
    path = _eka(place, "store", "add", library)
    script = place / "prog"
    script.write_text(f'# /// eka\n# packages = ["{tools}", "{path}"]\n# ///\nsh -c "$1"\n')
    env = _environment(place)
    file, root = place / "prog.run", place / "root"
    _eka(place, "export", script, "--format=single-file", "-o", file)
    _eka(place, "export", script, "--format=rootfs", "-o", root)
    images = {}
    for kind in ("gzip", "zstd"):
        images[kind] = place / f"{kind}.squashfs"
        command = [require("mksquashfs"), root, images[kind], "-comp", kind, "-quiet"]
        command += ["-no-progress", "-noappend", "-all-root"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    everything = f"find {path} -type f | xargs cat > /dev/null"

    def cold() -> None:
        subprocess.run(["rm", "-rf", place / "cache" / "eka-bundle"], check=True)

    def mounted(kind: str, command: str) -> list[str]:
        # What a stub would do: mount, start, unmount. Without a container, to its advantage.
        mount = f"{place}/mount"
        text = (
            f"mkdir -p {mount} && {require('squashfuse')} {images[kind]} {mount}"
            f" && PATH={mount}{tools}/bin sh -c '{command.replace(path, mount + path)}'"
            f"; {require('fusermount3')} -u {mount}"
        )
        return ["sh", "-c", text]

    contenders = [
        Contender("single file, first start", [str(file), "true"], env, before=cold),
        Contender("single file", [str(file), "true"], env),
        Contender("single file, reading all", [str(file), everything], env),
        Contender("squashfuse, no container", mounted("gzip", "true")),
        Contender("squashfuse, reading all", mounted("gzip", everything)),
    ]
    peers = ["squashfuse, no container", "squashfuse, reading all"]
    result = report("a single file", race(contenders, rounds=5), peers)
    sizes = {"single file": file.stat().st_size}
    sizes |= {f"squashfs, {kind}": image.stat().st_size for kind, image in images.items()}
    for name, size in sizes.items():
        print(f"{name:34}{size / 1e6:>7.1f} MB{size / sizes['squashfs, gzip']:>22.2f}")
    cold()
    return {**result, "sizes": sizes}


if __name__ == "__main__":
    run()
