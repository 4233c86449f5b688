"""atom.toml and ekala.toml: the vectors, the extensions, and one precise error for each mistake."""

from __future__ import annotations

import re
from typing import Any

import pytest
import tomlkit
from hypothesis import given, settings
from hypothesis import strategies as st

from eka.atom.manifest import parse_manifest, parse_package
from eka.atom.parts import ComposeNix, ComposeStatic, ComposeWith, Direct
from eka.atom.set_file import FRESH, parse_set_file
from eka.atom.version import parse_requirement
from eka_runtime.errors import ManifestError
from tests.unit.atom.vectors import MINIMAL, VECTORS

PLACE = re.compile(r"atom\.toml:\d+:\d+: \S.*")


@pytest.mark.parametrize("case", VECTORS["manifests"], ids=lambda case: case["name"])
def test_manifests_of_the_vectors(case: dict[str, Any]) -> None:
    if case["accept"]:
        parse_manifest(case["toml"].encode())
        return
    with pytest.raises(ManifestError) as caught:
        parse_manifest(case["toml"].encode())
    assert PLACE.fullmatch(str(caught.value))


@pytest.mark.parametrize("case", VECTORS["ekala_toml"][:5], ids=lambda case: case["toml"][:20])
def test_set_files_of_the_vectors(case: dict[str, Any]) -> None:
    if case["accept"]:
        parse_set_file(case["toml"].encode())
    else:
        with pytest.raises(ManifestError, match=r"^ekala\.toml:\d+:\d+: "):
            parse_set_file(case["toml"].encode())


def test_a_fresh_set_file_is_upstreams() -> None:
    assert VECTORS["ekala_toml"][0]["toml"] == FRESH


def manifest(more: str, compose: str = '[compose.as]\nnix = "."\n', sets: str = "") -> str:
    head = '[package]\nlabel = "foo"\nversion = "0.1.0"\n'
    return f"{head}{sets}\n{compose}\n{more}"


def test_what_a_manifest_says() -> None:
    text = manifest(
        '[deps.from.here]\nutil = "0.1"\n[deps.direct.nix]\n'
        'a.url = "https://E.org"\nb = { git = "git@h:o/r", version = "1" }\n'
        'c = { build = "https://e.org/__VERSION__.tar", unpack = true,'
        ' from_version = ["here", "util"] }\n',
        compose='[compose.with.atom-nix]\nfrom = "here"\nentry = "src"\n',
        sets='[package.sets]\nhere = ["https://h.org/b", "::", "git@h:o/r", "::"]\n',
    )
    found = parse_manifest(text.encode())
    assert found.package.sets == {"here": ("::", "git@h:o/r", "https://h.org/b")}
    assert found.compose == ComposeWith("atom-nix", "here", None, "src")
    assert found.deps == {"here": {"util": parse_requirement("^0.1")}}
    assert found.direct == {
        "a": Direct("url", "https://e.org/"),
        "b": Direct("git", "git@h:o/r", requirement=parse_requirement("1")),
        "c": Direct(
            "build",
            "https://e.org/__VERSION__.tar",
            unpack=True,
            from_version=("here", "util"),
        ),
    }


def test_composers() -> None:
    assert parse_manifest(manifest("").encode()).compose == ComposeNix(".")
    static = manifest("", compose='[compose.as]\nstatic = "config"\n')
    assert parse_manifest(static.encode()).compose == ComposeStatic()


def test_publishing_reads_the_package_only() -> None:
    text = '[package]\nlabel = "nix-lock"\nversion = "0.1.6"\n[locker.eka]\nx = 1\n'
    assert parse_package(text.encode()).label == "nix-lock"
    with pytest.raises(ManifestError):
        parse_manifest(text.encode())


CONFIG = """
systems = ["x86_64-linux", "aarch64-linux"]

[config]
cuda = false
jobs = { type = "integer", default = 4, minimum = 1, maximum = 64, doc = "how many" }

[config.backend]
type = "string"
values = ["a", "b"]

[config.features]
x11 = true
ratio = { type = "float", default = 1 }
names = { type = "list", items = "string", default = ["x"] }

[variants.fast]
jobs = 64
backend = "b"
features.x11 = false

[build]
sources = ["src"]
"""


def extended(old: str, new: str) -> bytes:
    assert old in CONFIG
    systems, rest = CONFIG.replace(old, new, 1).split("\n\n", 1)
    return f"{systems}\n{manifest(rest)}".encode()


