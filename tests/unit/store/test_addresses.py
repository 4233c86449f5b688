"""Which services are in force: variables over eka.toml, compositions over addresses."""

from __future__ import annotations

import pytest

from eka_runtime.errors import ConfigError
from eka_runtime.store.addresses import Addresses, configured

BLOBS, DIRECTORIES, PATHS = "BLOB_SERVICE_ADDR", "DIRECTORY_SERVICE_ADDR", "PATH_INFO_SERVICE_ADDR"
COMPOSITION = "EXPERIMENTAL_STORE_COMPOSITION"
ALL = {BLOBS: "b:", DIRECTORIES: "d:", PATHS: "p:"}


@pytest.mark.parametrize(
    ("environ", "table", "expected"),
    [
        ({}, {}, None),
        ({BLOBS: ""}, {}, None),
        (ALL, {}, Addresses("b:", "d:", "p:")),
        ({}, {"url": "u:"}, Addresses("u:", "u:", "u:")),
        ({}, {"url": "u:", "path-infos": "p:"}, Addresses("u:", "u:", "p:")),
        ({BLOBS: "b:"}, {"url": "u:"}, Addresses("b:", "u:", "u:")),
        ({BLOBS: "b:"}, {"blobs": "x:", "url": "u:"}, Addresses("b:", "u:", "u:")),
        ({}, {"composition": "/c"}, Addresses(composition="/c")),
        (ALL, {"composition": "/c"}, Addresses("b:", "d:", "p:")),
        ({COMPOSITION: "/e"}, {"url": "u:"}, Addresses(composition="/e")),
        ({COMPOSITION: "/e", **ALL}, {"composition": "/c"}, Addresses(composition="/e")),
    ],
)
def test_what_is_in_force(
    environ: dict[str, str], table: dict[str, str], expected: Addresses | None
) -> None:
    assert configured(environ, table) == expected


@pytest.mark.parametrize(
    ("environ", "table", "missing"),
    [
        ({BLOBS: "b:"}, {}, f"{DIRECTORIES} and {PATHS}"),
        ({BLOBS: "b:"}, {"path-infos": "p:"}, DIRECTORIES),
        ({BLOBS: "b:"}, {"composition": "/c"}, f"{DIRECTORIES} and {PATHS}"),
    ],
)
def test_two_of_three_are_not_enough(
    environ: dict[str, str], table: dict[str, str], missing: str
) -> None:
    with pytest.raises(ConfigError, match="but not for directories") as caught:
        configured(environ, table)
    assert caught.value.hint is not None
    assert caught.value.hint.startswith(f"set {missing}, or `url`")


def test_how_they_are_called() -> None:
    assert str(Addresses("u:", "u:", "u:")) == "u:"
    assert str(Addresses("b:", "u:", "u:")) == "b:, u:"
    assert str(Addresses(composition="/c")) == "/c"


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("objectstore+file:///x", True),
        ("objectstore+memory:///", True),
        ("memory:", True),
        ("grpc+unix:/s", True),
        ("grpc+http://localhost:1", False),
        ("objectstore+s3://b/p", False),
        ("cache:?near=memory:&far=grpc%2Bhttp://h:1", False),
    ],
)
def test_what_needs_no_network(url: str, local: bool) -> None:
    assert Addresses(url, url, url).local is local
    assert not Addresses(url, "grpc+http://h:1", url).local
    assert not Addresses(composition="/c").local
