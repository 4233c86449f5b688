"""What this host can do, as the probe and the doctor find out: by doing it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from eka_runtime.errors import ConfigError, HostError, RuntimeMissing
from eka_runtime.runtime.facts import survey
from eka_runtime.runtime.host import Host
from eka_runtime.runtime.probe import find_runtimes, probe, runtime_version
from eka_runtime.runtime.trial import attempt, attempt_options
from tests.installed import REPOSITORY
from tests.requirements import lacking, require

CACHE = "eka/host.json"


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    require("crun")
    return {"XDG_CACHE_HOME": os.fspath(tmp_path), "PATH": os.environ["PATH"]}


def best(environ: Mapping[str, str]) -> Host:
    host = probe(environ=environ)
    if host.mode != "outer" or host.refused:
        lacking(f"the outer mode does not work here: {host.refused}")
    return host


def in_nested_namespace(code: str, limits: Mapping[str, int]) -> subprocess.CompletedProcess[str]:
    """Runs Python where /proc/sys/user has `limits`, which everyone may set below himself."""
    sets = " && ".join(f"echo {value} > /proc/sys/user/{name}" for name, value in limits.items())
    words = [require("unshare"), "-Ur", "sh", "-c", f'{sets} && exec "$@"', "sh"]
    words += [sys.executable, "-c", code]
    return subprocess.run(words, capture_output=True, text=True, check=False, cwd=REPOSITORY)


def test_the_best_mode_is_kept_until_a_refresh(environ: dict[str, str]) -> None:
    host = best(environ)
    file = Path(environ["XDG_CACHE_HOME"], CACHE)
    kept = json.loads(file.read_text())
    assert kept["host"]["mode"] == "outer"
    kept["host"]["proc"] = "planted"
    file.write_text(json.dumps(kept))
    assert probe(environ=environ) == host._replace(proc="planted")
    assert probe(environ=environ, refresh=True) == host
    assert probe(environ=environ) == host


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"key": 1}', b"\xff", b"null"])
def test_a_broken_cache_is_made_anew(environ: dict[str, str], content: bytes) -> None:
    host = best(environ)
    file = Path(environ["XDG_CACHE_HOME"], CACHE)
    good = file.read_bytes()
    file.write_bytes(content)
    assert probe(environ=environ) == host
    assert file.read_bytes() == good


def test_a_cache_of_other_circumstances_is_not_believed(environ: dict[str, str]) -> None:
    host = best(environ)
    file = Path(environ["XDG_CACHE_HOME"], CACHE)
    kept = json.loads(file.read_text())
    for index in range(len(kept["key"])):
        other = [*kept["key"]]
        other[index] = "something else"
        planted = kept["host"] | {"proc": "planted"}
        file.write_text(json.dumps({"key": other, "host": planted}))
        assert probe(environ=environ) == host


def test_no_cache_is_no_reason_to_fail(environ: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    host = best(environ)
    assert probe(environ=environ | {"XDG_CACHE_HOME": f"{tmp_path}/file"}) == host


@pytest.mark.parametrize("mode", ["outer", "direct", "degraded"])
@pytest.mark.parametrize("runtime", ["crun", "runc"])
def test_the_environment_narrows_the_choice(
    environ: dict[str, str], mode: str, runtime: str
) -> None:
    path = require(runtime)
    wanted = {"EKA_MODE": mode, "EKA_RUNTIME": runtime}
    try:
        host = probe(environ=environ | wanted)
    except HostError as error:
        lacking(str(error))
    assert (host.mode, host.kind, host.runtime) == (mode, runtime, os.path.abspath(path))
    assert probe(environ=environ | wanted | {"EKA_RUNTIME": path}) == host


def test_an_unknown_mode_is_an_error(environ: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="EKA_MODE is `fast`"):
        probe(environ=environ | {"EKA_MODE": "fast"})


def test_a_missing_runtime_is_an_error_that_says_what_to_install(environ: dict[str, str]) -> None:
    with pytest.raises(RuntimeMissing, match="/no/such/crun") as caught:
        probe(environ=environ | {"EKA_RUNTIME": "/no/such/crun"})
    assert "apt-get install crun" in str(caught.value.hint)


def test_any_other_program_is_no_runtime(environ: dict[str, str]) -> None:
    with pytest.raises(RuntimeMissing, match="neither crun nor runc"):
        probe(environ=environ | {"EKA_RUNTIME": "/bin/sh"})


def test_crun_comes_first(environ: dict[str, str]) -> None:
    require("runc")
    assert [runtime.kind for runtime in find_runtimes(environ)] == ["crun", "runc"]
    assert runtime_version(require("crun")).startswith("crun version ")
    assert runtime_version("/no/such/crun") == ""


def test_a_failed_attempt_says_why(environ: dict[str, str]) -> None:
    host = best(environ)
    assert attempt(host) == ""
    assert "/no/such/runtime" in attempt(host._replace(runtime="/no/such/runtime"))
    assert attempt(host._replace(proc="hidepid=nonsense")) == "mount /proc: Invalid argument"
    assert "/no/such/cover" in attempt(host._replace(cover=("/no/such/cover",)))


def test_the_place_for_temporary_files_may_have_a_long_name(
    environ: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, long = best(environ), tmp_path / ("x" * 150)
    long.mkdir()
    monkeypatch.setenv("TMPDIR", os.fspath(long))
    monkeypatch.setattr(tempfile, "tempdir", None)
    assert attempt(host) == ""
    assert os.listdir(long) == []


def test_options_that_the_kernel_does_not_know_are_left_out(environ: dict[str, str]) -> None:
    host = best(environ)
    found, error = attempt_options(host, ("hidepid=nonsense", "hidepid=2", ""))
    assert (found, error) == (host._replace(proc="hidepid=2"), "")


def test_without_user_namespaces_the_error_names_the_remedy() -> None:
    code = "from eka_runtime.runtime.probe import probe\nprobe(refresh=True)"
    done = in_nested_namespace(f"{CATCH}\ncatch('''{code}''')", {"max_user_namespaces": 0})
    name, message, hint = json.loads(done.stdout)
    assert name == "UsernsForbidden"
    assert "`user.max_user_namespaces` is 0" in message
    assert "sysctl -w user.max_user_namespaces=" in hint


CATCH = """
import json
from eka_runtime.errors import EkaError
def catch(code):
    try:
        exec(code, {})
    except EkaError as error:
        print(json.dumps([type(error).__name__, str(error), error.hint]))
