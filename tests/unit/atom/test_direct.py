"""Direct dependencies: which variety, what name, and what is fetched how often."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from eka.atom.direct import (
    Request,
    choose,
    concrete_url,
    default_name,
    is_current,
    lock_direct,
    tag_version,
)
from eka.atom.download import Downloads
from eka.atom.lock import LockedFile, LockedGit
from eka.atom.parts import Direct
from eka.atom.uri import resolve_url
from eka.atom.version import Version, parse_requirement, parse_version
from eka_runtime.errors import FormatError, ResolveError, ServiceError, UsageError
from tests.http_files import Answer, HttpServer, serve_http
from tests.unit.atom.repos import Repo
from tests.unit.atom.vectors import VECTORS


def request_of(arguments: list[str]) -> Request:
    """From the options of a vector."""
    given: dict[str, Any] = {}
    words = iter(arguments)
    for word in words:
        name = word.removeprefix("--")
        if name == "build":
            given["build"] = True
        else:
            value = next(words)
            given[name] = value if name == "git" else value == "true"
    return Request(**given)


@pytest.mark.parametrize("case", VECTORS["direct_variety"], ids=lambda case: " ".join(case["args"]))
def test_varieties_of_the_vectors(case: dict[str, Any]) -> None:
    url, *options = case["args"]
    found = choose(str(resolve_url(url)), request_of(options))
    wanted = case["variety"].split()
    assert found.variety == wanted[0]
    extra = {
        "HEAD": (found.ref, found.requirement) == (None, None),
        f"ref={found.ref}": found.ref is not None,
        f"version={found.requirement}": found.requirement is not None,
        "unpack=false": not found.unpack,
    }
    assert all(extra[word] for word in wanted[1:])


@pytest.mark.parametrize("case", VECTORS["default_names"], ids=lambda case: case["url"])
def test_names_of_the_vectors(case: dict[str, str]) -> None:
    kind, _, url = case["url"].rpartition(" ")
    direct = Direct("git" if kind else "url", url)
    if "error" in case["name"]:
        with pytest.raises(UsageError):
            default_name(direct)
    else:
        assert default_name(direct) == case["name"]


def test_the_version_placeholder() -> None:
    (case,) = VECTORS["cli_version_placeholder"]
    found = choose(case["input"], Request())
    assert found.url == case["url"]
    assert list(found.from_version or ()) == case["from_version"]
    pair = tuple(case["from_version"])
    url = concrete_url(found, {pair: parse_version("1.2.3")})
    assert url == "https://x.example/1.2.3/docs.tar.gz"


@pytest.mark.parametrize("case", VECTORS["git_tag_versions"], ids=lambda case: case["ref"])
def test_tags_of_the_vectors(case: dict[str, str | None]) -> None:
    found = tag_version(str(case["ref"]))
    assert (str(found) if found else None) == case["version"]


GIT = LockedGit("x", "https://e.org/r", None, "a" * 40)
FILE = LockedFile("nix", "x", "https://e.org/r", "sha256-")


@pytest.mark.parametrize(
    ("direct", "locked", "current"),
    [
        (Direct("git", "https://e.org/r"), GIT, True),
        (Direct("git", "https://e.org/other"), GIT, False),
        (Direct("url", "https://e.org/r"), GIT, False),
        (Direct("git", "https://e.org/r", requirement=parse_requirement("1")), GIT, False),
        (
            Direct("git", "https://e.org/r", requirement=parse_requirement("1")),
            GIT._replace(version=Version(1, 2, 3)),
            True,
        ),
        (
            Direct("git", "https://e.org/r", requirement=parse_requirement("2")),
            GIT._replace(version=Version(1, 2, 3)),
            False,
        ),
        (Direct("url", "https://e.org/r"), FILE, True),
        (Direct("tar", "https://e.org/r"), FILE, False),
        (Direct("build", "https://e.org/r", unpack=True), FILE._replace(type="nix+src"), False),
    ],
)
def test_every_change_of_a_dependency_is_noticed(
    direct: Direct, locked: LockedFile | LockedGit, current: bool
) -> None:
    assert is_current(direct, direct.url, locked) is current


@pytest.fixture
def server() -> Iterator[HttpServer]:
    with serve_http() as files:
        yield files


def tarball() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        info = tarfile.TarInfo("top/file")
        info.size = 3
        tar.addfile(info, io.BytesIO(b"abc"))
    return out.getvalue()


def test_files_are_hashed_flat_and_archives_unpacked(server: HttpServer, place: Path) -> None:
    data = tarball()
    url = server.put("/x.tar.gz", Answer(data))
    downloads = Downloads(place / "downloads")

    def locked(variety: Any, unpack: bool = False) -> Any:
        direct = Direct(variety, url, unpack=unpack)
        return lock_direct("x", direct, url, downloads, base=place)

    flat, unpacked = locked("url").hash, locked("tar").hash
    assert flat != unpacked
    assert locked("build") == LockedFile("nix+src", "x", url, flat)
    assert locked("build", True) == LockedFile("nix+src", "x", url, unpacked, True)
    file = place / "x.tar.gz"
    file.write_bytes(data)
    assert lock_direct("x", Direct("url", "f"), file.as_uri(), downloads, base=place).hash == flat  # type: ignore[union-attr]


def test_nothing_unchanged_is_fetched_twice(server: HttpServer, place: Path) -> None:
    url = server.put("/f", Answer(b"one", etag='"1"'))
    first = Downloads(place).get(url)
    assert first.sha256 == hashlib.sha256(b"one").digest()
    assert Downloads(place).get(url) == first
    assert server.asked == [("/f", 200), ("/f", 304)]
    server.put("/f", Answer(b"two", etag='"2"', headers=(("Cache-Control", "max-age=600"),)))
    second = Downloads(place).get(url)
    assert second.file.read_bytes() == b"two"
    assert Downloads(place).get(url) == second
    assert len(server.asked) == 3
    assert Downloads(place, offline=True).get(url) == second


def test_damaged_cache_entries_are_not_used(server: HttpServer, place: Path) -> None:
    url = server.put("/f", Answer(b"data", etag='"1"'))
    got = Downloads(place).get(url)
    os.truncate(got.file, 2)
    assert Downloads(place).get(url).file.read_bytes() == b"data"
    assert [status for _, status in server.asked] == [200, 200]


def test_no_store_is_obeyed(server: HttpServer, place: Path) -> None:
    url = server.put("/f", Answer(b"x", etag='"1"', headers=(("Cache-Control", "no-store"),)))
    Downloads(place).get(url)
    with pytest.raises(ServiceError, match="never fetched, and this is offline"):
        Downloads(place, offline=True).get(url)


def test_what_comes_and_goes_is_tried_again(server: HttpServer, place: Path) -> None:
    url = server.put("/f", Answer(status=503), Answer(status=502), Answer(b"there"))
    assert Downloads(place).get(url).file.read_bytes() == b"there"


def test_failures_say_what_and_leave_nothing(server: HttpServer, place: Path) -> None:
    with pytest.raises(ServiceError, match="status 404"):
        Downloads(place).get(server.url + "/none")
    cut = server.put("/cut", Answer(b"x" * 1000, cut=10))
    with pytest.raises(ServiceError, match="cannot fetch"):
        Downloads(place).get(cut)
    assert not list((place / "files").iterdir())
    with pytest.raises(FormatError, match="cannot be fetched"):
        Downloads(place).get("ftp://e.org/x")


def test_git_refs_and_versions(place: Path) -> None:
    repo = Repo.make(place / "repo")
    revs = [repo.commit({"f": str(n)}) for n in range(4)]
    repo.git("tag", "v1.0.0", revs[0])
    repo.git("tag", "-a", "-m", "x", "1.1.0", revs[1])
    repo.git("tag", "v1.1", revs[2])
    repo.git("branch", "side", revs[2])
    repo.git("tag", "side", revs[0])
    downloads = Downloads(place / "downloads")

    def locked(**more: Any) -> LockedGit:
        direct = Direct("git", "repo", **more)
        found = lock_direct("x", direct, "repo", downloads, base=place)
        assert isinstance(found, LockedGit)
        return found

    assert locked() == LockedGit("x", "repo", None, revs[3])
    assert locked(requirement=parse_requirement("^1")) == LockedGit(
        "x", "repo", Version(1, 1, 0), revs[1]
    )
    assert locked(ref="side").rev == revs[0]
    assert locked(ref="heads/side").rev == revs[2]
    assert locked(ref="refs/heads/side").rev == revs[2]
    with pytest.raises(ResolveError, match="has no ref `none`"):
        locked(ref="none")
    with pytest.raises(ResolveError, match=r"no tag of `repo` matches `\^3`"):
        locked(requirement=parse_requirement("3"))
