"""Path infos for Hypothesis: any that a message can hold, and some more."""

from __future__ import annotations

import base64

from hypothesis import strategies as st

from eka_runtime.nix import base32
from eka_runtime.nix.hashes import DIGEST_SIZES, NixHash
from eka_runtime.nix.path import ContentAddress, StorePath
from eka_runtime.store.pathinfo import PathInfo
from tests.unit.castore.test_node import nodes

_NAME = st.text("abcXYZ019+-._?=", min_size=1, max_size=20).map("n".__add__)
_HASH = st.binary(min_size=20, max_size=20).map(base32.encode)
_ALGORITHMS = [("text", "sha256")] + [(m, a) for m in ("flat", "recursive") for a in DIGEST_SIZES]


@st.composite
def _addresses(draw: st.DrawFn) -> str:
    method, algo = draw(st.sampled_from(_ALGORITHMS))
    size = DIGEST_SIZES[algo]
    digest = draw(st.binary(min_size=size, max_size=size))
    return str(ContentAddress(method, NixHash(algo, digest)))


paths = st.builds(StorePath, _HASH, _NAME)
derivers = st.builds(StorePath, _HASH, _NAME.map("{}.drv".format))
signatures = st.builds(
    lambda name, data: f"{name}:{base64.b64encode(data).decode()}",
    st.text("abc.-019", min_size=1, max_size=12),
    st.binary(min_size=64, max_size=64),
)
path_infos = st.builds(
    PathInfo,
    paths,
    nodes,
    st.binary(min_size=32, max_size=32),
    st.integers(1, 2**63 - 1),
    st.sets(paths, max_size=4).map(lambda found: tuple(sorted(found))),
    st.none() | derivers,
    st.sets(signatures, max_size=3).map(lambda found: tuple(sorted(found))),
    st.none() | _addresses(),
    st.just(0),
)
