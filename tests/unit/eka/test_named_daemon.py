"""Daemons that are named: what names one, and what is said when it is not there."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from eka.config import load_settings
from eka.named_daemon import NamedDaemon, named_daemon
from eka_runtime.daemon.protocol import CLIENT_MAGIC, SERVER_MAGIC
from eka_runtime.errors import ConfigError, ServiceError, UsageError
from eka_runtime.nix.tokens import u64
from tests.unit.castore.local import temporary


@pytest.fixture
def place() -> Iterator[Path]:
    with temporary() as path:
        (path / "root/nix/store").mkdir(parents=True)
        yield path


@contextmanager
def _answering(place: Path, answer: bytes) -> Iterator[None]:
    """One client is answered, after its greeting."""
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(place))
        made.listen()

        def answer_one() -> None:
            with made.accept()[0] as connection:
                assert connection.recv(8, socket.MSG_WAITALL) == u64(CLIENT_MAGIC)
                connection.sendall(answer)

        thread = threading.Thread(target=answer_one)
        thread.start()
        yield
        thread.join()


def _named(flag: str | None, daemon: str | None = None) -> NamedDaemon | None:
    environ = {"HOME": "/nowhere", **({"EKA_DAEMON": daemon} if daemon else {})}
    return named_daemon(flag, load_settings(environ))


def test_the_flag_beats_the_settings(place: Path) -> None:
    assert _named(None) is None
    assert _named("own", "unix:///nothing/there") is None
    found = NamedDaemon(place / "a%b", (place / "root/nix/store").resolve())
    url = f"unix://{place}/a%25b?root={place}/root"
    for words in ((url, None), (None, url), (url, "nonsense")):
        with _answering(place / "a%b", u64(SERVER_MAGIC)):
            assert _named(*words) == found
        (place / "a%b").unlink()


@pytest.mark.parametrize(
    "text",
    [
        "s",
        "/s",
        "unix://host/s",
        "http:///s",
        "unix://",
        "unix:///s?rot=/r",
        "unix:///s?root=r",
        "unix:///s?root=/r&root=/q",
        "unix:///s#x",
        "ssh-ng://host",
        "unix://[x",
        "unix:///a%00b",
    ],
)
def test_what_names_no_daemon(text: str) -> None:
    with pytest.raises(UsageError, match="--daemon") as raised:
        _named(text)
    assert raised.value.hint
    with pytest.raises(ConfigError, match="EKA_DAEMON"):
        _named(None, text)


def test_what_does_not_answer(place: Path) -> None:
    with pytest.raises(ServiceError, match=r"no daemon answers at .*No such file"):
        _named(f"unix://{place}/none")
    with pytest.raises(ServiceError, match=r"no daemon answers at .*too long"):
        _named(f"unix:///{'x' * 200}")
    (place / "file").touch()
    with pytest.raises(ServiceError, match=r"no daemon answers at .*refused"):
        _named(f"unix://{place}/file")
    for answer in (b"", b"HTTP/1.1"):
        with (
            _answering(place / "socket", answer),
            pytest.raises(ServiceError, match="is no Nix daemon"),
        ):
            _named(f"unix://{place}/socket?root={place}/root")
        (place / "socket").unlink()
    with (
        _answering(place / "socket", u64(SERVER_MAGIC)),
        pytest.raises(ServiceError, match=r"is not at .*/other/nix/store"),
    ):
        _named(f"unix://{place}/socket?root={place}/other")
