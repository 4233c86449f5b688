"""The URLs of services, and where to listen."""

from __future__ import annotations

import os

import pytest

from eka_runtime.errors import UsageError
from eka_runtime.rpc.address import Host, ServiceUrl, Socket, parse_listen


@pytest.mark.parametrize(
    ("url", "address", "target"),
    [
        ("grpc+unix:/run/s", Socket("/run/s"), "unix:/run/s"),
        ("grpc+unix:///run/s", Socket("/run/s"), "unix:/run/s"),
        ("grpc+unix:/a%20b%3Fc", Socket("/a b?c"), "unix:/a%20b%3Fc"),
        ("grpc+http://[::1]:8000", Host("::1", 8000), "dns:///[::1]:8000"),
        ("grpc+http://localhost:8000/", Host("localhost", 8000), "dns:///localhost:8000"),
        ("grpc+http://example.org", Host("example.org", 80), "dns:///example.org:80"),
        ("grpc+https://example.org", Host("example.org", 443), "dns:///example.org:443"),
    ],
)
def test_urls(url: str, address: Socket | Host, target: str) -> None:
    parsed = ServiceUrl.parse(url)
    assert parsed.address == address
    assert parsed.address.target == target
    assert parsed.secure == url.startswith("grpc+https")
    assert not parsed.wait_connect


def test_parameters() -> None:
    parsed = ServiceUrl.parse(
        "grpc+https://host:1?wait-connect=1&tls-ca-cert-path=/ca"
        "&tls-client-cert-path=/cert&tls-client-key-path=/key"
    )
    assert parsed == (Host("host", 1), True, True, "/ca", "/cert", "/key")


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("grpc+unix://run/s", "one slash, or three"),
        ("grpc+unix:run/s", "absolute path"),
        ("grpc+unix:/run/%00", "absolute path"),
        ("grpc+unix:/" + "a" * 107, "at most 107 bytes"),
        ("http://host:1", "scheme is 'http'"),
        ("", "scheme is ''"),
        ("grpc+http:/run/s", "more to it"),
        ("grpc+http://", "no host"),
        ("grpc+http://host:port", "[Pp]ort"),
        ("grpc+http://host:70000", "[Pp]ort"),
        ("grpc+http://me@host:1", "more to it"),
        ("grpc+http://host:1/path", "more to it"),
        ("grpc+http://host:1?x=1", "unknown parameter `x`"),
        ("grpc+http://host:1?tls-ca-cert-path=/ca", "unknown parameter"),
        ("grpc+https://host:1?tls-client-cert-path=/c", "go together"),
        ("grpc+http://[::1", "IPv6"),
    ],
)
def test_urls_that_are_none(url: str, problem: str) -> None:
    with pytest.raises(UsageError, match=problem) as raised:
        ServiceUrl.parse(url)
    assert "grpc+unix:/path/to/socket" in (raised.value.hint or "")


def test_where_to_listen() -> None:
    assert parse_listen("unix:/run/s") == Socket("/run/s")
    assert parse_listen("unix:s") == Socket(os.path.abspath("s"))
    assert parse_listen("[::1]:0") == Host("::1", 0)
    assert str(parse_listen("127.0.0.1:8000")) == "grpc+http://127.0.0.1:8000"
    assert str(parse_listen("[::]:8000")) == "grpc+http://[::]:8000"
    assert str(parse_listen("unix:/a b")) == "grpc+unix:/a%20b"


@pytest.mark.parametrize(
    "text", ["", "8000", "host", ":8000", "host:x", "host:1/x", "me@host:1", "unix:/" + "a" * 107]
)
def test_where_nobody_can_listen(text: str) -> None:
    with pytest.raises(UsageError, match="cannot listen"):
        parse_listen(text)


@pytest.mark.parametrize(
    ("address", "local"),
    [
        (Socket("/s"), True),
        (Host("127.0.0.1", 1), True),
        (Host("::1", 1), True),
        (Host("localhost", 1), True),
        (Host("::", 1), False),
        (Host("0.0.0.0", 1), False),
        (Host("example.org", 1), False),
    ],
)
def test_who_can_reach_it(address: Socket | Host, local: bool) -> None:
    assert address.local == local
