"""A C toolchain, Python, and sources of real software, from what the machine's distribution has.

The programs of Debian's gcc expect a dynamic linker in /lib64, and a build has none there. Theirs
is changed to one in /build, a name as long, where builders put a link to the toolchain's own.
Sources are those that `.ci/setup sources` fetched.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from zipfile import ZipFile

from tests.requirements import lacking, require

LINKER = "ld-linux-x86-64.so.2"
_THEIRS, _OURS = f"/lib64/{LINKER}".encode(), f"/build/{LINKER}".encode()
_PROGRAMS = ("as", "ld", "ar", "ranlib", "make")
_INSIDE = ("cc1", "collect2")
_OBJECTS = ("crt1.o", "crti.o", "crtn.o", "libc.a", "libm.a", "libpthread.a", "libdl.a")
_OF_GCC = ("crtbeginT.o", "crtend.o", "libgcc.a", "libgcc_eh.a")
_UNUSED = ("test", "tests", "__pycache__", "config-*", "idlelib", "tkinter", "*-packages")
_HEADERS = ("libc6-dev", "linux-libc-dev")


def sources(*names: str) -> list[Path]:
    """Archives by the beginnings of their names; skips the test where they were not fetched."""
    return [_fetched(f"{name}_*.orig.tar.*") for name in names]


def _fetched(pattern: str) -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    found = sorted((cache / "eka-setup" / "sources").glob(pattern))
    found = [one for one in found if one.suffix != ".asc"]
    if not found:
        lacking(f"there is no source like {pattern}: run `.ci/setup sources`")
    return found[0]


def unpack(archive: Path, directory: Path) -> Path:
    """The tree in an archive, without the directory around it."""
    directory.mkdir()
    subprocess.run([require("tar"), "-xf", archive, "-C", directory], check=True)
    (tree,) = directory.iterdir()
    return tree


def toolchain(directory: Path) -> Path:
    """A tree: bin/gcc and its like, lib/ with what they link to and against, include/."""
    gcc = require("gcc")
    tree = directory / "toolchain"
    for name in ("bin", "lib", "gcc"):
        (tree / name).mkdir(parents=True)
    programs = {name: require(name) for name in (*_PROGRAMS, "gcc")}
    for name, place in programs.items():
        _adopt(place, tree / "bin" / name)
    for name in _INSIDE:
        _adopt(_ask(gcc, f"-print-prog-name={name}"), tree / "gcc" / name)
    for name in _OBJECTS:
        shutil.copy(_archive(_ask(gcc, f"-print-file-name={name}")), tree / "lib" / name)
    for name in _OF_GCC:
        shutil.copy(_ask(gcc, f"-print-file-name={name}"), tree / "gcc" / name)
    shutil.copytree(_ask(gcc, "-print-file-name=include"), tree / "gcc" / "include")
    inside = [_ask(gcc, f"-print-prog-name={name}") for name in _INSIDE]
    for library in _libraries([*programs.values(), *inside]):
        shutil.copy(library, tree / "lib" / library.name)
    _headers(tree / "include")
    return tree


def sdist(name: str) -> Path:
    """The archive of a Python package."""
    return _fetched(f"python/{name}-*.tar.gz")


def python(directory: Path) -> Path:
    """A tree: the Python that runs this, its library and headers, and below site/ pip and
    setuptools."""
    tree = directory / "python"
    name = f"python{sysconfig.get_python_version()}"
    program = Path(sys.executable).resolve()
    library = Path(sysconfig.get_paths()["stdlib"])
    (tree / "bin").mkdir(parents=True)
    _adopt(os.fspath(program), tree / "bin" / "python3")
    shutil.copytree(library, tree / "lib" / name, ignore=shutil.ignore_patterns(*_UNUSED))
    modules = [os.fspath(one) for one in (library / "lib-dynload").glob("*.so")]
    for needed in _libraries([os.fspath(program), *modules]):
        shutil.copy(needed, tree / "lib" / needed.name)
    headers = Path(sysconfig.get_paths()["include"])
    if not (headers / "Python.h").exists():
        lacking("the headers of Python are not installed")
    shutil.copytree(headers, tree / "include" / name)
    # Debian's includes another one, which is beside the directory of its machine's name.
    own = headers.parent / (sysconfig.get_config_var("MULTIARCH") or "") / name / "pyconfig.h"
    if own.exists():
        shutil.copy(own, tree / "include" / name / "pyconfig.h")
    for wheel in ("setuptools", "pip"):
        with ZipFile(_fetched(f"python/{wheel}-*.whl")) as archive:
            archive.extractall(tree / "site")
    return tree


def _adopt(program: str, place: Path) -> None:
    place.write_bytes(Path(program).read_bytes().replace(_THEIRS, _OURS))
    place.chmod(0o755)


def _ask(gcc: str, question: str) -> str:
    done = subprocess.run([gcc, question], capture_output=True, text=True, check=True)
    found = done.stdout.strip()
    if not os.path.isabs(found):
        lacking(f"gcc knows no {question.partition('=')[2]}")
    return found


def _archive(place: str) -> str:
    """Some are texts for the linker, which name the real ones: the first of them."""
    data = Path(place).read_bytes()
    match = re.search(rb"GROUP \( (\S+)", data) if data.startswith(b"/*") else None
    return os.fsdecode(match[1]) if match else place


def _libraries(programs: Sequence[str]) -> set[Path]:
    """Everything that the programs load, and the linker that loads it."""
    words = [require("ldd"), *programs]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    found = set()
    for line in done.stdout.splitlines():
        # The name of each program stands alone, with a colon behind it.
        places = [word for word in line.split() if word.startswith("/") and word[-1] != ":"]
        found.update(Path(place) for place in places[:1])
    return found


def _headers(place: Path) -> None:
    words = [require("dpkg"), "-L", *_HEADERS]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lacking(f"the packages {' and '.join(_HEADERS)} are not installed")
    for text in done.stdout.splitlines():
        file, root = Path(text), Path("/usr/include")
        if not file.is_relative_to(root) or file.is_dir():
            continue
        relative = file.relative_to(root)
        if relative.parts[0] == "x86_64-linux-gnu":
            relative = relative.relative_to("x86_64-linux-gnu")
        (place / relative).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, place / relative)
