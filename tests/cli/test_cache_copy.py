"""`eka store copy` and binary caches: those that Nix makes, and those that Nix reads."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from click.testing import CliRunner, Result

from eka.cli import cli
from tests.caches import FEATURES, Server, new_key, nix_copy_to, serving
from tests.cli.conftest import open_directory
from tests.seed import NixClosure, NixStore, greet_closure
from tests.stores import assert_clean

COMPRESSIONS = ("xz", "zstd", "bzip2", "gzip", "br", "none")


class Made(NamedTuple):
    """A closure in a store of real Nix, in a signed cache, with the key that signed it.

    `small` is a tree without references in the same store.
    """

    closure: NixClosure
    cache: Path
    secret: Path
    public: str
    small: str


@pytest.fixture(scope="module")
def made() -> Iterator[Made]:
    with open_directory() as place:
        closure = greet_closure(place)
        secret, public = new_key(place)
        nix_copy_to(closure.nix, place / "cache", secret, closure.root, compression="none")
        (place / "small").mkdir()
        (place / "small" / "zeros").write_bytes(bytes(300_000))
        (place / "small" / "noise").write_bytes(os.urandom(50_000))
        small = closure.nix.run("nix-store", "--add", place / "small")
        yield Made(closure, place / "cache", secret, public, small)


@pytest.fixture
def server(made: Made) -> Iterator[Server]:
    with serving(made.cache) as server:
        yield server


Eka = Callable[..., Result]


@pytest.fixture
def eka(tmp_path: Path, made: Made, monkeypatch: pytest.MonkeyPatch) -> Iterator[Eka]:
    """Runs `eka store ARG…` on a store of its own; trusts the key of `made`."""
    for variable in [name for name in os.environ if name.startswith(("NIX_", "EKA_", "XDG_"))]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NIX_CONF_DIR", str(tmp_path / "nowhere"))
    monkeypatch.setenv("EKA_TRUSTED_PUBLIC_KEYS", made.public)
    monkeypatch.setenv("EKA_STORE", str(tmp_path / "store"))

    def run(*words: object) -> Result:
        return CliRunner().invoke(cli, ["store", *map(str, words)], prog_name="eka")

    yield run
    if (tmp_path / "store").exists():
        assert_clean(tmp_path / "store")


def lines(result: Result) -> list[str]:
    assert result.exit_code == 0, result.output
    return result.stdout.splitlines()


def fails(result: Result, status: int, *texts: str) -> None:
    assert result.exit_code == status, result.output
    assert not result.stdout
    for text in ("error: ", *texts):
        assert text in result.stderr


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_what_nix_made_comes_in(eka: Eka, made: Made, tmp_path: Path, compression: str) -> None:
    cache = tmp_path / "cache"
    nix_copy_to(made.closure.nix, cache, made.secret, made.small, compression=compression)
    result = eka("copy", "--from", f"file://{cache}", made.small)
    assert lines(result) == [made.small]
    assert "copying 1 path (" in result.stderr
    again = eka("copy", "--from", f"file://{cache}", made.small)
    assert lines(again) == []
    assert "nothing to copy" in again.stderr


def test_over_http_with_what_nix_knows_of_it(eka: Eka, made: Made, server: Server) -> None:
    assert len(lines(eka("copy", "--from", server.url, made.closure.root))) == 3
    result = eka("info", "--json", made.closure.root)
    assert '"deriver":"/nix/store/' in result.stdout
    assert '"signatures":["test-1:' in result.stdout


def test_signatures_are_required(
    eka: Eka, made: Made, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EKA_TRUSTED_PUBLIC_KEYS", new_key(made.cache.parent, "other-1")[1])
    result = eka("copy", "--from", server.url, made.closure.root)
    fails(result, 27, "signed only by test-1", "trusted: other-1", "trusted-public-keys")
    # Sources are content-addressed: nobody needs to vouch for them.
    tools = next(path for path in made.closure.paths if path.endswith("busybox-tools"))
    text = next(path for path in made.closure.paths if path.endswith("greeting.txt"))
    assert sorted(lines(eka("copy", "--from", server.url, tools, text))) == sorted([tools, text])
    assert lines(eka("copy", "--from", server.url, "--no-check-sigs", made.closure.root))


def test_what_is_nowhere(eka: Eka, server: Server, tmp_path: Path) -> None:
    absent = f"/nix/store/{'0' * 32}-absent"
    fails(eka("copy", "--from", server.url, absent), 20, f"`{absent}` is not in {server.url}")
    (tmp_path / "empty").mkdir()
    fails(eka("copy", "--from", f"file://{tmp_path}/empty", absent), 28, "no `nix-cache-info`")
    fails(eka("copy", "--from", "http://127.0.0.1:1", absent), 28, "cannot be reached", "refused")
    fails(eka("copy", "--from", "http:///x", absent), 2, "names no host")
    fails(eka("--offline", "copy", "--from", server.url, absent), 2, "`--offline` forbids")


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_nix_takes_what_we_made(eka: Eka, made: Made, tmp_path: Path, compression: str) -> None:
    assert lines(eka("add", made.cache.parent / "small")) == [made.small]
    cache = tmp_path / "cache"
    url = f"file://{cache}?compression={compression}"
    assert lines(eka("copy", "--to", url, made.small)) == [made.small]
    assert lines(eka("copy", "--to", url, made.small)) == []
    nix = NixStore(tmp_path / "nix")
    trusted = ("--option", "trusted-public-keys", made.public)
    nix.run("nix", *FEATURES, *trusted, "copy", "--from", f"file://{cache}", made.small)
    original = made.cache.parent / "small"
    copied = nix.directory / made.small[1:]
    for name in ("zeros", "noise"):
        assert (copied / name).read_bytes() == (original / name).read_bytes()
    assert not [file for file in os.listdir(cache) if file.startswith(".")]


def test_nix_takes_a_closure_that_we_signed(eka: Eka, made: Made, tmp_path: Path) -> None:
    root = made.closure.root
    lines(eka("import", made.closure.stream))
    url = f"file://{tmp_path}/cache?secret-key={made.secret}&compression-level=1"
    assert sorted(lines(eka("copy", "--to", url, root))) == sorted(made.closure.paths)
    nix = NixStore(tmp_path / "nix")
    trusted = ("--option", "trusted-public-keys", made.public)
    nix.run("nix", *FEATURES, *trusted, "copy", "--from", f"file://{tmp_path}/cache", root)
    assert sorted(nix.run("nix-store", "-qR", root).split()) == sorted(made.closure.paths)
    nix.run("nix-store", "--verify", "--check-contents")


def test_nix_refuses_what_we_did_not_sign(eka: Eka, made: Made, tmp_path: Path) -> None:
    lines(eka("import", made.closure.stream))
    lines(eka("copy", "--to", f"file://{tmp_path}/cache", made.closure.root))
    nix = NixStore(tmp_path / "nix")
    with pytest.raises(RuntimeError, match="signature"):
        nix.run("nix", *FEATURES, "copy", "--from", f"file://{tmp_path}/cache", made.closure.root)
    secret = tmp_path / "k"
    assert lines(eka("key", "generate", "k-1", "-o", secret))[0].startswith("k-1:")
    assert secret.stat().st_mode & 0o777 == 0o600
    assert len(lines(eka("sign", "-r", "--key-file", secret, made.closure.root))) == 3
    assert lines(eka("sign", "-r", "--key-file", secret, made.closure.root)) == []
    lines(eka("copy", "--to", f"file://{tmp_path}/signed", made.closure.root))
    public = lines(eka("key", "public", secret))[0]
    trusted = ("--option", "trusted-public-keys", public)
    source = f"file://{tmp_path}/signed"
    nix.run("nix", *FEATURES, *trusted, "copy", "--from", source, made.closure.root)


def test_listings_are_those_of_nix(eka: Eka, made: Made, tmp_path: Path) -> None:
    root, more = made.closure.root, {"write_nar_listing": "1", "compression": "none"}
    nix_copy_to(made.closure.nix, tmp_path / "theirs", None, root, **more)
    lines(eka("import", made.closure.stream))
    url = f"file://{tmp_path}/ours?write-nar-listing=1&compression=none"
    lines(eka("copy", "--to", url, root))
    found = sorted(place.name for place in (tmp_path / "theirs").glob("*.ls"))
    assert len(found) == 3
    for name in found:
        ours, theirs = ((tmp_path / side / name).read_bytes() for side in ("ours", "theirs"))
        # The order of the fields is another one with newer ones.
        assert json.loads(ours) == json.loads(theirs)
    for name in (place.name for place in (tmp_path / "theirs").glob("*.narinfo")):
        ours, theirs = ((tmp_path / side / name).read_bytes() for side in ("ours", "theirs"))
        # Content addresses are not in the stream that we had the paths from.
        assert ours == theirs.partition(b"CA: ")[0]


def test_configured_caches_in_eka_toml_and_nix_conf(
    eka: Eka, made: Made, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EKA_TRUSTED_PUBLIC_KEYS")
    fails(eka("copy", made.closure.root), 2, "no binary caches", "[caches]")
    (tmp_path / "nix").mkdir()
    (tmp_path / "nix" / "nix.conf").write_text(
        f"substituters = {server.url} # here\nextra-trusted-public-keys = {made.public}\n"
    )
    monkeypatch.setenv("NIX_CONF_DIR", str(tmp_path / "nix"))
    assert len(lines(eka("copy", made.closure.root))) == 3
    (tmp_path / ".config" / "eka").mkdir(parents=True)
    toml = tmp_path / ".config" / "eka" / "eka.toml"
    toml.write_text(f'[caches]\nsubstituters = ["file://{tmp_path}/other"]\n')
    fails(eka("copy", f"/nix/store/{'0' * 32}-absent"), 28, f"{tmp_path}/other is not a binary")
    toml.write_text("[caches]\nsubstituter = []\n")
    fails(eka("copy", made.closure.root), 11, "unknown key `caches.substituter`")
