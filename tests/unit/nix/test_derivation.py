from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eka_runtime.errors import FormatError
from eka_runtime.nix.derivation import Derivation, Output, derivation_name
from eka_runtime.nix.derivation_json import from_json, to_json
from eka_runtime.nix.path import StorePath
from tests.unit.nix.vectors import of_kind

DRV = StorePath.parse("/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-in.drv")
SOURCE = StorePath.parse("/nix/store/dxwkwjzdaq7ka55pkk252gh32bgpmql4-foo")
HASH = "00" * 32

texts = st.binary(max_size=12).map(
    lambda data: data.replace(b"\0", b"").decode("utf-8", "surrogateescape")
)
plain_names = st.sampled_from(["out", "dev", "lib", "a.b", "bin"])
derivations = st.builds(
    Derivation,
    name=st.sampled_from(["x", "hello-1.0"]),
    outputs=st.dictionaries(plain_names, st.just(Output()), min_size=1),
    system=texts.filter(bool),
    builder=texts.filter(bool),
    args=st.lists(texts, max_size=3).map(tuple),
    env=st.dictionaries(texts, texts, max_size=4),
    input_drvs=st.dictionaries(
        st.just(DRV), st.lists(plain_names, min_size=1, max_size=2).map(tuple), max_size=1
    ),
    input_srcs=st.sampled_from([(), (SOURCE,)]),
)


def of_vector(given: dict[str, Any]) -> bytes:
    if "aterm" in given:
        return str(given["aterm"]).encode()
    return base64.b64decode(given["aterm_base64"])


def parse(text: str) -> Derivation:
    return Derivation.parse("x", text.encode())


def text_of(**parts: str) -> str:
    known = {
        "outputs": '[("out","","","")]',
        "drvs": "[]",
        "sources": "[]",
        "system": '"s"',
        "builder": '"b"',
        "args": "[]",
        "env": "[]",
    } | parts
    return f"Derive({','.join(known.values())})"


@pytest.mark.parametrize(("given", "expected"), of_kind("derivation"))
def test_vectors(given: dict[str, Any], expected: dict[str, Any]) -> None:
    data = of_vector(given)
    path = StorePath.parse(expected["drv_path"])
    drv = Derivation.parse(derivation_name(path), data)
    assert drv.to_bytes() == data
    assert drv.path == path
    assert {name: output.path for name, output in drv.outputs.items()} == expected["outputs"]


@given(derivations)
def test_what_is_written_is_read(drv: Derivation) -> None:
    drv = drv.checked()
    assert Derivation.parse(drv.name, drv.to_bytes()) == drv


@given(st.binary(max_size=80))
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        Derivation.parse("x", b"Derive(" + data)


