"""Files of a binary cache over HTTP: retries, resumed downloads, proxies, credentials.

What is tried again, after a while that grows: connections that fail or are cut, 408, 429 and 5xx. A
download that was cut goes on where it was, by a range request, as long as it makes progress; what
arrives is checked by those who read it, so a server that mixes two versions cannot deceive them.

A server that sends nothing for some seconds, or very little for longer, is given up. Redirects are
followed to http and https only, never from https to http, and credentials stay with the host they
are for. Out of scope: what is in the files, and which cache is asked.
"""

from __future__ import annotations

import random
import re
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, BinaryIO, NamedTuple, TypeVar
from urllib.parse import unquote, urljoin, urlsplit

import urllib3
from urllib3.exceptions import HTTPError, NewConnectionError, ReadTimeoutError
from urllib3.util import Timeout

from eka_runtime.cache.access import Access
from eka_runtime.cache.decompress import decompressing
from eka_runtime.cache.files import Body, checked_name, too_large
from eka_runtime.cache.quick import Host, QuickFiles, Unusual
from eka_runtime.errors import ServiceError
from eka_runtime.printable import in_one_line

T = TypeVar("T")

REDIRECTS = 5
_READ = 1 << 18
_NEVER = urllib3.Retry(False)
_Route = urllib3.PoolManager | urllib3.HTTPConnectionPool
_ABSENT = (403, 404, 410)
_TRANSIENT = (408, 425, 429, 500, 502, 503, 504)
_CONNECTIONS = 128
# Answers that cannot be read quickly, after which nobody tries that any more.
_UNUSUAL_MAX = 8
# Targets of requests that nothing has to be escaped in.
_PLAIN = re.compile(r"/[A-Za-z0-9._~/+-]*")
# A cut download that brought so much counts as one that works.
_PROGRESS = 1 << 14
_RETRY_AFTER_MAX = 30.0
# Of what a server says, this much is told.
_ANSWER_MAX = 300


class Patience(NamedTuple):
    """Seconds without an answer, tries, and the least bytes a second over `window` seconds."""

    connect: float = 10.0
    read: float = 20.0
    tries: int = 5
    pause: float = 0.25
    window: float = 30.0
    rate: int = 1024


