"""Keys and signatures against vectors, and against keys that real Nix makes."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from eka_runtime.errors import FormatError
from eka_runtime.nix.path import StorePath
from eka_runtime.nix.signing import PublicKey, SecretKey, fingerprint
from tests.requirements import require

PATH = StorePath("a" * 32, "name")
OTHERS = [StorePath(digit * 32, "other") for digit in "cb"]


def signature_vectors() -> list[dict[str, Any]]:
    file = Path(__file__).parents[2] / "vectors" / "snix.json"
    vectors = json.loads(file.read_text())["vectors"]
    return [one for one in vectors if one["kind"] == "narinfo_signature"]


@pytest.mark.parametrize("vector", signature_vectors(), ids=lambda vector: vector["id"])
def test_the_vectors_are_judged_alike(vector: dict[str, Any]) -> None:
    given = vector["input"]
    key = PublicKey.parse(given["public_key"])
    verified = key.verifies(given["signature"], given["fingerprint"].encode())
    assert verified == vector["output"]["valid"]


def test_references_are_sorted_in_the_fingerprint() -> None:
    text = fingerprint(PATH, b"\1" * 32, 5, OTHERS).decode()
    assert text.startswith(f"1;{PATH};sha256:0")
    assert text.endswith(f";5;{OTHERS[1]},{OTHERS[0]}")


def test_a_key_verifies_what_it_signed_and_nothing_else() -> None:
    secret = SecretKey.generate("cache.example.org-1")
    signature = secret.sign(b"data")
    assert SecretKey.parse(secret.text() + "\n") == secret
    assert PublicKey.parse(str(secret.public)) == secret.public
    assert secret.public.verifies(signature, b"data")
    assert not secret.public.verifies(signature, b"dat")
    assert not secret.public.verifies(signature.replace("-1:", "-2:"), b"data")
    assert not secret.public.verifies("cache.example.org-1:AAAA", b"data")
    assert not secret.public.verifies("nonsense", b"data")
    other = SecretKey.generate("cache.example.org-1").public
    assert not other.verifies(signature, b"data")


def test_a_secret_is_never_shown() -> None:
    secret = SecretKey.generate("k")
    hidden = secret.text().partition(":")[2]
    assert hidden not in repr(secret) + str(secret)
    for damaged in (f"k:{hidden[:-8]}AAAAAAA=", f"k:{hidden[4:]}", f"k:!{hidden}", hidden):
        with pytest.raises(FormatError) as caught:
            SecretKey.parse(damaged)
        assert hidden[8:-8] not in f"{caught.value} {caught.value.hint}"


@pytest.mark.parametrize("name", ["", "a:b", "a b", "ü", ".x", "x" * 300])
def test_a_name_that_nix_could_not_read_is_refused(name: str) -> None:
    with pytest.raises(FormatError, match="not a name"):
        SecretKey.generate(name)


@pytest.mark.parametrize("text", ["", "k", "k:", "k:AAAA", ":AAAA", "k:" + "A" * 43 + "*"])
def test_what_is_no_public_key_is_refused(text: str) -> None:
    with pytest.raises(FormatError):
        PublicKey.parse(text)


def test_nix_takes_our_keys_and_we_take_its_keys(tmp_path: Path) -> None:
    command = [require("nix"), "--extra-experimental-features", "nix-command", "key"]
    environ = {"HOME": str(tmp_path)}

    def nix(*words: str, data: str = "") -> str:
        done = subprocess.run(
            [*command, *words], input=data, env=environ, capture_output=True, check=True, text=True
        )
        return done.stdout.strip()

    ours = SecretKey.generate("ours-1")
    assert nix("convert-secret-to-public", data=ours.text()) == str(ours.public)
    theirs = SecretKey.parse(nix("generate-secret", "--key-name", "theirs-1"))
    assert nix("convert-secret-to-public", data=theirs.text()) == str(theirs.public)
