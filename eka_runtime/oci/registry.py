"""A registry as the OCI distribution-spec 1.1 has it: what pushing needs, over HTTP.

Blobs are streamed by one PUT after a POST, which every registry takes; what it has already is not
sent. Authentication is as registries do it: a challenge, then Basic, or a token from the place the
challenge names. Credentials come from the files that `podman login` and `docker login` write.
Constraint: credentials go to the registry, and to the place its challenge names over https or on
this machine, and nowhere else. Out of scope: pulling, credential helpers, mounting blobs from
other repositories.
"""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode, urljoin, urlsplit

import urllib3
from urllib3.exceptions import HTTPError

from eka_runtime.errors import ServiceError
from eka_runtime.printable import in_one_line

Body = bytes | Iterable[bytes]

_TIMEOUT = urllib3.Timeout(connect=10.0, read=120.0)
_CHALLENGE = re.compile(r'([a-z]+)="([^"]*)"')
_LOCAL = re.compile(r"(localhost|127\.[0-9.]+|\[::1\])(:[0-9]+)?")
_MAX_ANSWER = 1 << 22


class Credentials(NamedTuple):
    user: str
    password: str


class Answer(NamedTuple):
    """`data` is at most the first 4 MiB of what came."""

    status: int
    headers: Mapping[str, str]
    data: bytes


