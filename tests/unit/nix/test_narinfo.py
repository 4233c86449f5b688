"""narinfo files as Nix writes them, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eka_runtime.errors import FormatError
from eka_runtime.nix.base32 import ALPHABET
from eka_runtime.nix.hashes import NixHash
from eka_runtime.nix.narinfo import MAX_SIGNATURES, MAX_SIZE, NarInfo, format_narinfo, parse_narinfo
from eka_runtime.nix.path import StorePath

# From a cache that Nix 2.8 made.
TEXT = b"""\
StorePath: /nix/store/rw27a756rl1h9vwn0p3inqy75j5krd90-greet-1.0
URL: nar/0zn3hagsg0dy2wfm4k70pf6f08cabs4j45bg6klhb0v2smpyy0c3.nar.xz
Compression: xz
FileHash: sha256:0zn3hagsg0dy2wfm4k70pf6f08cabs4j45bg6klhb0v2smpyy0c3
FileSize: 332
NarHash: sha256:0fm3rrlg5pf8az2hq9a15wfh6y74d7va614lz3nzk8l75ihdgih6
NarSize: 720
References: 18i0nbxj5ymvf58rgd88awl2db5il4sl-greeting.txt krc35cyikgmi5n30g1ys1fzc26s4fal8-tools
Deriver: 4r1iz01c6gqj09csar64msnwra7ax8kr-greet-1.0.drv
Sig: test-1:r2GkNL38x+DdmGPAcB2LJrST9z9ehFx/4eDse59DVkeblR/jw3BcoPyeHQ/I80pXK8IZei97OlITcB8N9UbJDQ==
"""


def test_what_nix_wrote_comes_out_as_it_was() -> None:
    info = parse_narinfo(TEXT)
    assert info.path == StorePath("rw27a756rl1h9vwn0p3inqy75j5krd90", "greet-1.0")
    assert (info.compression, info.file_size, info.nar_size) == ("xz", 332, 720)
    assert [path.name for path in info.references] == ["greeting.txt", "tools"]
    assert info.deriver is not None
    assert info.deriver.name == "greet-1.0.drv"
    assert format_narinfo(info) == TEXT


def without(key: str) -> bytes:
    return b"".join(
        line for line in TEXT.splitlines(keepends=True) if not line.startswith(key.encode())
    )


def test_what_may_lack_has_the_meaning_that_nix_gives_it() -> None:
    assert parse_narinfo(without("Compression")).compression == "bzip2"
    assert parse_narinfo(without("References")).references == ()
    assert parse_narinfo(without("Deriver") + b"Deriver: unknown-deriver\n").deriver is None
    assert parse_narinfo(without("FileSize") + b"FileSize: 0\n").file_size is None
    assert parse_narinfo(TEXT + b"System: x\nUnheard-Of: y\n\n") == parse_narinfo(TEXT)
    in_hex = NixHash("sha256", parse_narinfo(TEXT).nar_hash).hex().encode()
    assert parse_narinfo(without("NarHash") + b"NarHash: " + in_hex) == parse_narinfo(TEXT)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"", "no StorePath"),
        (without("URL"), "no URL"),
        (without("NarHash"), "no NarHash"),
        (without("NarSize"), "no NarSize"),
        (TEXT + b"URL: other\n", "URL occurs twice"),
        (TEXT + b"nonsense\n", "no colon"),
        (TEXT + b"CA: a\x1b[2Jb\n", "control characters"),
        (TEXT.replace(b"greet-1.0\n", b"../etc\n", 1), "contains '/'"),
        (TEXT.replace(b"/nix/store/rw", b"/etc/store/rw"), "not below /nix/store"),
        (TEXT.replace(b"18i0nbxj5", b"/nix/sto"), "nixbase32"),
        (TEXT.replace(b"NarSize: 720", b"NarSize: -1"), "not a size"),
        (TEXT.replace(b"NarSize: 720", b"NarSize: 0"), "NarSize is 0"),
        (TEXT.replace(b"NarSize: 720", b"NarSize: 9999999999999999999"), "not a size"),
        (TEXT.replace(b"NarHash: sha256:0fm3", b"NarHash: sha256:0f"), "not a sha256 digest"),
        (without("NarHash") + b"NarHash: md5:" + b"0" * 32, "not a sha256"),
        (TEXT + b"\xff: x", "not UTF-8"),
        (TEXT + b"x" * MAX_SIZE, "at most"),
    ],
)
def test_what_is_wrong_is_refused(text: bytes, problem: str) -> None:
    with pytest.raises(FormatError, match=problem):
        parse_narinfo(text)


def test_endless_signatures_are_cut_off() -> None:
    many = b"".join(b"Sig: k:%d\n" % number for number in range(10 * MAX_SIGNATURES))
    assert len(parse_narinfo(TEXT + many).signatures) == MAX_SIGNATURES


paths = st.builds(
    StorePath,
    st.text(ALPHABET, min_size=32, max_size=32),
    st.text("abc-1.", min_size=1, max_size=9).map(lambda name: f"p{name}"),
)
infos = st.builds(
    NarInfo,
    paths,
    st.text("abc/.?=", min_size=1),
    st.sampled_from(["none", "xz", "zstd"]),
    st.binary(min_size=32, max_size=32),
    st.integers(1, 1 << 62),
    st.sets(paths).map(lambda found: tuple(sorted(found))),
    st.none() | st.builds(NixHash, st.just("sha256"), st.binary(min_size=32, max_size=32)),
    st.none() | st.integers(1, 1 << 62),
    st.none() | paths,
    st.sets(st.text("ab:=", min_size=1)).map(lambda found: tuple(sorted(found))),
    st.none() | st.just("text:sha256:abc"),
    st.just("EgA"),
    st.sets(st.text("ab:=", min_size=1)).map(lambda found: tuple(sorted(found))),
)


@given(infos)
def test_whatever_is_written_is_read_alike(info: NarInfo) -> None:
    assert parse_narinfo(format_narinfo(info)) == info


def test_castore_nodes_and_their_signatures() -> None:
    lines = b"EkaCastore: EgA\nEkaCastoreSig: b:2\nEkaCastoreSig: a:1\n"
    info = parse_narinfo(TEXT + lines)
    assert (info.castore, info.castore_signatures) == ("EgA", ("a:1", "b:2"))
    assert parse_narinfo(format_narinfo(info)) == info
    assert info.signatures == parse_narinfo(TEXT).signatures
    many = b"".join(b"EkaCastoreSig: k:%d\n" % number for number in range(10 * MAX_SIGNATURES))
    assert len(parse_narinfo(TEXT + many).castore_signatures) == MAX_SIGNATURES
    with pytest.raises(FormatError, match="EkaCastore occurs twice"):
        parse_narinfo(TEXT + lines + lines)