@given(derivations, st.data())
def test_damaged_text_is_refused_or_exact(drv: Derivation, data: st.DataObject) -> None:
    written = bytearray(drv.checked().to_bytes())
    written[data.draw(st.integers(0, len(written) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = Derivation.parse(drv.name, bytes(written))
    except FormatError:
        return
    assert found.to_bytes() == bytes(written)


def test_bytes_that_are_not_utf8_come_through() -> None:
    drv = Derivation.parse("x", text_of(env='[("k","\xe9")]').encode("latin-1"))
    assert drv.env["k"].encode("utf-8", "surrogateescape") == b"\xe9"
    with pytest.raises(FormatError, match="UTF-8"):
        to_json(drv)


def test_variables_are_in_the_order_of_their_bytes() -> None:
    # As text, a lone surrogate would come before a private-use character and after it as bytes.
    strange, private = b"\xff".decode("utf-8", "surrogateescape"), "\ue000"
    assert strange < private
    drv = parse(text_of())._replace(env={strange: "", private: ""}).checked()
    assert list(drv.env) == [private, strange]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"outputs": "[]"}, "no outputs"),
        ({"outputs": '[("drv","","","")]'}, "called `drv`"),
        ({"outputs": '[("a/b","","","")]'}, "'/'"),
        ({"outputs": f'[("out","/nix/store/{DRV.hash}-y","","")]'}, "another name"),
        ({"outputs": '[("out","/tmp/x","","")]'}, "below /nix/store"),
        ({"outputs": '[("out","","sha3","")]'}, "unknown hash algorithm"),
        ({"outputs": '[("out","","git:sha1","")]'}, "unknown hash algorithm"),
        ({"outputs": '[("out","","","00")]'}, "hash algorithm"),
        ({"outputs": f'[("out","","sha256","{HASH}")]'}, "no path"),
        ({"outputs": f'[("out","/nix/store/{DRV.hash}-x","sha256","00")]'}, "32 bytes"),
        ({"outputs": f'[("out","/nix/store/{DRV.hash}-x","sha256","zz")]'}, "hexadecimal"),
        ({"outputs": f'[("out","/nix/store/{DRV.hash}-x","sha256","")]'}, "has a path already"),
        ({"outputs": '[("a","","r:sha256",""),("out","","","")]'}, "mixes"),
        ({"outputs": '[("out","","",""),("dev","","","")]'}, "canonical"),
        ({"drvs": f'[("{SOURCE}",["out"])]'}, "bad input derivation"),
        ({"drvs": f'[("{DRV}",[])]'}, "bad input derivation"),
        ({"drvs": f'[("{DRV}",["out","dev"])]'}, "canonical"),
        ({"sources": f'["{SOURCE}","{SOURCE}"]'}, "canonical"),
        ({"sources": '["x"]'}, "below /nix/store"),
        ({"system": '""'}, "lacks a system"),
        ({"builder": '""'}, "lacks a system"),
        ({"args": '["a\0"]'}, "NUL"),
        ({"args": '["\\x"]'}, "unknown escape"),
        ({"args": '["a\nb"]'}, "canonical"),
        ({"args": '["a" ]'}, "`,` expected"),
        ({"args": '["a'}, "a string expected"),
        ({"env": '[("b",""),("a","")]'}, "canonical"),
        ({"env": '[("a",""),("a","")]'}, "canonical"),
        ({"env": "[])x"}, "the end expected"),
    ],
)
def test_what_nix_would_not_write_is_refused(parts: dict[str, str], message: str) -> None:
    with pytest.raises(FormatError, match=message):
        parse(text_of(**parts))


def test_dynamic_derivations_are_named_as_the_reason() -> None:
    with pytest.raises(FormatError, match="dynamic"):
        parse('DrvWithVersion("xp-dyn-drv",[])')


def test_a_name_that_is_no_derivations() -> None:
    with pytest.raises(FormatError, match=r"does not end in \.drv"):
        derivation_name(SOURCE)


@given(derivations)
def test_json_round_trip(drv: Derivation) -> None:
    drv = drv.checked()
    try:
        shown = to_json(drv)
    except FormatError:
        return
    assert from_json(shown, drv.name) == drv


def test_json_of_newer_nix() -> None:
    newer = {
        "name": "x",
        "outputs": {"out": {"path": f"{DRV.hash}-x", "method": "nar", "hashAlgo": "sha256"}},
        "inputSrcs": [SOURCE.base],
        "inputDrvs": {str(DRV): {"dynamicOutputs": {}, "outputs": ["out"]}},
        "system": "s",
        "builder": "b",
        "args": [],
        "env": {"a": "b"},
    }
    newer["outputs"] = {"out": {"method": "nar", "hashAlgo": "sha256"}}
    drv = from_json(newer)
    assert drv.outputs == {"out": Output("", "r:sha256", "")}
    assert drv.input_drvs == {DRV: ("out",)}
    assert drv.input_srcs == (SOURCE,)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "the object"),
        ({}, r"outputs: Field required"),
        ({"outputs": {}, "inputSrcs": [1]}, r"inputSrcs\.0"),
    ],
)
def test_bad_json_says_where(value: object, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        from_json(value, "x")