"""


def test_failures_are_not_kept(tmp_path: Path) -> None:
    code = f"""
from eka_runtime.runtime.probe import probe
probe(environ={{"XDG_CACHE_HOME": {os.fspath(tmp_path)!r}}})"""
    done = in_nested_namespace(f"{CATCH}\ncatch('''{code}''')", {"max_user_namespaces": 0})
    assert json.loads(done.stdout)[0] == "UsernsForbidden"
    assert os.listdir(tmp_path) == []


HYBRID = """
import json
from pathlib import Path
from eka_runtime.runtime.probe import probe
from eka_runtime.runtime.trial import attempt
host = probe(refresh=True, environ={"EKA_RUNTIME": "crun", "EKA_MODE": "outer", "PATH": ""})
print(json.dumps([host.cover, attempt(host._replace(cover=()))]))
"""


def test_a_hybrid_tree_with_controllers_is_hidden_from_crun(tmp_path: Path) -> None:
    require("crun")
    file = Path("/sys/fs/cgroup/unified/cgroup.controllers")
    if not file.exists():
        pytest.skip("this host's cgroups are not hybrid, which is no lack")
    fake = tmp_path / "controllers"
    fake.write_text("hugetlb\n")
    words = [require("unshare"), "-Urm", "sh", "-c", 'mount --bind "$1" "$2"; shift 2; exec "$@"']
    words += ["sh", os.fspath(fake), os.fspath(file), sys.executable, "-c", HYBRID]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=REPOSITORY)
    cover, uncovered = json.loads(done.stdout)
    assert cover == [os.fspath(file.parent)]
    assert "hybrid" in uncovered


def test_the_survey_tries_everything_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", os.fspath(tmp_path))
    facts = survey()
    names = [fact.name for fact in facts]
    assert len(set(names)) == len(names) >= 8
    assert all(fact.detail for fact in facts)
    assert os.listdir(tmp_path) == []


def doctor(*words: str, **more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "eka", "doctor", *words]
    env = {**os.environ, **more}
    return subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=REPOSITORY, env=env
    )


def test_the_doctor_reports_the_mode_in_force() -> None:
    done = doctor("--json")
    report = json.loads(done.stdout)
    assert set(report) == {"mode", "runtime", "kind", "refused", "remedy", "facts"}
    text = doctor()
    assert text.returncode == done.returncode
    assert f"mode: {report['mode']} with {report['kind']}" in text.stdout
    for fact in report["facts"]:
        assert set(fact) == {"name", "ok", "detail", "remedy"}
        assert fact["detail"] in text.stdout


def test_the_doctor_reports_everything_even_when_nothing_works() -> None:
    done = doctor("--json", EKA_RUNTIME="/no/such/runtime")
    assert done.returncode == RuntimeMissing.exit_code
    report = json.loads(done.stdout)
    assert (report["mode"], report["runtime"]) == (None, None)
    assert len(report["facts"]) >= 8
    assert "install crun" in report["remedy"]
    assert "/no/such/runtime" in done.stderr
