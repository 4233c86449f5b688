"""The linters and the house rules, as tests: what they find fails the build like anything else."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PACKAGES = ("eka", "eka_runtime")
MAX_LINES = 600

# Imports go to a lower number, or to another package of the same number that does not import back.
LAYERS = {
    "errors": 0,
    "closing": 0,
    "printable": 0,
    "linux": 0,
    "nix": 1,
    "castore": 2,
    "store": 3,
    "cache": 3,
    "rpc": 1,
    "oci": 4,
    "view": 4,
    "runtime": 5,
    "build": 5,
    "daemon": 5,
}
TOOL_ONLY = {"eka", "click", "rich"}
GENERATED = {".json", ".lock", ".nar", ".bin"}
SKIPPED = {"__pycache__", "dist", "build", "vectors", "node_modules"}
HIDDEN_BUT_OURS = {".ci", ".github"}
SYSTEM = {"bin", "boot", "dev", "etc", "home", "lib", "media", "mnt", "nix", "opt", "proc", "root"}
SYSTEM |= {"run", "sbin", "srv", "sys", "tmp", "usr", "var"}


def run_tool(*words: str) -> None:
    """Fails with what the tool printed and nothing else."""
    if importlib.util.find_spec(words[0]) is None:
        message = f"{words[0]} is not installed"
        if os.environ.get("EKA_TEST_REQUIRE_ALL"):
            pytest.fail(message, pytrace=False)
        pytest.skip(message)
    done = subprocess.run(
        [sys.executable, "-m", *words],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        pytest.fail(done.stdout, pytrace=False)


def fail_with(findings: list[str]) -> None:
    if findings:
        pytest.fail("\n".join(findings), pytrace=False)


def test_ruff_finds_nothing() -> None:
    run_tool("ruff", "check", "--no-cache", "--quiet", ".")


def test_ruff_would_format_nothing() -> None:
    run_tool("ruff", "format", "--no-cache", "--check", "--quiet", ".")


def test_mypy_finds_nothing(tmp_path: Path) -> None:
    cache = ROOT / ".mypy_cache" if os.access(ROOT, os.W_OK) else tmp_path
    run_tool("mypy", "--no-error-summary", f"--cache-dir={cache}")


def our_files() -> Iterator[Path]:
    # Not `git ls-files`: a release archive has no .git, and git refuses other users' checkouts.
    for directory, names, files in os.walk(ROOT):
        names[:] = [name for name in names if is_ours(name)]
        # In a linked work tree, git's own file says where its repository is.
        yield from (Path(directory, file) for file in files if file != ".git")


def is_ours(directory: str) -> bool:
    hidden = directory.startswith(".") and directory not in HIDDEN_BUT_OURS
    return not hidden and directory not in SKIPPED and not directory.endswith(".egg-info")


def modules() -> Iterator[Path]:
    for package in PACKAGES:
        yield from sorted((ROOT / package).rglob("*.py"))


def shown(file: Path) -> str:
    return str(file.relative_to(ROOT))


def test_package_files_are_empty() -> None:
    found = [file for file in our_files() if file.name == "__init__.py"]
    assert len(found) > 10
    fail_with([f"{shown(file)}: not empty" for file in found if file.stat().st_size])


def test_every_package_has_its_file() -> None:
    directories = {file.parent for file in modules()}
    fail_with(
        [f"{shown(d)}: no __init__.py" for d in directories if not (d / "__init__.py").exists()]
    )


def test_no_file_is_too_long() -> None:
    findings = []
    for file in our_files():
        if file.suffix not in GENERATED and file.name != "LICENSE":
            data = file.read_bytes()
            lines = data.count(b"\n")
            if lines > MAX_LINES and b"\0" not in data:
                findings.append(f"{shown(file)}: {lines} lines")
    fail_with(findings)


def test_annotations_are_never_evaluated() -> None:
    line = "from __future__ import annotations\n"
    python = [file for file in our_files() if file.suffix == ".py" and has_annotations(read(file))]
    fail_with([f"{shown(file)}: no `{line.strip()}`" for file in python if line not in read(file)])


def has_annotations(source: str) -> bool:
    annotated = (ast.FunctionDef, ast.ClassDef, ast.AnnAssign)
    return any(isinstance(node, annotated) for node in ast.parse(source).body)


def read(file: Path) -> str:
    return file.read_text("utf-8", "surrogateescape")


def workplace_paths(text: str, root: Path = ROOT) -> list[str]:
    """Paths in a text that exist on this machine only: the checkout, and what lies beside it."""
    if root.parent == Path("/"):
        return []
    inside = "" if root.parts[1] in SYSTEM else r"/[\w.-]+"
    place = root if root.parts[1] in SYSTEM else root.parent
    found = re.findall(rf"(?<![\w./}}-]){re.escape(str(place))}(?![\w.-]){inside}", text)
    return [path for path in found if Path(path).exists()]


def test_no_file_names_this_workplace() -> None:
    findings = []
    for file in our_files():
        findings += [f"{shown(file)}: {path}" for path in sorted(set(workplace_paths(read(file))))]
    fail_with(findings)


def test_workplace_paths_are_recognized(tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    assert workplace_paths(f"see {checkout}/file", checkout) == [str(checkout)]
    assert workplace_paths(f"see {checkout}s and {tmp_path}/other", checkout) == []
    assert workplace_paths("/checkout", Path("/checkout")) == []


def imported(source: str) -> Iterator[tuple[int, str]]:
    """Line and full dotted name of everything a module imports, wherever it does."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            dots = "." * node.level
            names = (f"{dots}{node.module or ''}.{alias.name}" for alias in node.names)
            yield from ((node.lineno, name) for name in names)


