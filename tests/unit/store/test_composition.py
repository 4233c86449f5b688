"""From addresses to services, and whole stores through them. With real object stores in files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from eka_runtime.castore.digest import B3Digest
from eka_runtime.errors import ConfigError, UsageError
from eka_runtime.nix.export import ExportItem
from eka_runtime.nix.path import StorePath
from eka_runtime.store.addresses import Addresses
from eka_runtime.store.composition import open_services
from eka_runtime.store.copying import missing_here, missing_there
from eka_runtime.store.incoming import copy_from
from eka_runtime.store.outgoing import copy_to
from eka_runtime.store.store import Store
from tests.stores import assert_clean
from tests.unit.nix.trees import File, Link, directory
from tests.unit.store.test_transfer import _import, _stream

A, B = (StorePath(letter * 32, letter) for letter in "ab")
CONTENTS = b"contents" * 100_000
TREE = directory(sub=directory(file=File(CONTENTS), run=File(b"#!", executable=True)), l=Link(b"x"))


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "source") as store:
        _import(store, _stream((ExportItem(A, (), None), TREE), (ExportItem(B, (A,), None), TREE)))
        yield store
    assert_clean(tmp_path / "source")


def one(url: str) -> Addresses:
    return Addresses(url, url, url)


def fill(source: Store, addresses: Addresses) -> None:
    with open_services(addresses) as far:
        copy_to(source, far, missing_there(source, far, [B]))
        assert missing_there(source, far, [B]) == []


def drain(store: Store, addresses: Addresses) -> None:
    with open_services(addresses) as far:
        copy_from(store, far, missing_here(store, far, [B]))


def test_an_object_store_takes_and_gives_a_closure(
    store: Store, source: Store, tmp_path: Path
) -> None:
    addresses = one(f"objectstore+file://{tmp_path}/objects")
    fill(source, addresses)
    drain(store, addresses)
    for path in (A, B):
        assert store.info(path)._replace(registered=0) == source.info(path)._replace(registered=0)


def test_three_addresses(store: Store, source: Store, tmp_path: Path) -> None:
    urls = [f"objectstore+file://{tmp_path}/{name}" for name in ("blobs", "trees", "paths")]
    fill(source, Addresses(*urls))
    parts = {
        place.name: sorted(child.name for child in place.iterdir())
        for place in (tmp_path / name for name in ("blobs", "trees", "paths"))
    }
    assert parts == {"blobs": ["blobs", "chunks"], "trees": ["dirs"], "paths": ["pathinfo"]}
    drain(store, Addresses(*urls))
    assert store.info(B).node == source.info(B).node


def test_a_cache_in_a_url(store: Store, source: Store, tmp_path: Path) -> None:
    far, near = (f"objectstore+file://{tmp_path}/{name}" for name in ("far", "near"))
    fill(source, one(far))
    drain(store, one(f"cache:?near={quote(near)}&far={quote(far)}"))
    with Store.open(tmp_path / "second") as second:
        drain(second, one(near))
        assert second.info(B).node == source.info(B).node


def composition(tmp_path: Path, text: str) -> Addresses:
    file = tmp_path / "composition.toml"
    file.write_text(text.replace("TMP", str(tmp_path)))
    return Addresses(composition=str(file))


CACHED = "".join(
    f"""
