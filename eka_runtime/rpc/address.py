"""Where services are: the URLs that clients are given, and the addresses that servers listen on.

    grpc+unix:/path/to/socket     or `grpc+unix:///path/to/socket`, which newer snix takes, too
    grpc+http://host[:port]       80 unless stated
    grpc+https://host[:port]      443 unless stated

with snix's parameters `wait-connect=1` (connect at once) and, for https, `tls-ca-cert-path`,
`tls-client-cert-path` and `tls-client-key-path`. A server listens on `unix:PATH` or `HOST:PORT`.
"""

from __future__ import annotations

import ipaddress
import os
from typing import NamedTuple
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlsplit

from eka_runtime.errors import UsageError

MAX_SOCKET_PATH = 107
"""Bytes; the kernel's limit (unix(7)), the closing NUL not counted."""

_PORTS = {"grpc+http": 80, "grpc+https": 443}
_TLS = ("tls-ca-cert-path", "tls-client-cert-path", "tls-client-key-path")
_EXAMPLES = "write `grpc+unix:/path/to/socket`, `grpc+http://host:port` or `grpc+https://host:port`"
_LISTEN = "write `--listen unix:PATH` or `--listen HOST:PORT`"


class Socket(NamedTuple):
    """A Unix socket; `path` is absolute where a client is to connect."""

    path: str

    @property
    def target(self) -> str:
        return f"unix:{quote(self.path)}"

    @property
    def local(self) -> bool:
        return True

    def __str__(self) -> str:
        return f"grpc+unix:{quote(self.path)}"


class Host(NamedTuple):
    """`name` is a host name or an address, IPv6 without brackets."""

    name: str
    port: int

    @property
    def authority(self) -> str:
        return f"[{self.name}]:{self.port}" if ":" in self.name else f"{self.name}:{self.port}"

    @property
    def target(self) -> str:
        return f"dns:///{self.authority}"

    @property
    def local(self) -> bool:
        """Whether only this machine can reach it."""
        try:
            return ipaddress.ip_address(self.name).is_loopback
        except ValueError:
            return self.name == "localhost"

    def __str__(self) -> str:
        return f"grpc+http://{self.authority}"


class ServiceUrl(NamedTuple):
    """A URL taken apart. Certificates and keys are paths of PEM files."""

    address: Socket | Host
    secure: bool = False
    wait_connect: bool = False
    ca_cert: str | None = None
    client_cert: str | None = None
    client_key: str | None = None

    @classmethod
    def parse(cls, text: str) -> ServiceUrl:
        """Raises UsageError with what is wrong about it."""
        try:
            parts = urlsplit(text)
            address = _socket(parts) if parts.scheme == "grpc+unix" else _host(parts)
        except ValueError as error:
            raise _bad(text, str(error)) from error
        secure = parts.scheme == "grpc+https"
        options = _options(text, parts.query, _TLS if secure else ())
        cert, key = options.get(_TLS[1]), options.get(_TLS[2])
        if (cert is None) != (key is None):
            raise _bad(text, f"`{_TLS[1]}` and `{_TLS[2]}` go together")
        waits = options.get("wait-connect", "0") == "1"
        return cls(address, secure, waits, options.get(_TLS[0]), cert, key)


def _socket(parts: SplitResult) -> Socket:
    if parts.netloc:
        raise ValueError("it has a host: one slash, or three, begin the path")
    path = unquote(parts.path)
    if not path.startswith("/") or "\0" in path or parts.fragment:
        raise ValueError("it does not name an absolute path")
    _check_length(path)
    return Socket(path)


def _host(parts: SplitResult) -> Host:
    if parts.scheme not in _PORTS:
        raise ValueError(f"the scheme is {parts.scheme!r}")
    if "@" in parts.netloc or parts.path not in ("", "/") or parts.fragment:
        raise ValueError("there is more to it than a host and a port")
    if not parts.hostname:
        raise ValueError("it has no host")
    return Host(parts.hostname, _PORTS[parts.scheme] if parts.port is None else parts.port)


def _options(text: str, query: str, allowed: tuple[str, ...]) -> dict[str, str]:
    found = dict(parse_qsl(query, keep_blank_values=True))
    for name in found:
        if name not in ("wait-connect", *allowed):
            raise _bad(text, f"unknown parameter `{name}`")
    return found


def _bad(text: str, problem: str) -> UsageError:
    return UsageError(f"`{text}` is not the URL of a gRPC service: {problem}", hint=_EXAMPLES)


def _check_length(path: str) -> None:
    if (length := len(os.fsencode(path))) > MAX_SOCKET_PATH:
        raise ValueError(f"the path of a socket has at most {MAX_SOCKET_PATH} bytes, not {length}")


def parse_listen(text: str) -> Socket | Host:
    """Where to listen: `unix:PATH`, made absolute, or `HOST:PORT`, port 0 for any free one."""
    try:
        if text.startswith("unix:"):
            path = os.path.abspath(text.removeprefix("unix:"))
            _check_length(path)
            return Socket(path)
        parts = urlsplit(f"//{text}")
        if not parts.hostname or parts.port is None or text != parts.netloc or "@" in text:
            raise ValueError("host or port is missing")
        return Host(parts.hostname, parts.port)
    except ValueError as error:
        raise UsageError(f"cannot listen on `{text}`: {error}", hint=_LISTEN) from error