class HttpFiles:
    """Made for one base URL; `access` has credentials and certificates."""

    def __init__(self, url: str, access: Access, patience: Patience | None = None) -> None:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
        path = parts.path.rstrip("/")
        self.base = f"{parts.scheme}://{host}{path}"
        self.name = self.base
        self.patience = patience or Patience()
        self._origin = (parts.scheme, host)
        self._credentials = _own(parts.username, parts.password)
        self._access = access
        self._closed = threading.Event()
        self._managers: dict[str | None, urllib3.PoolManager] = {}
        self._routes: dict[tuple[str, str], _Route] = {}
        self._guard = threading.Lock()
        self._quick: QuickFiles | None = None
        self._unusual = 0

    def close(self) -> None:
        """Nothing is tried again from now on."""
        self._closed.set()
        if self._quick:
            self._quick.close()
        for manager in self._managers.values():
            manager.clear()

    def read(self, name: str, limit: int) -> bytes | None:
        quick = self._quick
        if quick and self._unusual < _UNUSUAL_MAX:
            url = self._url(name)
            target = url.removeprefix(f"{self._origin[0]}://{self._origin[1]}")
            if target != url and _PLAIN.fullmatch(target):
                with suppress(Unusual):
                    return quick.get(target, self._headers(url), limit)
                self._unusual += 1
        return self._persistent(lambda: self._read_once(name, limit))

    def _read_once(self, name: str, limit: int) -> bytes | None:
        response = self.request("GET", self._url(name))
        try:
            if response.status in _ABSENT:
                response.drain_conn()
                return None
            self._expect(response, name, (200,))
            body = _Plain(self, response, name)
            read = decompressing(body.read, response.headers.get("Content-Encoding", ""), self.name)
            data = b""
            while len(data) <= limit and (piece := read(limit + 1 - len(data))):
                data += piece
            if len(data) > limit:
                response.close()
                raise too_large(self.name, name, limit)
        finally:
            response.release_conn()
        self._answered()
        return data

    def _answered(self) -> None:
        """The host can be reached: from now on the quick way is tried first."""
        scheme, host = self._origin
        with self._guard:
            if self._quick is None and not isinstance(
                self._routes.get((scheme, host)), urllib3.PoolManager | None
            ):
                parts = urlsplit(self.base)
                if not parts.netloc.isascii():
                    return  # a name that has to be written in another way, which urllib3 knows
                tls = self._access.tls() if scheme == "https" else None
                port = parts.port or (443 if tls else 80)
                self._quick = QuickFiles(
                    Host(parts.hostname or "", port, tls), self.patience, _ABSENT
                )

    def open(self, name: str) -> Body | None:
        return _Download.begin(self, self._url(name), name)

    def has(self, name: str) -> bool:
        def ask() -> bool:
            response = self.request("HEAD", self._url(name))
            response.release_conn()
            if response.status in _ABSENT:
                return False
            self._expect(response, name, (200,))
            return True

        return self._persistent(ask)

    def scratch(self) -> BinaryIO:
        return tempfile.TemporaryFile()

    def settle(self) -> None:
        pass

    def write(self, name: str, data: BinaryIO, size: int, mime: str) -> None:
        def send() -> None:
            data.seek(0)
            headers = {"Content-Type": mime, "Content-Length": str(size)}
            response = self.request("PUT", self._url(name), headers, data)
            answer = in_one_line(response.read(2000).decode("utf-8", "replace"), _ANSWER_MAX)
            response.release_conn()
            if response.status in (401, 403):
                raise ServiceError(
                    f"{self.name} does not take `{name}`: {answer or response.status}",
                    hint="give credentials for it in a netrc file, or in the URL",
                )
            self._expect(response, name, (200, 201, 204), answer)

        self._persistent(send)

    def request(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None = None,
        body: BinaryIO | None = None,
    ) -> urllib3.BaseHTTPResponse:
        """One exchange, redirects followed; raises _Transient or ServiceError."""
        first = url
        for _ in range(REDIRECTS + 1):
            response = self._exchange(method, url, dict(headers or {}), body)
            if response.status not in (301, 302, 303, 307, 308) or body is not None:
                return response
            response.close()
            url = self._followed(url, response.headers.get("Location", ""))
        raise ServiceError(f"{self.name}: `{first}` redirects more than {REDIRECTS} times")

    def _followed(self, url: str, location: str) -> str:
        with suppress(ValueError):
            target = urljoin(url, location)
            schemes = urlsplit(url).scheme, urlsplit(target).scheme
            if schemes in (("http", "http"), ("http", "https"), ("https", "https")):
                return target
        raise ServiceError(f"{self.name}: `{url}` redirects to {location[:200]!r}: refused")

    def _exchange(
        self, method: str, url: str, headers: dict[str, str], body: BinaryIO | None
    ) -> urllib3.BaseHTTPResponse:
        headers |= self._headers(url)
        timeout = Timeout(connect=self.patience.connect, read=self.patience.read)
        try:
            route, target = self._route(url)
            response = route.urlopen(
                method,
                target,
                headers=headers,
                body=body,
                redirect=False,
                retries=_NEVER,
                preload_content=False,
                decode_content=False,
                timeout=timeout,
            )
        except HTTPError as error:
            # Nobody listens there, or there is no network: seldom different a moment later.
            tries = 2 if isinstance(_cause(error), NewConnectionError) else None
            message = f"{self.name} cannot be reached: {_reason(error)}"
            raise _Transient(message, tries=tries) from error
        except (OSError, ValueError) as error:
            raise ServiceError(f"{self.name}: `{url}`: {error}") from error
        if response.status in _TRANSIENT:
            after = response.headers.get("Retry-After", "")
            response.close()
            pause = min(float(after), _RETRY_AFTER_MAX) if after.isdecimal() else 0.0
            raise _Transient(f"{self.name} answers `{url}` with status {response.status}", pause)
        return response

    def _headers(self, url: str) -> dict[str, str]:
        """Of every request."""
        headers = {"Accept-Encoding": "identity", "User-Agent": "eka"}
        if authorization := self._authorization(url):
            headers["Authorization"] = authorization
        return headers

    def _authorization(self, url: str) -> str | None:
        parts = urlsplit(url)
        if self._credentials and (parts.scheme, parts.netloc) == self._origin:
            user, password = self._credentials
            return urllib3.make_headers(basic_auth=f"{user}:{password}")["authorization"]
        return self._access.authorization(parts.hostname or "")

    def _route(self, url: str) -> tuple[_Route, str]:
        """What sends a request, and how the URL is written there.

        Finding out takes longer than all the rest of a request, so it is done once for each host.
        """
        scheme, _, rest = url.partition("://")
        host, slash, path = rest.partition("/")
        with self._guard:
            if (scheme, host) not in self._routes:
                self._routes[scheme, host] = self._new_route(url)
            route = self._routes[scheme, host]
        return route, url if isinstance(route, urllib3.PoolManager) else slash + path or "/"

    def _new_route(self, url: str) -> _Route:
        parts = urlsplit(url)
        proxy = _proxy_for(parts.scheme, parts.hostname or "")
        if proxy not in self._managers:
            self._managers[proxy] = self._new_manager(proxy)
        manager = self._managers[proxy]
        return manager if proxy else manager.connection_from_url(url)

    def _new_manager(self, proxy: str | None) -> urllib3.PoolManager:
        options: dict[str, Any] = {"maxsize": _CONNECTIONS, "block": False}
        if not self.base.startswith("http:"):
            options["ssl_context"] = self._access.tls()
        if proxy is None:
            return urllib3.PoolManager(**options)
        parts = urlsplit(proxy)
        headers = None
        if own := _own(parts.username, parts.password):
            headers = urllib3.make_headers(proxy_basic_auth=f"{own[0]}:{own[1]}")
        return urllib3.ProxyManager(proxy, proxy_headers=headers, **options)

    def _url(self, name: str) -> str:
        if name.startswith(("http://", "https://")):
            return name
        checked_name(self.name, name.partition("?")[0])
        return f"{self.base}/{name}"

    def _expect(
        self, response: urllib3.BaseHTTPResponse, name: str, good: tuple[int, ...], answer: str = ""
    ) -> None:
        if response.status not in good:
            response.close()
            hint = "give credentials for it in a netrc file" if response.status == 401 else None
            detail = f": {answer}" if answer else ""
            raise ServiceError(
                f"{self.name} answers `{name}` with status {response.status}{detail}", hint=hint
            )

    def _persistent(self, attempt: Callable[[], T]) -> T:
        for number in range(self.patience.tries):
            try:
                return attempt()
            except _Transient as error:
                if number + 1 >= self.tries(error) or self._closed.is_set():
                    raise ServiceError(str(error)) from error
                self.pause(number, error.after)
        raise AssertionError

    def tries(self, error: _Transient) -> int:
        return min(self.patience.tries, error.tries or self.patience.tries)

    def pause(self, number: int, after: float, end: threading.Event | None = None) -> None:
        """Longer each time, and not the same for all who were cut off at once."""
        delay = self.patience.pause * 2**number * random.uniform(0.5, 1.5)
        (end or self._closed).wait(max(delay, after))


