"""Which value an option gets, who gave it, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from eka.atom.manifest import parse_manifest
from eka.evaluate.config import (
    Choices,
    Config,
    Declared,
    Systems,
    choices_of,
    effective,
    for_dependency,
    parse_set,
    this_system,
)
from eka_runtime.errors import OptionError

MANIFEST = """
systems = ["x86_64-linux", "aarch64-linux"]
[package]
label = "app"
version = "1.0.0"
[compose.as]
nix = "."
[config]
greeting = "hello"
ratio = 1.5
flags = ["a"]
[config.net]
port = { type = "integer", default = 80, minimum = 1, maximum = 65535, doc = "where" }
[config.tls]
values = ["openssl", "none"]
default = "openssl"
[variants.debug]
greeting = "debug"
net.port = 8080
[variants.loud]
greeting = "HELLO"
"""


def declared(text: str = MANIFEST) -> Declared:
    return Declared.of(parse_manifest(text.encode()))


NO_SYSTEMS = Systems()


def made(*sets: str, variants: tuple[str, ...] = (), systems: Systems = NO_SYSTEMS) -> Config:
    return effective(declared(), choices_of([], sets, variants, systems))


def test_defaults_variants_files_and_flags_in_this_order(tmp_path: Path) -> None:
    first, second = tmp_path / "one.toml", tmp_path / "two.json"
    first.write_text('greeting = "one"\ntls = "none"\n[net]\nport = 1\n')
    second.write_text('{"net": {"port": 2}}')
    choices = choices_of(
        [str(first), str(second)], ["ratio=2"], ["loud", "debug"], Systems(host="aarch64-linux")
    )
    config = effective(declared(), choices)
    assert config.leaves() == [
        ("flags", ["a"], "default"),
        ("greeting", "one", "one.toml"),
        ("net.port", 2, "two.json"),
        ("platforms.build", this_system(), "this machine"),
        ("platforms.host", "aarch64-linux", "--host-system"),
        ("platforms.target", "aarch64-linux", "as platforms.host"),
        ("ratio", 2.0, "--set"),
        ("tls", "none", "one.toml"),
    ]


def test_a_variant_changes_what_it_declares_and_nothing_else() -> None:
    plain, debug = made(), made(variants=("debug",))
    changed = {a[0] for a, b in zip(plain.leaves(), debug.leaves(), strict=True) if a != b}
    assert changed == {"greeting", "net.port"}
    assert made(variants=("loud", "debug")) == debug
    assert made(variants=("debug", "loud")).values["greeting"] == "HELLO"


def test_spelling_does_not_change_the_hash_and_every_key_does() -> None:
    same = {
        made("net.port=8080").hash(),
        made("net.port=8080.0").hash(),
        made("net={port=8_080}").hash(),
        made("net.port = 0x1f90").hash(),
    }
    assert len(same) == 1
    others = ["greeting=x", "ratio=1", "flags=[]", "net.port=81", "tls=none", "flags=['a','b']"]
    systems = [Systems(build="riscv64-linux", host="x86_64-linux"), Systems(target="i686-linux")]
    hashes = [made(one).hash() for one in others] + [made(systems=s).hash() for s in systems]
    assert len({made().hash(), *hashes}) == len(hashes) + 1


def test_a_float_is_one_to_nix_too() -> None:
    assert repr(made("ratio=3").values["ratio"]) == "3.0"
    assert made("ratio=3").hash() == made("ratio=3.0").hash()


@pytest.mark.parametrize(
    ("text", "table"),
    [
        ("a=1", {"a": 1}),
        ("a.b='x'", {"a": {"b": "x"}}),
        ('a="x=y"', {"a": "x=y"}),
        ("a=word", {"a": "word"}),
        ("a=1.2.3", {"a": "1.2.3"}),
        ("a=/some/path", {"a": "/some/path"}),
        ("a={b=[1]}", {"a": {"b": [1]}}),
    ],
)
def test_values_are_toml_or_a_word(text: str, table: object) -> None:
    assert parse_set(text).table == table


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("greting=1", "did you mean `greeting`"),
        ("net.port=0", "at least 1"),
        ("net.port=x", "an integer"),
        ("net=1", "group of options"),
        ("greeting=true", "a string"),
        ("greeting=two words", "not valid TOML"),
        ("greeting=2024-01-01", "JSON does not have"),
        ("ratio=inf", "JSON does not have"),
        ("tls=gnutls", "one of"),
        ("flags=[1]", "a string"),
        ("platforms.cpu=1", "not a platform"),
        ("platforms.host=linux", "not a system"),
        ("package.label=x", "filled in by eka"),
        ("greeting", "KEY=VALUE"),
        ("=1", "KEY=VALUE"),
        ("a=1\nb=2", "KEY=VALUE"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(text: str, message: str) -> None:
    with pytest.raises(OptionError) as refused:
        made(text)
    assert message in f"{refused.value} {refused.value.hint}"


def test_unknown_variants_and_foreign_hosts() -> None:
    with pytest.raises(OptionError, match="no variant `fast`") as refused:
        made(variants=("fast",))
    assert "`debug`" in str(refused.value.hint)
    with pytest.raises(OptionError, match="not for `riscv64-linux`"):
        made(systems=Systems(every="riscv64-linux"))


def test_an_option_without_default_needs_a_value() -> None:
    text = MANIFEST.replace('greeting = "hello"', 'greeting = { type = "string" }')
    with pytest.raises(OptionError, match=r"`greeting` .* no value") as refused:
        effective(declared(text), Choices())
    assert refused.value.hint == "give it one: `--set greeting=…`"
    assert effective(declared(text), choices_of([], ["greeting=x"], [], Systems()))


def test_without_a_schema_every_key_is_taken() -> None:
    config = effective(Declared(), choices_of([], ["a.b=1.0", "c=[]", "a.d={}"], [], Systems()))
    assert config.values["a"] == {"b": 1, "d": {}}
    later = effective(Declared(), choices_of([], ["a.b=1", "a=2"], [], Systems()))
    assert later.values["a"] == 2


def test_a_dependency_gets_what_it_declares() -> None:
    other = MANIFEST.replace("ratio = 1.5", "own = 5").replace('"app"', '"lib"')
    root = made("greeting=hi", systems=Systems(host="aarch64-linux"))
    config = for_dependency(declared(other), root, "lib")
    found = {name: (value, origin) for name, value, origin in config.leaves()}
    assert found["greeting"] == ("hi", "--set")
    assert found["own"] == (5, "default of lib")
    assert found["platforms.host"] == ("aarch64-linux", "--host-system")
    assert "ratio" not in found
    assert for_dependency(Declared(), root, "lib") is root


def test_a_dependency_that_means_something_else_by_a_key() -> None:
    other = MANIFEST.replace('greeting = "hello"', "greeting = 4").replace('greeting = "debug"', "")
    other = other.replace('[variants.loud]\ngreeting = "HELLO"\n', "")
    with pytest.raises(OptionError, match="`lib`"):
        for_dependency(declared(other), made(), "lib")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("c.toml", "a =", "not valid TOML"),
        ("c.json", "{", "not valid JSON"),
        ("c.json", "[1]", "must hold an object"),
        ("c.json", '{"a": 1, "a": 2}', "occurs twice"),
        ("c.json", "[" * 100_000, "not valid JSON"),
        ("c.toml", "#" * (1 << 21), "larger than"),
    ],
)
def test_config_files_that_are_none(tmp_path: Path, name: str, text: str, message: str) -> None:
    file = tmp_path / name
    file.write_text(text)
    with pytest.raises(OptionError, match=message):
        choices_of([str(file)], [], [], Systems())


def test_a_config_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="No such file"):
        choices_of([str(tmp_path / "none.toml")], [], [], Systems())
