"""Path infos as messages: against protobuf in both directions, snix's rules, and malice."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eka_runtime.castore.node import SymlinkNode, encode_entry
from eka_runtime.castore.render import NarDigest
from eka_runtime.errors import FormatError
from eka_runtime.nix.path import ContentAddress, StorePath
from eka_runtime.store.messages import (
    decode_nar_digest,
    decode_path_info,
    decode_path_request,
    encode_nar_digest,
    encode_path_info,
    encode_path_request,
)
from eka_runtime.store.pathinfo import PathInfo
from tests.unit.castore.descriptors import STORE, message, wire
from tests.unit.store.path_infos import path_infos, paths

# The enum of snix, in its order.
_CA = [
    ("recursive", "sha256"),
    ("recursive", "sha1"),
    ("recursive", "sha512"),
    ("recursive", "md5"),
    ("text", "sha256"),
    ("flat", "sha1"),
    ("flat", "md5"),
    ("flat", "sha256"),
    ("flat", "sha512"),
]
A, B = (StorePath(letter * 32, letter) for letter in "ab")
LINK = PathInfo(A, SymlinkNode(b"to"), bytes(32), 120)


def of_protobuf(info: PathInfo) -> Any:
    found = message("PathInfo", STORE)()
    found.entry.ParseFromString(encode_entry(info.node, info.path.base.encode()))
    found.references.extend(path.digest for path in info.references)
    narinfo = found.narinfo
    narinfo.nar_size, narinfo.nar_sha256 = info.nar_size, info.nar_hash
    narinfo.reference_names.extend(path.base for path in info.references)
    for signature in info.signatures:
        name, _, data = signature.partition(":")
        narinfo.signatures.add(name=name, data=base64.b64decode(data))
    if info.deriver:
        narinfo.deriver.name = info.deriver.name[: -len(".drv")]
        narinfo.deriver.digest = info.deriver.digest
    if info.ca:
        method, stated = ContentAddress.parse(info.ca)
        narinfo.ca.SetInParent()
        narinfo.ca.type, narinfo.ca.digest = _CA.index((method, stated.algo)), stated.digest
    return found


@given(path_infos)
def test_path_infos_are_those_of_protobuf(info: PathInfo) -> None:
    theirs = wire(of_protobuf(info))
    assert encode_path_info(info) == theirs
    assert decode_path_info(theirs) == info


@given(paths)
def test_requests_are_those_of_protobuf(path: StorePath) -> None:
    theirs = wire(message("GetPathInfoRequest", STORE)(by_output_hash=path.digest))
    assert encode_path_request(path.hash) == theirs
    assert decode_path_request(theirs) == path.hash
    assert decode_path_request(b"") is None


@given(st.binary(min_size=32, max_size=32), st.integers(0, 2**64 - 1))
def test_answers_to_calculate_nar_are_those_of_protobuf(sha256: bytes, size: int) -> None:
    theirs = wire(message("CalculateNARResponse", STORE)(nar_size=size, nar_sha256=sha256))
    assert encode_nar_digest(NarDigest(sha256, size)) == theirs
    assert decode_nar_digest(theirs) == (sha256, size)


def test_what_comes_in_any_order_is_sorted() -> None:
    found = of_protobuf(LINK._replace(references=(B, A), signatures=(sign("z"), sign("k"))))
    info = decode_path_info(wire(found))
    assert info.references == (A, B)
    assert info.signatures == (sign("k"), sign("z"))


def sign(name: str) -> str:
    return f"{name}:{base64.b64encode(bytes(64)).decode()}"


def test_the_registration_time_stays_here() -> None:
    assert decode_path_info(encode_path_info(LINK._replace(registered=7))) == LINK


@pytest.mark.parametrize("bad", ["k:AAAA", "k", ":", f"{'k' * 300}:{'A' * 86}==", "k: !"])
def test_signatures_that_are_none_stay_here(bad: str) -> None:
    info = LINK._replace(signatures=(bad, sign("k")))
    assert decode_path_info(encode_path_info(info)).signatures == (sign("k"),)


def test_a_deriver_may_come_with_its_suffix() -> None:
    found = of_protobuf(LINK)
    found.narinfo.deriver.name, found.narinfo.deriver.digest = "x.drv", B.digest
    assert decode_path_info(wire(found)).deriver == StorePath(B.hash, "x.drv")


def test_unknown_fields_are_skipped() -> None:
    assert decode_path_info(encode_path_info(LINK) + b"\x7a\x03new\x78\x01") == LINK


def test_the_first_kind_of_content_address_needs_its_message() -> None:
    found = of_protobuf(LINK)
    found.narinfo.ca.digest = bytes(32)
    assert decode_path_info(wire(found)).ca == f"fixed:r:sha256:{'0' * 52}"


def _spoil(change: Callable[[Any], object]) -> bytes:
    full = LINK._replace(
        references=(B,),
        deriver=StorePath(B.hash, "x.drv"),
        signatures=(sign("k"),),
        ca=f"text:sha256:{'0' * 52}",
    )
    found = of_protobuf(full)
    change(found)
    return wire(found)


_SPOILED: list[tuple[str, Callable[[Any], object]]] = [
    ("no entry", lambda m: m.ClearField("entry")),
    ("no narinfo", lambda m: m.ClearField("narinfo")),
    ("0 nodes", lambda m: m.entry.Clear()),
    ("nixbase32 digits", lambda m: setattr(m.entry.symlink, "name", b"a")),
    ("nixbase32 digits", lambda m: m.entry.symlink.ClearField("name")),
    ("contains", lambda m: setattr(m.entry.symlink, "name", b"%s-\xff" % A.hash.encode())),
    ("do not agree", lambda m: m.references.append(A.digest)),
    ("do not agree", lambda m: m.narinfo.reference_names.append(A.base)),
    ("do not agree", lambda m: m.references.__setitem__(0, B.digest[:19])),
    ("nixbase32 digits", lambda m: m.narinfo.reference_names.__setitem__(0, f"/nix/store/{B}")),
    ("32 bytes, not 31", lambda m: setattr(m.narinfo, "nar_sha256", bytes(31))),
    ("no NAR has 0", lambda m: setattr(m.narinfo, "nar_size", 0)),
    ("no NAR has", lambda m: setattr(m.narinfo, "nar_size", 2**63)),
    ("63 bytes", lambda m: setattr(m.narinfo.signatures[0], "data", bytes(63))),
    ("signing key", lambda m: setattr(m.narinfo.signatures[0], "name", "a:b")),
    ("signing key", lambda m: setattr(m.narinfo.signatures[0], "name", "a\nb")),
    ("signing key", lambda m: setattr(m.narinfo.signatures[0], "name", "")),
    ("19 bytes", lambda m: setattr(m.narinfo.deriver, "digest", bytes(19))),
    ("contains", lambda m: setattr(m.narinfo.deriver, "name", "a b")),
    ("not 1 to 211", lambda m: setattr(m.narinfo.deriver, "name", "a" * 211)),
    ("unknown kind", lambda m: setattr(m.narinfo.ca, "type", 9)),
    ("unknown kind", lambda m: setattr(m.narinfo.ca, "type", -1)),
    ("sha256 digest has 32", lambda m: setattr(m.narinfo.ca, "digest", bytes(20))),
]


@pytest.mark.parametrize(("problem", "change"), _SPOILED)
def test_each_rule_is_kept(problem: str, change: Callable[[Any], object]) -> None:
    with pytest.raises(FormatError, match=problem):
        decode_path_info(_spoil(change))


@given(st.binary(max_size=80))
def test_anything_is_decoded_or_refused(data: bytes) -> None:
    for decode in (decode_path_info, decode_path_request, decode_nar_digest):
        try:
            decode(data)
        except FormatError:
            continue
