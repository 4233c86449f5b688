"""What builders are started with; that it is what Nix gives is tested by building with both."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pytest

from eka_runtime.build.environment import Start, prepare
from eka_runtime.build.structured import shell_text
from eka_runtime.errors import FormatError
from eka_runtime.nix.derivation import Derivation, Output
from eka_runtime.nix.outputs import output_placeholder
from eka_runtime.nix.path import StorePath

OUT = StorePath("0" * 32, "x")
FIXED = Output(str(OUT), "sha256", "00" * 32)


class Graph:
    """Says what it was asked for."""

    def registration(self, paths: Iterable[StorePath]) -> str:
        return "".join(f"{path}\n" for path in paths)

    def describe(self, paths: Iterable[StorePath]) -> list[dict[str, object]]:
        return [{"path": str(path)} for path in paths]


def start(env: dict[str, str], output: Output | None = None, **impure: str) -> Start:
    drv = Derivation("x", {"out": output or Output(str(OUT))}, "s", "/bin/sh", ("-c", "x"), env)
    return prepare(drv, {"out": OUT}, Graph(), cores=3, impure=impure)


def test_the_twelve_variables() -> None:
    assert start({}).env == {
        "HOME": "/homeless-shelter",
        "NIX_BUILD_CORES": "3",
        "NIX_BUILD_TOP": "/build",
        "NIX_LOG_FD": "2",
        "NIX_STORE": "/nix/store",
        "PATH": "/path-not-set",
        "PWD": "/build",
        "TEMP": "/build",
        "TEMPDIR": "/build",
        "TERM": "xterm-256color",
        "TMP": "/build",
        "TMPDIR": "/build",
    }


def test_the_derivation_sets_some_and_not_others() -> None:
    env = start({"HOME": "/h", "PATH": "/p", "NIX_BUILD_TOP": "/x", "TERM": "vt100"}).env
    assert (env["HOME"], env["PATH"]) == ("/h", "/p")
    assert (env["NIX_BUILD_TOP"], env["TERM"]) == ("/build", "xterm-256color")


def test_variables_as_files() -> None:
    made = start({"passAsFile": "big  other", "big": "text", "other": "", "small": "s"})
    assert "big" not in made.env
    assert made.env["small"] == "s"
    for name, text in (("big", "text"), ("other", "")):
        place = made.env[f"{name}Path"]
        assert made.files[place.removeprefix("/build/")] == text


def test_placeholders_are_replaced_everywhere() -> None:
    placeholder = output_placeholder("out")
    drv = Derivation(
        "x", {"out": Output("", "r:sha256")}, "s", "/bin/sh", (placeholder,), {"out": placeholder}
    )
    made = prepare(drv, {"out": OUT}, Graph(), cores=1, impure={})
    assert made.args == ("/bin/sh", str(OUT))
    assert made.env["out"] == str(OUT)


def test_only_fixed_outputs_see_the_caller() -> None:
    env = {"impureEnvVars": "http_proxy missing"}
    fixed = start(env, FIXED, http_proxy="p", other="o").env
    assert (fixed["http_proxy"], fixed["missing"], fixed["NIX_OUTPUT_CHECKED"]) == ("p", "", "1")
    assert "other" not in fixed
    assert "http_proxy" not in start(env, http_proxy="p").env


def test_exported_graphs() -> None:
    made = start({"exportReferencesGraph": f"refs {OUT}/sub"})
    assert made.files == {"refs": f"{OUT}\n"}


@pytest.mark.parametrize(
    "env",
    [
        {"exportReferencesGraph": "odd"},
        {"exportReferencesGraph": f"../x {OUT}"},
        {"exportReferencesGraph": "refs /etc/passwd"},
        {"__json": "[]"},
        {"__json": "{"},
        {"__json": json.dumps({"exportReferencesGraph": {"x": [1]}})},
        {"a=b": ""},
    ],
)
def test_what_makes_no_sense_is_refused(env: dict[str, str]) -> None:
    with pytest.raises(FormatError):
        start(env)


def test_structured_attributes() -> None:
    stated = {"a": [1], "exportReferencesGraph": {"refs": [str(OUT)]}}
    made = start({"__json": json.dumps(stated), "hidden": "x"})
    assert "hidden" not in made.env
    assert made.env["NIX_ATTRS_JSON_FILE"] == "/build/.attrs.json"
    written: dict[str, Any] = json.loads(made.files[".attrs.json"])
    assert written == {**stated, "outputs": {"out": str(OUT)}, "refs": [{"path": str(OUT)}]}


def test_the_shell_file_has_what_bash_can_hold() -> None:
    value = {
        "array": ["a", 1, True, False, None],
        "deep": [[1]],
        "float": 2.5,
        "map": {"k'": "v"},
        "not-a-name": 1,
        "quoted": "it's",
        "whole": 3.0,
    }
    assert shell_text(value).splitlines() == [
        "declare -a array=('a' 1 1  '' )",
        "declare -A map=(['k'\\''']='v' )",
        "declare quoted='it'\\''s'",
        "declare whole=3",
    ]
