"""Files by URL, kept in a private cache with their validators, so that none is fetched twice.

    DIR/files/<sha256>           contents, named by their hash and checked when used
    DIR/urls/<sha256 of url>     {"url", "sha256", "etag", "modified", "fresh": until, seconds}

A file is fresh for as long as its server said (`Cache-Control: max-age`); after that the server is
asked with the validators whether it changed. `no-store` is obeyed. Everything may be deleted at any
time. Two processes may fetch one URL at once; the last one's entry stays. `file:` URLs are read
where they are.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote, urlsplit

from eka_runtime.errors import FormatError, ServiceError
from eka_runtime.nix.hashes import NixHash

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse, PoolManager

MAX_BYTES = 1 << 35
_CHUNK = 1 << 18
_RETRIED = (408, 425, 429, 500, 502, 503, 504)
_MAX_AGE = re.compile(r"(?:^|[,\s])max-age=([0-9]{1,9})")

Progress = Callable[[int], None]
"""Called with the bytes that have come so far."""


class Downloaded(NamedTuple):
    """`file` stays at least as long as the cache is not cleared."""

    file: Path
    sha256: bytes

    def hash(self) -> NixHash:
        return NixHash("sha256", self.sha256)


class Downloads:
    """One cache directory. `offline`: only what is in it, however old."""

    def __init__(self, directory: Path, *, offline: bool = False) -> None:
        self._files = directory / "files"
        self._urls = directory / "urls"
        self._offline = offline
        self._pool: PoolManager | None = None

    def get(self, url: str, progress: Progress = lambda size: None) -> Downloaded:
        """Raises ServiceError for what cannot be fetched, FormatError for a URL of no use."""
        parts = urlsplit(url)
        if parts.scheme == "file":
            return _local(Path(unquote(parts.path)))
        if parts.scheme not in ("http", "https"):
            raise FormatError(f"`{url}` cannot be fetched", hint="use an http, https or file URL")
        entry = self._entry(url)
        known = self._known(entry)
        if known and (self._offline or float(entry.get("fresh", 0)) > time.time()):
            return known
        if self._offline:
            raise ServiceError(
                f"`{url}` was never fetched, and this is offline",
                hint="run it again without `--offline`",
            )
        return self._fetch(url, entry if known else {}, known, progress)

    def _entry_file(self, url: str) -> Path:
        return self._urls / hashlib.sha256(url.encode()).hexdigest()

    def _entry(self, url: str) -> dict[str, str | float]:
        try:
            entry = json.loads(self._entry_file(url).read_bytes())
        except (OSError, ValueError):
            return {}
        return entry if isinstance(entry, dict) and entry.get("url") == url else {}

    def _known(self, entry: Mapping[str, object]) -> Downloaded | None:
        """What the entry names, if it is there and whole."""
        name = str(entry.get("sha256", ""))
        if not re.fullmatch("[0-9a-f]{64}", name):
            return None
        file = self._files / name
        with suppress(OSError), file.open("rb") as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() == name:
                return Downloaded(file, bytes.fromhex(name))
        return None

    def _fetch(
        self,
        url: str,
        entry: Mapping[str, str | float],
        known: Downloaded | None,
        progress: Progress,
    ) -> Downloaded:
        asked = {"Accept-Encoding": "identity", "User-Agent": "eka"}
        if entry.get("etag"):
            asked["If-None-Match"] = str(entry["etag"])
        if entry.get("modified"):
            asked["If-Modified-Since"] = str(entry["modified"])
        with self._answer(url, asked) as answer:
            if answer.status == 304 and known:
                self._keep(url, known, answer.headers)
                return known
            if answer.status != 200:
                raise ServiceError(f"`{url}` answers with status {answer.status}")
            got = self._save(url, answer, progress)
            self._keep(url, got, answer.headers)
            return got

    @contextmanager
    def _answer(self, url: str, headers: Mapping[str, str]) -> Iterator[BaseHTTPResponse]:
        from urllib3 import PoolManager, Retry, Timeout
        from urllib3.exceptions import HTTPError

        if self._pool is None:
            retry = Retry(
                4, redirect=5, status_forcelist=_RETRIED, backoff_factor=0.25, raise_on_status=False
            )
            self._pool = PoolManager(retries=retry, timeout=Timeout(connect=10, read=30))
        try:
            answer = self._pool.request("GET", url, headers=dict(headers), preload_content=False)
            try:
                yield answer
            finally:
                answer.close()
        except HTTPError as error:
            reason = getattr(error, "reason", None) or error
            raise ServiceError(f"cannot fetch `{url}`: {reason}") from error

    def _save(self, url: str, answer: BaseHTTPResponse, progress: Progress) -> Downloaded:
        self._files.mkdir(parents=True, exist_ok=True)
        digest, size = hashlib.sha256(), 0
        with tempfile.NamedTemporaryFile(dir=self._files, prefix=".new-") as temporary:
            for data in answer.stream(_CHUNK):
                size += len(data)
                if size > MAX_BYTES:
                    raise ServiceError(f"`{url}` has more than {MAX_BYTES} bytes")
                digest.update(data)
                temporary.write(data)
                progress(size)
            temporary.flush()
            file = self._files / digest.hexdigest()
            with suppress(FileExistsError):
                os.link(temporary.name, file)
            if file.stat().st_size != size:  # one that was damaged
                os.replace(temporary.name, file)
                Path(temporary.name).touch()
        return Downloaded(file, digest.digest())

    def _keep(self, url: str, got: Downloaded, headers: Mapping[str, str]) -> None:
        control = headers.get("Cache-Control", "").lower()
        file = self._entry_file(url)
        if "no-store" in control:
            file.unlink(missing_ok=True)
            return
        age = _MAX_AGE.search(control)
        fresh = time.time() + int(age[1]) if age and "no-cache" not in control else 0
        entry = {
            "url": url,
            "sha256": got.sha256.hex(),
            "etag": headers.get("ETag"),
            "modified": headers.get("Last-Modified"),
            "fresh": fresh,
        }
        self._urls.mkdir(parents=True, exist_ok=True)
        temporary = file.with_name(f".new-{os.getpid()}-{file.name}")
        temporary.write_text(json.dumps(entry), "utf-8")
        temporary.replace(file)


def _local(file: Path) -> Downloaded:
    try:
        with file.open("rb") as stream:
            return Downloaded(file, hashlib.file_digest(stream, "sha256").digest())
    except OSError as error:
        raise ServiceError(f"cannot read `{file}`: {error.strerror}") from error