def test_the_extensions() -> None:
    found = parse_manifest(extended("", ""))
    assert found.systems == ("x86_64-linux", "aarch64-linux")
    assert found.sources == ("src",)
    types = {".".join(key): option.type for key, option in found.config.items()}
    assert types == {
        "cuda": "boolean",
        "jobs": "integer",
        "backend": "string",
        "features.x11": "boolean",
        "features.ratio": "float",
        "features.names": "list",
    }
    assert found.config["features", "ratio"].default == 1.0
    assert found.config["backend",].default is None
    assert found.variants == {
        "fast": {("jobs",): 64, ("backend",): "b", ("features", "x11"): False}
    }


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("jobs = 64", "jobs = 65", "must be at most 64"),
        ("jobs = 64", 'jobs = "64"', "must be an integer, not a string"),
        ("jobs = 64", "jbos = 64", "`jbos` is no option"),
        ('backend = "b"', 'backend = "c"', 'must be one of "a", "b", not "c"'),
        ("features.x11 = false", "features = false", "`features` is no option"),
        ("default = 4", "default = 0", "must be at least 1"),
        ("default = 4", "default = 9007199254740993", "beyond the integers"),
        ("default = 1 ", "default = nan ", "must be a finite number"),
        ("cuda = false", "platforms = false", "`config.platforms` is reserved"),
        ("cuda = false", "cuda = 1979-05-27", "must be a string, boolean, number"),
        ("cuda = false", "empty = {}", "`config.empty` is empty"),
        ("minimum = 1", "minimun = 1", "unknown key `config.jobs.minimun`"),
        ('items = "string"', 'items = "list"', 'must be "string" or'),
        ('"x86_64-linux"', '"linux"', "'linux' is not a system"),
        ('sources = ["src"]', "sources = [1]", "`build.sources[0]` must be a label"),
    ],
)
def test_bad_extensions(old: str, new: str, message: str) -> None:
    with pytest.raises(ManifestError, match=PLACE) as caught:
        parse_manifest(extended(old, new))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("\n\n x = 1\n", "3:2"),
        ("[package]\nlabel = 1\n", "2:9"),
        ('package = { label = "a", version = "1.0.0", x = 1 }\n', "1:45"),
        (
            '[package]\nlabel = "a"\n[package.meta]\ntags = [\n  "a",\n  1,\n]',
            "6:3",
        ),
        ('[package]\nlabel = "ä"\nversion = "1.0.0"\n"ключ" = 1\n', "4:1"),
        ("[package]\nlabel = \n", "2:9"),
        ('package.label = "a"\npackage.version = "x"\n', "2:19"),
        ('[package]\nlabel="a"\nversion="1.0.0"\n[package.sets]\n"a.b" = [ "::", 3 ]\n', "5:17"),
    ],
)
def test_errors_say_where(text: str, place: str) -> None:
    with pytest.raises(ManifestError, match=rf"^atom\.toml:{place}: "):
        parse_manifest(text.encode())


@pytest.mark.parametrize(
    "data",
    [b"\xff", b"a = " + b"1" * 5000, b"a = " + b"[" * 3000, b"#" * (2 << 20), b"a\0b", b"\r"],
)
def test_hostile_bytes(data: bytes) -> None:
    with pytest.raises(ManifestError):
        parse_manifest(data)


KEYS = ["git", "url", "nix", "as", "x"]
TEXTS = ["::", "^1", "1.0.0", "https://e.org/x"]
VALUES = st.recursive(
    st.one_of(
        *(st.text(max_size=8), st.sampled_from(TEXTS), st.integers(-9, 9)),
        *(st.booleans(), st.floats(), st.datetimes()),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(KEYS), inner, max_size=3),
    ),
    max_leaves=5,
)
PATHS = st.sampled_from(
    [
        *("package", "package.label", "package.version", "package.meta", "package.meta.tags"),
        *("package.sets", "package.sets.s", "compose", "compose.as", "compose.as.nix"),
        *("compose.with", "compose.with.c", "compose.with.c.from", "deps", "deps.from"),
        *("deps.from.s", "deps.from.s.l", "deps.direct", "deps.direct.nix", "deps.direct.nix.n"),
        *("deps.direct.nix.n.git", "systems", "config", "config.k", "config.k.type", "variants"),
        *("variants.v", "build", "build.sources", "zzz"),
    ]
)


def complaint(text: str) -> str | None:
    try:
        parse_manifest(text.encode())
    except ManifestError as error:
        return str(error)
    return None


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(PATHS, VALUES, min_size=1, max_size=3))
def test_changed_manifests_are_taken_or_give_one_precise_error(changes: dict[str, Any]) -> None:
    document: dict[str, Any] = tomlkit.parse(MINIMAL).unwrap()
    for path, value in changes.items():
        table = document
        *before, last = path.split(".")
        for key in before:
            if not isinstance(table.get(key), dict):
                table[key] = {}
            table = table[key]
        table[last] = value
    text = tomlkit.dumps(document)
    if message := complaint(text):
        match = re.match(r"atom\.toml:(\d+):(\d+): ", message)
        assert match is not None, message
        lines = text.split("\n")
        assert int(match[1]) <= len(lines)
        assert int(match[2]) <= len(lines[int(match[1]) - 1]) + 1
        assert "\n" not in message
