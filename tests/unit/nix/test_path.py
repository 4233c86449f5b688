from __future__ import annotations

import hashlib
import string
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eka_runtime.errors import FormatError, InvalidStorePath
from eka_runtime.nix.hashes import NixHash, parse_hash
from eka_runtime.nix.path import (
    ContentAddress,
    StorePath,
    check_name,
    fixed_path,
    path_for_ca,
    source_path,
    split,
    text_path,
)
from tests.unit.nix.conftest import Nix
from tests.unit.nix.trees import COMPLICATED, to_disk, to_nar
from tests.unit.nix.vectors import of_kind

HASH = "00bgd045z0d4icpbc2yyz4gx48ak44la"
OTHER = StorePath.parse("/nix/store/dxwkwjzdaq7ka55pkk252gh32bgpmql4-foo")
NAR_HASH = bytes(range(32))

NAME_CHARACTERS = string.ascii_letters + string.digits + "+-._?="
store_names = st.text(st.sampled_from(NAME_CHARACTERS), min_size=1, max_size=211).filter(
    lambda name: name.partition("-")[0] not in (".", "..")
)


def references_of(given: dict[str, Any]) -> list[StorePath]:
    return [StorePath.parse(text) for text in given.get("refs", [])]


@pytest.mark.parametrize(("given", "expected"), of_kind("text_path"))
def test_text_vectors(given: dict[str, Any], expected: str) -> None:
    digest = hashlib.sha256(given["content"].encode()).digest()
    references = references_of(given)
    assert str(text_path(given["name"], digest, references)) == expected
    ca = f"text:{NixHash('sha256', digest).nix32()}"
    assert str(path_for_ca(given["name"], ca, references, False)) == expected


@pytest.mark.parametrize(("given", "expected"), of_kind("source_path"))
def test_source_vectors(given: dict[str, Any], expected: str) -> None:
    stated = given.get("nar_sha256_sri") or given["nar_sha256_nixb32"]
    nar_hash = parse_hash(stated, "sha256")
    references, to_itself = references_of(given), given.get("self_reference", False)
    assert str(source_path(given["name"], nar_hash.digest, references, to_itself)) == expected
    ca = f"fixed:r:{nar_hash.nix32()}"
    assert str(path_for_ca(given["name"], ca, references, to_itself)) == expected


@pytest.mark.parametrize(("given", "expected"), of_kind("fixed_path"))
def test_fixed_vectors(given: dict[str, Any], expected: str) -> None:
    recursive, stated = given["mode"] == "recursive", parse_hash(given["hash"])
    assert str(fixed_path(given["name"], *stated, recursive)) == expected
    ca = ContentAddress("recursive" if recursive else "flat", stated)
    assert str(path_for_ca(given["name"], str(ca))) == expected


def test_recursive_sha256_is_a_source_path() -> None:
    assert fixed_path("x", "sha256", NAR_HASH, True) == source_path("x", NAR_HASH)
    assert fixed_path("x", "sha256", NAR_HASH, False) != source_path("x", NAR_HASH)


def test_references_are_a_set() -> None:
    another = StorePath(HASH, "another")
    for make in (source_path, text_path):
        expected = make("x", NAR_HASH, [another, OTHER])
        assert make("x", NAR_HASH, [OTHER, another, OTHER]) == expected
        assert make("x", NAR_HASH) != expected


@pytest.mark.parametrize("algo", ["md5", "sha1", "sha256", "sha512"])
def test_agrees_with_nix(nix: Nix, tmp_path: Path, algo: str) -> None:
    """`--add`, `--add-fixed` and `--add-fixed --recursive` of the same things."""
    tree, file = to_disk(COMPLICATED, tmp_path / "some-tree"), tmp_path / ".hidden?=+"
    file.write_bytes(b"contents")
    nar = hashlib.new(algo, to_nar(COMPLICATED), usedforsecurity=False).digest()
    flat = hashlib.new(algo, b"contents", usedforsecurity=False).digest()
    expected = [fixed_path(tree.name, algo, nar, True), fixed_path(file.name, algo, flat, False)]
    found = nix("nix-store", "--recursive", "--add-fixed", algo, tree)
    found += nix("nix-store", "--add-fixed", algo, file)
    assert found.decode().split() == [str(path) for path in expected]
    if algo == "sha256":
        assert nix("nix-store", "--add", tree).decode().split() == [str(expected[0])]


def test_text_path_agrees_with_nix(nix: Nix) -> None:
    inner = text_path("inner", hashlib.sha256(b"x").digest())
    outer = text_path("outer", hashlib.sha256(f"to {inner}".encode()).digest(), [inner])
    expression = 'builtins.toFile "outer" "to ${builtins.toFile "inner" "x"}"'
    found = nix("nix-instantiate", "--eval", "--read-write-mode", "--expr", expression)
    assert found.decode().strip() == f'"{outer}"'


@settings(deadline=None)
@given(st.binary(min_size=20, max_size=20), store_names)
def test_round_trip(digest: bytes, name: str) -> None:
    path = StorePath.from_base(f"{StorePath.parse(str(OTHER)).hash}-{name}")
    assert StorePath.parse(str(path)) == path
    assert path.base == str(path).removeprefix("/nix/store/")
    made = source_path(name, (digest * 2)[:32])
    assert len(made.digest) == 20
    assert StorePath.parse(str(made)) == made


@settings(deadline=None)
@given(st.text(max_size=60))
def test_only_invalid_store_path(text: str) -> None:
    for candidate in (text, f"/nix/store/{text}", f"/nix/store/{HASH}-{text}"):
        try:
            path = StorePath.parse(candidate)
        except InvalidStorePath:
            continue
        assert str(path) == candidate


