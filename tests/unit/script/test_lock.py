"""The text of locks: what is written is read back, and everything else is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eka.script.lock import LOCK_FILE, Content, Lock, is_ours, parse_lock, render_lock
from eka.script.schema import SPEC, schemas
from eka_runtime.errors import LockError
from eka_runtime.nix.path import StorePath

A = StorePath("0" * 32, "a-1.0")
B = StorePath("1" * 32, "b")
CONTENT = Content(bytes(range(32)), 120)
LOCK = Lock("python3 -I", (("./result", A), (str(A), A)), None, {B: CONTENT, A: CONTENT})

TEXT = """{
  "closure": [
    {
      "narHash": "sha256-AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
      "narSize": 120,
      "path": "/nix/store/00000000000000000000000000000000-a-1.0"
    },
    {
      "narHash": "sha256-AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
      "narSize": 120,
      "path": "/nix/store/11111111111111111111111111111111-b"
    }
  ],
  "format": "eka script lock 1",
  "interpreter": "python3 -I",
  "packages": [
    {
      "path": "/nix/store/00000000000000000000000000000000-a-1.0",
      "stated": "./result"
    },
    {
      "path": "/nix/store/00000000000000000000000000000000-a-1.0",
      "stated": "/nix/store/00000000000000000000000000000000-a-1.0"
    }
  ]
}
"""


def refused(data: bytes) -> LockError:
    with pytest.raises(LockError) as caught:
        parse_lock(data, "f.lock")
    return caught.value


def changed(**keys: Any) -> bytes:
    """The lock with keys replaced, or without those that are None."""
    plain = json.loads(TEXT) | keys
    return json.dumps({key: value for key, value in plain.items() if value is not None}).encode()


def test_a_lock_has_one_text() -> None:
    assert render_lock(LOCK) == TEXT.encode()
    assert render_lock(LOCK._replace(closure={A: CONTENT, B: CONTENT})) == TEXT.encode()


@pytest.mark.parametrize(
    "lock",
    [
        LOCK,
        Lock(None, (), None, {}),
        Lock(None, None, (B, A), {A: CONTENT, B: CONTENT}),
        Lock("é", (("gh:o/r::label@^1", A),), None, {A: CONTENT}),
    ],
)
def test_what_is_written_is_read_back(lock: Lock) -> None:
    data = render_lock(lock)
    assert parse_lock(data, "f") == lock
    assert is_ours(data)
    jsonschema.validate(json.loads(data), json.loads(schemas()["script-lock.schema.json"]))


def test_roots_are_packages_in_order_each_once() -> None:
    assert LOCK.roots() == [A]
    assert Lock(None, None, (B, A), {}).roots() == [B, A]


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "not a lock of a script"),
        (b'{"format": 1}', "not a lock of a script"),
        (changed(format="eka atom lock 1"), "not a lock of a script"),
        (changed(extra=1), "extra"),
        (changed(packages=None), "exactly one of"),
        (changed(mentioned=[]), "exactly one of"),
        (changed(closure=[]), "is not in `closure`"),
        (changed(closure=json.loads(TEXT)["closure"] * 2), "twice"),
        (changed(closure=None), "the file has no `closure`"),
        (
            changed(packages=[{"stated": "a", "path": "/nix/store/../etc"}]),
            "packages[0].path",
        ),
        (changed(packages=[{"stated": "", "path": str(A)}]), "packages[0].stated"),
        (changed(closure=[{"path": str(A), "narHash": "sha256-", "narSize": 1}]), "narHash"),
        (TEXT.replace("120", "0").encode(), "narSize"),
        (TEXT.replace("120", "true").encode(), "narSize"),
        (TEXT.replace("120", '"120"').encode(), "narSize"),
        (f"<<<<<<< HEAD\n{TEXT}".encode(), "not JSON"),
    ],
)
def test_malformed_locks(data: bytes, text: str) -> None:
    error = refused(data)
    assert str(error).startswith("`f.lock` is malformed: ")
    assert text in str(error)


def test_a_newer_format_says_so() -> None:
    error = refused(changed(format="eka script lock 2"))
    assert "`eka script lock 2`" in str(error)
    assert error.hint == "upgrade eka"


def test_a_lock_of_any_size_is_no_lock() -> None:
    assert "larger than 16 MiB" in str(refused(TEXT.encode() + b" " * (1 << 24)))


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_alike(data: bytes) -> None:
    refused(data)


def test_locks_of_other_programs_are_not_ours() -> None:
    assert not is_ours(b"")
    assert not is_ours(b'{"version": 3}')
    assert is_ours(b"<<<<<<< HEAD\n" + TEXT.encode())


def test_the_specification_shows_a_lock() -> None:
    text = (Path(SPEC) / "lock.md").read_text("utf-8")
    (example,) = (part.split("```")[0] for part in text.split("```json\n")[1:])
    assert render_lock(parse_lock(example.encode(), "lock.md")) == example.encode()
    assert set(LOCK_FILE.fields) <= set(json.loads(example)) | {"mentioned"}