def layer(name: str) -> str | None:
    parts = name.split(".")
    return parts[1] if parts[0] == "eka_runtime" and len(parts) > 1 else None


def wrong_imports(module: str, source: str) -> list[str]:
    """`module` is a dotted name below eka_runtime."""
    here = layer(module)
    wrong = []
    for line, name in imported(source):
        there = layer(name)
        upward = here and there and LAYERS[there] > LAYERS[here]
        if upward or name.split(".")[0] in TOOL_ONLY or name.startswith("."):
            wrong.append(f"{module}:{line}: imports {name}")
    return wrong


def runtime_modules() -> Iterator[tuple[str, str]]:
    for file in modules():
        if file.is_relative_to(ROOT / "eka_runtime"):
            name = shown(file).removesuffix(".py").removesuffix("/__init__").replace("/", ".")
            yield name, read(file)


def test_every_package_of_the_library_has_a_layer() -> None:
    found = {part for name, _ in runtime_modules() if (part := layer(name))}
    assert found <= LAYERS.keys()


def test_imports_of_the_library_point_down() -> None:
    fail_with([text for name, source in runtime_modules() for text in wrong_imports(name, source)])


def test_packages_of_the_library_form_no_cycle() -> None:
    graph: dict[str, set[str]] = {}
    for name, source in runtime_modules():
        if here := layer(name):
            there = {found for _, target in imported(source) if (found := layer(target))}
            graph.setdefault(here, set()).update(there - {here})
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        fail_with([" imports ".join(reversed(error.args[1]))])


@pytest.mark.parametrize(
    "source",
    [
        "from eka_runtime.store.store import Store",
        "from eka_runtime import store",
        "def f():\n    import eka_runtime.oci.spec",
        "import click",
        "from rich.progress import Progress",
        "from eka import output",
        "from . import path",
    ],
)
def test_wrong_imports_are_recognized(source: str) -> None:
    assert len(wrong_imports("eka_runtime.nix.path", source)) == 1
    allowed = "import os\nfrom eka_runtime.errors import EkaError\nfrom eka_runtime.linux import x"
    assert wrong_imports("eka_runtime.nix.path", allowed) == []


def forbidden_calls(source: str) -> Iterator[tuple[int, str]]:
    """Calls that the library leaves to the tool; a module run by `python -m` is one for a while."""
    for statement in ast.parse(source).body:
        if isinstance(statement, ast.If) and "__main__" in ast.unparse(statement.test):
            continue
        for node in ast.walk(statement):
            name = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if isinstance(node, ast.Call) and name in ("print", "exit", "sys.exit", "time.sleep"):
                yield node.lineno, name


def test_the_library_does_not_print_exit_or_sleep() -> None:
    calls = [
        (name, *call) for name, source in runtime_modules() for call in forbidden_calls(source)
    ]
    fail_with([f"{name}:{line}: calls {call}" for name, line, call in calls])
    assert list(forbidden_calls("def f():\n    print(1)")) == [(2, "print")]