@pytest.mark.parametrize("name", ["a", ".a", "..a", "...", "-", ".a-b", "?=+_", "x" * 211])
def test_valid_names(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "'' has 0 characters, not 1 to 211"),
        ("x" * 212, "has 212 characters, not 1 to 211"),
        ("a b", "'a b' contains ' '"),
        ("a/b", "'a/b' contains '/'"),
        ("a\n", r"'a\\n' contains '\\n'"),
        ("a\0", r"'a\\x00' contains '\\x00'"),
        ("ä", "'ä' contains 'ä'"),
        ("٣", "'٣' contains '٣'"),
        (".", "begins like a directory's . or .."),
        ("..", "begins like a directory's . or .."),
        (".-a", "begins like a directory's . or .."),
        ("..-a", "begins like a directory's . or .."),
    ],
)
def test_invalid_names(name: str, message: str) -> None:
    with pytest.raises(InvalidStorePath, match=message):
        check_name(name)
    with pytest.raises(InvalidStorePath, match=message):
        source_path(name, NAR_HASH)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'' is not below /nix/store"),
        ("/nix/store", "'/nix/store' is not below /nix/store"),
        (f"/gnu/store/{HASH}-x", "is not below /nix/store"),
        (f"/nix/store//{HASH}-x", "does not begin with 32 nixbase32 digits and a dash"),
        (f"/nix/store/{HASH}", "does not begin with 32 nixbase32 digits and a dash"),
        (f"/nix/store/{HASH[1:]}-x", "does not begin with 32 nixbase32 digits and a dash"),
        (f"/nix/store/{HASH}0-x", "does not begin with 32 nixbase32 digits and a dash"),
        (f"/nix/store/{HASH.replace('0', 'e')}-x", "does not begin with 32 nixbase32 digits"),
        (f"/nix/store/{HASH.upper()}-x", "does not begin with 32 nixbase32 digits and a dash"),
        (f"/nix/store/{HASH}-", "has 0 characters"),
        (f"/nix/store/{HASH}-x/bin", "'x/bin' contains '/'"),
    ],
)
def test_invalid_paths(text: str, message: str) -> None:
    with pytest.raises(InvalidStorePath, match=message):
        StorePath.parse(text)


def test_long_input_is_not_echoed_whole() -> None:
    with pytest.raises(InvalidStorePath) as caught:
        StorePath.parse("/nix/store/" + "a" * 100_000)
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize(
    ("suffix", "inside"),
    [("", ""), ("/", ""), ("/bin", "bin"), ("/bin/sh", "bin/sh"), ("//bin//sh/", "bin//sh")],
)
def test_split(suffix: str, inside: str) -> None:
    assert split(f"{OTHER}{suffix}") == (OTHER, inside)


def test_split_refuses_what_is_no_path() -> None:
    with pytest.raises(InvalidStorePath, match="not below /nix/store"):
        split("/usr/bin/sh")
    with pytest.raises(InvalidStorePath, match="does not begin with 32"):
        split("/nix/store/.links/x")


def test_paths_sort_like_their_text() -> None:
    paths = [source_path(f"n{i}", hashlib.sha256(bytes([i])).digest()) for i in range(50)]
    assert sorted(paths) == sorted(paths, key=str)


@pytest.mark.parametrize("method", ["text", "flat", "recursive"])
def test_content_address_round_trip(method: str) -> None:
    ca = ContentAddress(method, NixHash("sha256", NAR_HASH))
    assert ContentAddress.parse(str(ca)) == ca


@pytest.mark.parametrize(
    ("ca", "message"),
    [
        ("", "'' is none of text:…, fixed:… and fixed:r:…"),
        ("nar:sha256:" + "0" * 52, "is none of text:…, fixed:… and fixed:r:…"),
        ("fixed:git:sha1:" + "0" * 40, "is none of text:…, fixed:… and fixed:r:…"),
        ("text:sha1:" + "0" * 40, "must be text:sha256:…"),
        ("fixed:" + "0" * 64, "lacks an algorithm or a digest"),
        ("fixed:sha256-" + "0" * 44, "lacks an algorithm or a digest"),
        ("fixed:r:sha256:00", "is not a sha256 digest"),
        ("fixed:r:r:sha256:" + "0" * 52, "unknown hash algorithm 'r'"),
    ],
)
def test_invalid_content_addresses(ca: str, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        path_for_ca("x", ca)


@pytest.mark.parametrize("ca", ["fixed:sha256:" + "0" * 52, "fixed:r:sha1:" + "0" * 32])
def test_fixed_outputs_have_no_references(ca: str) -> None:
    path_for_ca("x", ca)
    with pytest.raises(FormatError, match="does not allow references"):
        path_for_ca("x", ca, iter([OTHER]))
    with pytest.raises(FormatError, match="does not allow a reference to itself"):
        path_for_ca("x", ca, (), True)


def test_text_does_not_refer_to_itself() -> None:
    with pytest.raises(FormatError, match="does not allow a reference to itself"):
        path_for_ca("x", "text:sha256:" + "0" * 52, (), True)


def test_digest_of_the_wrong_size() -> None:
    with pytest.raises(FormatError, match="a sha256 digest has 32 bytes, not 20"):
        source_path("x", bytes(20))
    with pytest.raises(FormatError, match="unknown hash algorithm 'blake3'"):
        fixed_path("x", "blake3", bytes(32), False)