class _Transient(Exception):
    """Worth another try, not before `after` seconds; `tries` in all if that is less than usual."""

    def __init__(self, message: str, after: float = 0.0, tries: int | None = None) -> None:
        super().__init__(message)
        self.after = after
        self.tries = tries


class _Plain:
    """The body of one response; what ends early is transient."""

    def __init__(self, files: HttpFiles, response: urllib3.BaseHTTPResponse, name: str) -> None:
        self._files = files
        self._response = response
        self._name = name
        self._pace = _Pace(files.patience)
        length = response.headers.get("Content-Length", "")
        # Without a length, or in chunks, urllib3 tells what ends early.
        self._left = int(length) if length.isdecimal() else None

    def read(self, size: int) -> bytes:
        try:
            data = self._response.read1(min(size, _READ))
        except (HTTPError, OSError) as error:
            raise _Transient(
                f"{self._files.name}: `{self._name}` was cut: {_reason(error)}"
            ) from error
        if self._left is not None:
            self._left -= len(data)
            if not data and self._left > 0:
                raise _Transient(f"{self._files.name}: `{self._name}` was cut")
        if not self._pace.keeps(len(data)):
            raise ServiceError(f"{self._files.name} sends `{self._name}` too slowly")
        return data


class _Pace:
    """Whether a sender is worth waiting for: judged for each window of time."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._since = time.monotonic()
        self._bytes = 0

    def keeps(self, size: int) -> bool:
        self._bytes += size
        now = time.monotonic()
        passed = now - self._since
        if passed < self._patience.window:
            return True
        enough = self._bytes >= self._patience.rate * passed
        self._since, self._bytes = now, 0
        # What has come to its end is not slow.
        return enough or not size


class _Download:
    """A file that is read to its end through as many connections as it takes."""

    def __init__(self, files: HttpFiles, url: str, name: str) -> None:
        self._files = files
        self._url = url
        self._name = name
        self._position = 0
        self._failures = 0
        self._since_failure = 0
        self._tag: str | None = None
        self._pace = _Pace(files.patience)
        self._response: urllib3.BaseHTTPResponse | None = None
        self._body: _Plain | None = None
        self._aborted = threading.Event()

    @classmethod
    def begin(cls, files: HttpFiles, url: str, name: str) -> _Download | None:
        download = cls(files, url, name)
        return download if download._connected() else None

    def read(self, size: int) -> bytes:
        while True:
            try:
                if self._body is None and not self._connect():
                    raise ServiceError(f"{self._files.name}: `{self._name}` has vanished")
                assert self._body is not None
                data = self._body.read(size)
            except _Transient as error:
                self._failed(error)
                continue
            self._position += len(data)
            self._since_failure += len(data)
            if not data and self._response is not None:
                self._response.release_conn()
            return data

    def close(self) -> None:
        if self._response is not None:
            self._response.close()

    def abort(self) -> None:
        self._aborted.set()
        response = self._response
        if response is not None:
            # It may have come to its end just now.
            with suppress(ValueError, OSError, RuntimeError, AttributeError):
                response.shutdown()

    def _connected(self) -> bool:
        while True:
            try:
                return self._connect()
            except _Transient as error:
                self._failed(error)

    def _failed(self, error: _Transient) -> None:
        if self._since_failure >= _PROGRESS:
            self._failures = 0
        self._failures += 1
        self._since_failure = 0
        if self._failures >= self._files.tries(error) or self._aborted.is_set():
            raise ServiceError(str(error)) from error
        self.close()
        self._body = None
        self._files.pause(self._failures - 1, error.after, self._aborted)

    def _connect(self) -> bool:
        headers = {}
        if self._position:
            headers["Range"] = f"bytes={self._position}-"
            if self._tag:
                headers["If-Range"] = self._tag
        response = self._files.request("GET", self._url, headers)
        self._response = response
        if response.status in _ABSENT:
            response.close()
            return False
        self._files._expect(response, self._name, (200, 206) if self._position else (200,))
        self._tag = _strong(response.headers.get("ETag", ""))
        self._body = _Plain(self._files, response, self._name)
        encoding = response.headers.get("Content-Encoding", "identity")
        if encoding not in ("", "identity"):
            # Not asked for; what is in it could not be continued.
            raise ServiceError(
                f"{self._files.name} sends `{self._name}` with the encoding {encoding[:40]!r}"
            )
        if self._position:
            self._skip(0 if self._continues(response) else self._position)
        return True

    def _continues(self, response: urllib3.BaseHTTPResponse) -> bool:
        place = response.headers.get("Content-Range", "")
        return response.status == 206 and place.startswith(f"bytes {self._position}-")

    def _skip(self, size: int) -> None:
        """What came already comes again from a server that knows no ranges."""
        assert self._body is not None
        while size:
            data = self._body.read(size)
            if not data:
                raise ServiceError(f"{self._files.name}: `{self._name}` has become shorter")
            size -= len(data)


def _strong(tag: str) -> str | None:
    return tag if tag.startswith('"') else None


def _own(user: str | None, password: str | None) -> tuple[str, str] | None:
    return (unquote(user or ""), unquote(password or "")) if user or password else None


def _proxy_for(scheme: str, host: str) -> str | None:
    if urllib.request.proxy_bypass(host):
        return None
    proxies = urllib.request.getproxies()
    found = proxies.get(scheme) or proxies.get("all")
    if found and "://" not in found:
        found = f"http://{found}"
    return found


def _cause(error: Exception) -> object:
    return getattr(error, "reason", None) or error


def _reason(error: Exception) -> str:
    """urllib3's texts have objects in front: `<…>: Failed to establish …`."""
    if isinstance(error, ReadTimeoutError):
        return "it has not answered in time"
    # Of ("Connection aborted.", exception) the exception says more.
    last = error.args[-1] if error.args else None
    text = str(last if isinstance(last, Exception) else _cause(error))
    return in_one_line(text.rpartition(">: ")[2], _ANSWER_MAX) or type(error).__name__