[{table}.root]
type = "cache"
near = "&local"
far = "objectstore+file://TMP/far"
[{table}.local]
type = "objectstore"
object_store_url = "file://TMP/near"
object_store_options = {{}}
[{table}.unused]
type = "redb"
path = "/nowhere"
"""
    for table in ("blobservices", "directoryservices", "pathinfoservices")
)


def test_a_composition_file(store: Store, source: Store, tmp_path: Path) -> None:
    fill(source, one(f"objectstore+file://{tmp_path}/far"))
    drain(store, composition(tmp_path, CACHED))
    assert store.info(B).node == source.info(B).node
    with open_services(one(f"objectstore+file://{tmp_path}/near")) as near:
        assert near.blobs.has(B3Digest.of(CONTENTS))
        assert near.paths.by_hash(B.hash) is not None


REST = """
[directoryservices.root]
type = "memory"
[pathinfoservices.root]
type = "memory"
"""


@pytest.mark.parametrize(
    ("text", "problem", "hint"),
    [
        ("", "there is no [blobservices.root]", None),
        ("[blobservices]\nroot = 1", "`blobservices` must hold tables", None),
        ("[blobs.root]", "unknown table `blobs`", "blobservices"),
        ("x = ", "is not valid TOML", None),
        ("[blobservices.root]", "[blobservices.root]: `type` is missing", None),
        ('[blobservices.root]\ntype = "x"', "type `x`: blobservices have no such", "`cache`"),
        ('[blobservices.root]\ntype = "redb"', "read by snix only", "`grpc`"),
        ('[blobservices.root]\ntype = "combined"', "have no such type", "`cache`"),
        ('[blobservices.root]\ntype = "grpc"\nurll = "x"', "unknown field `urll`", "`url`"),
        ('[blobservices.root]\ntype = "grpc"', "`url` is missing", None),
        ('[blobservices.root]\ntype = "cache"\nnear = 1', "`near` must be a non-empty", None),
        (
            '[blobservices.root]\ntype = "cache"\nnear = "&a"\nfar = "&a"',
            "there is no [blobservices.a]",
            None,
        ),
        (
            '[blobservices.root]\ntype = "cache"\nnear = "&a"\nfar = "&a"\n'
            '[blobservices.a]\ntype = "cache"\nnear = "&root"\nfar = "memory:"',
            "refer to each other: root -> a -> root",
            None,
        ),
        (
            '[blobservices.root]\ntype = "objectstore"\nobject_store_url = "file:///x"\n'
            "object_store_options = { a = 1 }",
            "must be a table of strings",
            None,
        ),
        (
            '[blobservices.root]\ntype = "objectstore"\nobject_store_url = "file:///x"\n'
            'object_store_options = {}\navg_chunk_size = "x"',
            "`avg_chunk_size` must be a number",
            None,
        ),
    ],
)
def test_errors_in_a_composition(tmp_path: Path, text: str, problem: str, hint: str | None) -> None:
    addresses = composition(tmp_path, text + REST if "[blobservices" in text else text)
    with (
        pytest.raises(ConfigError, match=re.escape(problem)) as caught,
        open_services(addresses),
    ):
        pass
    assert "composition.toml" in str(caught.value)
    assert hint is None or hint in str(caught.value.hint)


def test_a_composition_that_is_not_there(tmp_path: Path) -> None:
    with (
        pytest.raises(ConfigError, match="cannot read the composition"),
        open_services(Addresses(composition=f"{tmp_path}/absent")),
    ):
        pass


@pytest.mark.parametrize(
    ("url", "problem", "hint"),
    [
        ("", "is not the address of a blob service", "grpc+unix:/SOCKET"),
        ("/srv/store", "is not the address of a blob service", "objectstore+file:///DIR"),
        ("ftp://x", "is not the address of a blob service", "objectstore+s3://"),
        ("https://cache.nixos.org", "would be a binary cache", "objectstore+https://cache"),
        ("s3://bucket", "would be a binary cache", "objectstore+s3://bucket"),
        ("nix+https://cache.nixos.org", "binary caches of Nix are no services", "grpc+"),
        ("redb:/x", "read by snix only", "snix-store daemon"),
        ("redb+memory:", "eka has `memory:`", "objectstore+"),
        ("bigtable://x", "no Bigtable", "snix-store daemon"),
        ("cache:?near=memory:", "does not say what is near", "cache:?near=URL&far=URL"),
        ("cache:?near=memory:&far=x&far=y", "does not say what is near", "% escapes"),
        ("cache:?near=memory:&far=nonsense", "`nonsense` is not the address", "objectstore+"),
    ],
)
def test_urls_that_nobody_can_use(url: str, problem: str, hint: str) -> None:
    with pytest.raises(UsageError, match=re.escape(problem)) as caught, open_services(one(url)):
        pass
    assert hint in str(caught.value.hint)


def test_memory_is_a_service_too() -> None:
    with open_services(one("memory:")) as services:
        assert services.name == "memory:"
        assert not services.blobs.has(B3Digest.of(b"x"))
        assert services.directories.get(B3Digest.of(b"x")) is None
        assert list(services.paths.all()) == []
