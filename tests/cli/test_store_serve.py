"""`eka store serve` as typed: a URL on stdout, an end by signal, and clear refusals."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from eka.cli import cli
from eka_runtime.cache.access import Access
from eka_runtime.cache.client import BinaryCache
from eka_runtime.cache.http import HttpFiles
from eka_runtime.cache.trust import Trust, parse_keys
from eka_runtime.castore.remote import RemoteBlobs, RemoteDirectories
from eka_runtime.castore.render import nar_of
from eka_runtime.errors import ServiceError
from eka_runtime.nix.narinfo import parse_narinfo
from eka_runtime.rpc.channel import Channel
from eka_runtime.store.pathinfo import PathInfo
from eka_runtime.store.remote import RemotePathInfos
from eka_runtime.store.store import Store
from tests.caches import new_key
from tests.stores import link_info, store_dir
from tests.unit.castore.local import temporary
from tests.unit.nix.trees import COMPLICATED, to_disk, to_nar

__all__ = ["store_dir"]


@pytest.fixture
def place() -> Iterator[Path]:
    with temporary() as path:
        yield path


@pytest.fixture
def info(store_dir: Path, tmp_path: Path) -> PathInfo:
    """A path in the store."""
    with Store.open(store_dir) as store:
        return store.add_tree(to_disk(COMPLICATED, tmp_path / "tree"))


@contextmanager
def serving(
    store_dir: Path, *words: str, runtime: Path | None = None, how: int = signal.SIGINT
) -> Iterator[tuple[str, list[str]]]:
    """What the server prints first, and, when it has ended well, what it had to say."""
    command = [sys.executable, "-m", "eka", "store", "--store", str(store_dir), "serve", *words]
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(runtime)} if runtime else None
    said: list[str] = []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            first = process.stdout.readline().rstrip("\n")
            yield first, said
        finally:
            process.send_signal(how)
            rest, errors = process.communicate()
        said += errors.splitlines()
        assert process.returncode == 0, errors
        assert rest == ""


@contextmanager
def connected(url: str) -> Iterator[Channel]:
    channel = Channel(url)
    try:
        yield channel
    finally:
        channel.close()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_socket(store_dir: Path, place: Path, info: PathInfo, how: int) -> None:
    with serving(store_dir, "--grpc", "--listen", f"unix:{place}/s", how=how) as (url, said):
        assert url == f"grpc+unix:{place}/s"
        assert stat.S_IMODE(os.lstat(place / "s").st_mode) == 0o600
        with connected(url) as channel:
            found = RemotePathInfos(channel).by_hash(info.path.hash)
            assert found == info._replace(registered=0)
            services = RemoteBlobs(channel), RemoteDirectories(channel)
            assert nar_of(info.node, *services) == to_nar(COMPLICATED)
            assert RemotePathInfos(channel).put(link_info("new")).path == link_info("new").path
    assert said == []
    assert os.listdir(place) == []
    with Store.open(store_dir) as store:
        assert store.info(link_info("new").path)


def test_a_socket_of_the_session(store_dir: Path, place: Path) -> None:
    with serving(store_dir, "--grpc", "--json", runtime=place) as (line, _):
        assert json.loads(line) == {"url": f"grpc+unix:{place}/eka-store.sock"}


def test_a_port(store_dir: Path, info: PathInfo) -> None:
    with serving(store_dir, "--grpc", "--listen", "[::1]:0") as (url, said):
        assert url.startswith("grpc+http://[::1]:")
        with connected(url) as channel:
            assert RemotePathInfos(channel).by_hash(info.path.hash)
    assert len(said) == 1
    assert "every user of this machine may add to the store" in said[0]


def test_a_port_for_readers(store_dir: Path, info: PathInfo) -> None:
    words = ["--grpc", "--read-only", "--listen", "127.0.0.1:0"]
    with serving(store_dir, *words) as (url, said), connected(url) as channel:
        paths = RemotePathInfos(channel)
        assert paths.by_hash(info.path.hash)
        with pytest.raises(ServiceError, match="read-only"):
            paths.put(info)
    assert said == []


def test_a_client_may_stay_connected(store_dir: Path, place: Path, info: PathInfo) -> None:
    with temporary(), connected(f"grpc+unix:{place}/s") as channel:
        with serving(store_dir, "--grpc", "--listen", f"unix:{place}/s"):
            assert RemotePathInfos(channel).by_hash(info.path.hash)
        with pytest.raises(ServiceError, match="cannot reach"):
            RemotePathInfos(channel).by_hash(info.path.hash)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_binary_cache(store_dir: Path, tmp_path: Path, info: PathInfo, how: int) -> None:
    secret, public = new_key(tmp_path)
    words = ["--listen", "127.0.0.1:0", "--key-file", str(secret)]
    with serving(store_dir, *words, how=how) as (url, said):
        assert url.startswith("http://127.0.0.1:")
        trust = Trust(parse_keys([public]))
        with closing(HttpFiles(url, Access({}))) as files:
            found = BinaryCache(url, files, trust).narinfo_text(info.path.hash)
            assert found is not None
            assert trust.signer(parse_narinfo(found)) == "test-1"
    assert said == []


def _serve(store_dir: Path, *words: str) -> Result:
    arguments = ["store", "--store", str(store_dir), "serve", *words]
    return CliRunner().invoke(cli, arguments, prog_name="eka")


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        (["--grpc", "--key-file", "x"], 2, "not for `--grpc`"),
        (["--key-file", "/nonexistent"], 2, "cannot read the secret key"),
        (["--upload-token-file", "/dev/null"], 2, "at least 16 are needed"),
        (["--compression", "rar"], 2, "there is no compression `rar`"),
        (["--listen", "nowhere"], 2, "is not HOST:PORT"),
        ([], 22, "there is no store"),
        (["--grpc", "--listen", "nowhere"], 2, "--listen HOST:PORT"),
        (["--grpc", "--listen", "unix:/nonexistent/directory/s"], 2, "No such file"),
        (["--grpc", "--read-only", "--listen", "unix:s"], 22, "there is no store"),
    ],
)
def test_refusals(store_dir: Path, words: list[str], status: int, text: str) -> None:
    result = _serve(store_dir, *words)
    assert result.exit_code == status, result.output
    assert text in result.stderr
    assert "hint: " in result.stderr


def test_no_place_for_a_socket(store_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    result = _serve(store_dir, "--grpc")
    assert result.exit_code == 2
    assert "XDG_RUNTIME_DIR is not set" in result.stderr
