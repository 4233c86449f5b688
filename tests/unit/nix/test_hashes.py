from __future__ import annotations

import base64
import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eka_runtime.errors import FormatError
from eka_runtime.nix import base32
from eka_runtime.nix.hashes import DIGEST_SIZES, NixHash, check_digest, parse_hash
from tests.unit.nix.conftest import Nix
from tests.unit.nix.vectors import by_id, of_kind

SRI = "sha256-pc6cFV7Qk5dhRkbJcX/HzZSxAj17drYY1Ank/v1unTk="
SHA256 = NixHash("sha256", base64.b64decode(SRI.removeprefix("sha256-")))

hashes = st.sampled_from(sorted(DIGEST_SIZES)).flatmap(
    lambda algo: st.builds(
        NixHash, st.just(algo), st.binary(min_size=DIGEST_SIZES[algo], max_size=DIGEST_SIZES[algo])
    )
)


def spellings(value: NixHash) -> list[str]:
    plain = base64.b64encode(value.digest).decode()
    return [value.digest.hex(), value.digest.hex().upper(), base32.encode(value.digest), plain]


@pytest.mark.parametrize(("given_hex", "expected"), of_kind("nixhash"))
def test_vectors(given_hex: dict[str, str], expected: dict[str, str]) -> None:
    algo = {40: "sha1", 64: "sha256"}[len(given_hex["hex"])]
    value = NixHash(algo, bytes.fromhex(given_hex["hex"]))
    assert value.sri() == f"{algo}-{expected['base64']}"
    assert value.nix32() == f"{algo}:{expected['nixb32']}"
    assert value.hex() == f"{algo}:{given_hex['hex']}"
    for text in (given_hex["hex"], expected["nixb32"], expected["base64"]):
        assert parse_hash(text, algo) == value
        assert parse_hash(f"{algo}:{text}") == value
    assert parse_hash(expected.get("sri", value.sri())) == value


def test_sri_vector_of_a_nar() -> None:
    output = by_id("nar/complicated")["output"]
    value = parse_hash(output["sha256_sri"])
    assert value.nix32() == f"sha256:{output['sha256_nixb32']}"


@settings(deadline=None)
@given(hashes)
def test_round_trips(value: NixHash) -> None:
    assert parse_hash(value.sri()) == parse_hash(value.sri(), value.algo) == value
    for text in spellings(value):
        assert parse_hash(f"{value.algo}:{text}") == parse_hash(text, value.algo) == value


@settings(deadline=None)
@given(st.text(max_size=140), st.sampled_from([None, *DIGEST_SIZES]))
def test_only_format_errors(text: str, algo: str | None) -> None:
    try:
        value = parse_hash(text, algo)
    except FormatError:
        return
    assert len(value.digest) == DIGEST_SIZES[value.algo]


# Each with the verdict of Nix 2.8, which test_agrees_with_nix asks again where it is installed.
LENIENT_SRI = [
    SRI.rstrip("="),  # no padding
    SRI + "===",  # too much of it
    SRI + "?whatever",  # something after it
    SRI.replace("k=", "l="),  # bits beyond the digest
]
REFUSED = [
    (SRI.rstrip("=") + "A", "is not a sha256 digest in a known encoding"),
    (SRI[:-3], "is not a sha256 digest in a known encoding"),
    (SRI.replace("/", "_"), "is not a sha256 digest in a known encoding"),
    ("sha256-" + SHA256.digest.hex(), "is not a sha256 digest in a known encoding"),
    ("sha256:" + "g" * 64, "is not a sha256 digest in a known encoding"),
    ("sha256:" + "1" * 63, "is not a sha256 digest in a known encoding"),
    ("sha256:" + "e" * 52, "invalid character 'e' in nixbase32"),
    ("sha256:" + "z" * 52, "surplus bits are set in nixbase32"),
    ("sha256:" + SRI.removeprefix("sha256-").rstrip("="), "is not a sha256 digest"),
    ("sha256:", "is not a sha256 digest in a known encoding"),
    ("sha1:" + "0" * 40, "should be of type sha256"),
    ("sha1-" + "0" * 40, "should be of type sha256"),
    ("", "is not a sha256 digest in a known encoding"),
]


@pytest.mark.parametrize("text", LENIENT_SRI)
def test_lenient_sri(text: str) -> None:
    assert parse_hash(text) == SHA256


@pytest.mark.parametrize(("text", "message"), REFUSED)
def test_refusals(text: str, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        parse_hash(text, "sha256")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (SHA256.digest.hex(), "does not say its algorithm"),
        ("sha3:00", "unknown hash algorithm 'sha3', known are md5, sha1, sha256, sha512"),
        ("-" + SRI, "unknown hash algorithm ''"),
        ("sha256:" + "٣" * 64, "is not a sha256 digest in a known encoding"),
        ("sha256:" + " 1" * 32, "is not a sha256 digest in a known encoding"),
        (SRI[:-10] + "\n" + SRI[-10:], "is not a sha256 digest in a known encoding"),
    ],
)
def test_refusals_without_context(text: str, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        parse_hash(text)


def test_long_input_is_not_echoed_whole() -> None:
    with pytest.raises(FormatError) as caught:
        parse_hash("sha256:" + "a" * 100_000)
    assert len(str(caught.value)) < 300


def test_check_digest() -> None:
    assert check_digest("md5", bytes(16)) == NixHash("md5", bytes(16))
    with pytest.raises(FormatError, match=r"^a md5 digest has 16 bytes, not 20$"):
        check_digest("md5", bytes(20))


@pytest.mark.parametrize("algo", sorted(DIGEST_SIZES))
def test_agrees_with_nix(nix: Nix, algo: str) -> None:
    value = NixHash(algo, hashlib.new(algo, b"eka", usedforsecurity=False).digest())
    experimental = ("--experimental-features", "nix-command")
    for verb, spelling in (
        ("to-base16", value.digest.hex()),
        ("to-base32", base32.encode(value.digest)),
        ("to-sri", value.sri()),
    ):
        out = nix("nix", *experimental, "hash", verb, "--type", algo, *spellings(value))
        assert out.decode().split() == [spelling] * 4
    if algo == "sha256":
        out = nix("nix", *experimental, "hash", "to-sri", *LENIENT_SRI)
        assert out.decode().split() == [SRI] * len(LENIENT_SRI)
