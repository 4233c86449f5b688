"""Installs eka as a user would get it: a wheel in a venv that every user of the machine may read.

The checkout and its .venv may lie below a directory that other users cannot enter, and an editable
install is not what people have. Dependencies are copied from the running environment, so nothing
is downloaded.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent


def install(venv: Path) -> Path:
    """Makes `venv` with eka and its dependencies; returns its bin directory."""
    base = Path(sys.base_prefix) / "bin" / "python3"
    subprocess.run([base, "-m", "venv", "--without-pip", venv], check=True, capture_output=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    site = venv / "lib" / version / "site-packages"
    copy_distributions(dependencies("eka"), site)
    _unpack(build_wheel(venv / "wheel"), site, venv / "bin")
    subprocess.run([venv / "bin" / "python3", "-m", "compileall", "-q", site], check=True)
    subprocess.run(["chmod", "-R", "a+rX", venv], check=True)
    return venv / "bin"


def build_wheel(directory: Path) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", directory]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True)
    return next(directory.glob("*.whl"))


def dependencies(name: str, seen: set[str] | None = None) -> set[str]:
    """The distributions that `name` requires without extras, transitively."""
    seen = set() if seen is None else seen
    for requirement in metadata.requires(name) or []:
        if "extra ==" in requirement or "python_version <" in requirement:
            continue
        match = re.match(r"[A-Za-z0-9._-]+", requirement)
        if match and match[0] not in seen and _present(match[0]):
            seen.add(match[0])
            dependencies(match[0], seen)
    return seen


def _present(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def copy_distributions(names: Iterable[str], site: Path) -> None:
    """Installs them from the running environment; `site` works as a PYTHONPATH, too."""
    for name in names:
        _copy_distribution(name, site)


def _copy_distribution(name: str, site: Path) -> None:
    source = Path(sysconfig.get_path("purelib"))
    for file in metadata.files(name) or []:
        place = Path(str(file.locate())).resolve()
        if place.is_relative_to(source) and place.is_file():
            target = site / place.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(place, target)


def _unpack(wheel: Path, site: Path, scripts: Path) -> None:
    """As an installer does it: packages to site-packages, scripts verbatim."""
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            data = re.match(r"[^/]+\.data/scripts/(.+)", name)
            target = scripts / data[1] if data else site / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(archive.read(name))
            if data:
                target.chmod(0o755)