class Repository:
    """One repository of a registry; `plain` is http instead of https."""

    def __init__(
        self, host: str, name: str, credentials: Credentials | None = None, *, plain: bool = False
    ) -> None:
        self.name = f"{host}/{name}"
        # As docker and podman do it: what never leaves this machine needs no certificate.
        scheme = "http" if plain or _LOCAL.fullmatch(host) else "https"
        self._root = f"{scheme}://{_endpoint(host)}"
        self._base = f"{self._root}/v2/{name}"
        self._scope = f"repository:{name}:pull,push"
        self._credentials = credentials
        self._authorization = ""
        self._pool = urllib3.PoolManager(retries=False, timeout=_TIMEOUT)

    def close(self) -> None:
        self._pool.clear()

    def has_blob(self, digest: str) -> bool:
        return self._ask("HEAD", f"{self._base}/blobs/{digest}", (200, 404)).status == 200

    def put_blob(self, digest: str, size: int, body: Body) -> None:
        """`body` has exactly `size` bytes; an iterator is used once."""
        begun = self._ask("POST", f"{self._base}/blobs/uploads/", (202,), b"")
        place = urljoin(f"{self._root}/", begun.headers.get("Location", ""))
        place += ("&" if "?" in place else "?") + urlencode({"digest": digest})
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
        self._send("PUT", place, (201,), body, headers)

    def put_manifest(self, name: str, media_type: str, data: bytes) -> Mapping[str, str]:
        """`name` is a tag or a digest; returns the headers of the answer."""
        headers = {"Content-Type": media_type}
        url = f"{self._base}/manifests/{name}"
        return self._ask("PUT", url, (200, 201), data, headers).headers

    def get_manifest(self, name: str, media_type: str) -> bytes | None:
        headers = {"Accept": media_type}
        answer = self._ask("GET", f"{self._base}/manifests/{name}", (200, 404), None, headers)
        return answer.data if answer.status == 200 else None

    def referrers(self, digest: str) -> list[dict[str, Any]] | None:
        """Descriptors of what refers to a manifest; None if the registry cannot tell."""
        answer = self._ask("GET", f"{self._base}/referrers/{digest}", (200, 404))
        if answer.status == 404:
            return None
        try:
            found: list[dict[str, Any]] = json.loads(answer.data)["manifests"]
        except (ValueError, KeyError, TypeError):
            return None
        return found

    def _ask(
        self,
        method: str,
        url: str,
        expected: tuple[int, ...],
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Answers a challenge once. What is sent can be sent again."""
        answer = self._exchange(method, url, body, headers or {})
        if answer.status == 401 and self._authorize(answer.headers.get("WWW-Authenticate", "")):
            answer = self._exchange(method, url, body, headers or {})
        return self._expected(answer, expected)

    def _send(
        self,
        method: str,
        url: str,
        expected: tuple[int, ...],
        body: Body,
        headers: Mapping[str, str],
    ) -> None:
        # The POST before it has met the challenge.
        self._expected(self._exchange(method, url, body, headers), expected)

    def _exchange(
        self, method: str, url: str, body: Body | None, headers: Mapping[str, str]
    ) -> Answer:
        own = {"User-Agent": "eka", **headers}
        if self._authorization and _same_origin(url, self._root):
            own["Authorization"] = self._authorization
        try:
            answer = self._pool.request(
                method,
                url,
                body=body,
                headers=own,
                redirect=False,
                preload_content=False,
            )
            with answer:
                return Answer(answer.status, answer.headers, answer.read(_MAX_ANSWER))
        except HTTPError as error:
            raise ServiceError(
                f"the registry of {self.name} cannot be reached: {_reason(error)}",
                hint="check its name; for one without https, use `--plain-http`",
            ) from error

    def _expected(self, answer: Answer, expected: tuple[int, ...]) -> Answer:
        if answer.status in expected:
            return answer
        if answer.status in (401, 403):
            raise ServiceError(
                f"{self.name} does not let us push: {_errors(answer)}",
                hint=f"log in with `podman login {self.name.partition('/')[0]}`",
            )
        raise ServiceError(f"{self.name} answers with status {answer.status}: {_errors(answer)}")

    def _authorize(self, challenge: str) -> bool:
        kind, _, rest = challenge.partition(" ")
        if kind.lower() == "basic" and self._credentials and not self._authorization:
            self._authorization = _basic(self._credentials)
            return True
        if kind.lower() != "bearer":
            return False
        fields = dict(_CHALLENGE.findall(rest))
        token = self._token(fields.get("realm", ""), fields.get("service", ""))
        self._authorization = f"Bearer {token}" if token else ""
        return bool(token)

    def _token(self, realm: str, service: str) -> str:
        parts = urlsplit(realm)
        if parts.scheme != "https" and not _LOCAL.fullmatch(parts.netloc):
            raise ServiceError(f"{self.name} wants credentials sent to {realm[:200]!r}: refused")
        query = urlencode({"service": service, "scope": self._scope})
        headers = {"User-Agent": "eka"}
        if self._credentials:
            headers["Authorization"] = _basic(self._credentials)
        try:
            answer = self._pool.request("GET", f"{realm}?{query}", headers=headers, redirect=False)
            data = json.loads(answer.data[:_MAX_ANSWER]) if answer.status == 200 else {}
        except (HTTPError, ValueError) as error:
            raise ServiceError(f"no token for {self.name} from {realm}: {error}") from error
        token = data.get("token") or data.get("access_token") if isinstance(data, dict) else None
        return token if isinstance(token, str) and token.isprintable() else ""


def _endpoint(host: str) -> str:
    return "registry-1.docker.io" if host == "docker.io" else host


def _basic(credentials: Credentials) -> str:
    text = f"{credentials.user}:{credentials.password}".encode()
    return f"Basic {base64.b64encode(text).decode()}"


def _same_origin(url: str, root: str) -> bool:
    return urlsplit(url)[:2] == urlsplit(root)[:2]


def _errors(answer: Answer) -> str:
    """What the body says: `{"errors": [{"code": …, "message": …}]}`."""
    try:
        errors = json.loads(answer.data)["errors"]
        texts = [str(one.get("message") or one.get("code")) for one in errors]
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"status {answer.status}"
    return in_one_line("; ".join(texts), 500) or f"status {answer.status}"


def _reason(error: HTTPError) -> str:
    return in_one_line(str(error).rpartition(": ")[2], 500) or type(error).__name__


def find_credentials(host: str, environ: Mapping[str, str]) -> Credentials | None:
    """From the first file that has some: podman's, then docker's. Files that are broken have none.

    See containers-auth.json(5).
    """
    names = (host, "https://index.docker.io/v1/") if host == "docker.io" else (host,)
    for file in _places(environ):
        try:
            stated = json.loads(file.read_bytes())["auths"]
            found = next(stated[name]["auth"] for name in names if name in stated)
            user, colon, password = base64.b64decode(found).decode().partition(":")
        except (OSError, ValueError, KeyError, TypeError, StopIteration):
            continue
        if colon:
            return Credentials(user, password)
    return None


def _places(environ: Mapping[str, str]) -> Iterator[Path]:
    home = Path(environ.get("HOME", "/"))
    if stated := environ.get("REGISTRY_AUTH_FILE"):
        yield Path(stated)
    runtime = environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"
    yield Path(runtime) / "containers" / "auth.json"
    yield Path(environ.get("XDG_CONFIG_HOME") or home / ".config") / "containers" / "auth.json"
    yield Path(environ.get("DOCKER_CONFIG") or home / ".docker") / "config.json"
