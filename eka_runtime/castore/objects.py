"""Object stores: keys with bytes, as far as castore content needs them.

    objectstore+file:///DIRECTORY       files below a directory
    objectstore+memory:///              this process, this instance
    objectstore+s3://BUCKET/PREFIX      also gs://, http://, https://: through obstore

A query holds options by the names that snix knows them by (`aws_endpoint=…`, `allow_http=true`).
Keys are relative paths that callers make of digits and letters, never of what a stranger sent.
Objects appear whole or not at all. Out of scope: deleting.
"""

from __future__ import annotations

import io
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol, cast
from urllib.parse import parse_qsl, unquote, urlsplit

from eka_runtime.castore.bucket_errors import bucket_error, is_missing_bucket
from eka_runtime.castore.endpoints import named_endpoint
from eka_runtime.errors import (
    MissingExtra,
    StoreAccessError,
    StoreCorrupt,
    UsageError,
)
from eka_runtime.printable import in_one_line

if TYPE_CHECKING:
    from obstore.store import ObjectStore

_MESSAGE_MAX = 400
_PREFIX = "objectstore+"
_REMOTE = ("s3", "gs", "http", "https")
# A chunk and its frame fit in, and need not be put together.
_PIECE = 1 << 20

# Longer than a restart of a service takes, shorter than a person's patience.
_RETRIES = 5
_RETRY_FOR = timedelta(seconds=30)

_ENDPOINTS = ("aws_endpoint", "aws_endpoint_url", "endpoint", "endpoint_url")
# obstore takes those apart from the options of S3 and the like, snix does not.
_CLIENT_OPTIONS = frozenset(
    {
        "allow_http",
        "allow_invalid_certificates",
        "connect_timeout",
        "default_content_type",
        "http1_only",
        "http2_keep_alive_interval",
        "http2_keep_alive_timeout",
        "http2_keep_alive_while_idle",
        "http2_max_frame_size",
        "http2_only",
        "pool_idle_timeout",
        "pool_max_idle_per_host",
        "proxy_ca_certificate",
        "proxy_excludes",
        "proxy_url",
        "randomize_addresses",
        "read_timeout",
        "root_certificate",
        "timeout",
        "user_agent",
    }
)


class Objects(Protocol):
    """Safe to use from several threads.

    ServiceError or, for a directory, StoreAccessError: unreachable, forbidden, full.
    """

    def head(self, key: str) -> int | None:
        """Size in bytes; None: no such object."""

    def get(self, key: str) -> BinaryIO | None:
        """The caller closes it; its `read(n)` may return fewer bytes. None: no such object."""

    def put(self, key: str, content: bytes | BinaryIO, *, replace: bool = False) -> None:
        """Durable when it returns. An object that is there stays as it is unless `replace`."""

    def list(self, prefix: str) -> Iterator[str]:
        """The keys below `prefix`, which ends where a component of a path ends; in no order."""


def from_url(url: str, options: Mapping[str, str] | None = None) -> Objects:
    """Connects to nothing yet. `options` are as those of the query, which has precedence.

    Raises UsageError for a URL or an option it does not take, MissingExtra without obstore.
    """
    # Options may be secrets, and do not get into messages.
    shown, _, query = url.partition("?")
    try:
        parts = urlsplit(shown.removeprefix(_PREFIX))
        given = dict(options or {}) | dict(parse_qsl(query, strict_parsing=bool(query)))
    except ValueError:
        raise UsageError(f"not a URL: {shown!r}, or the options behind it are malformed") from None
    if not shown.startswith(_PREFIX) or parts.scheme not in ("file", "memory", *_REMOTE):
        raise UsageError(
            f"not the URL of an object store: {shown!r}",
            hint="write objectstore+file:///DIRECTORY or objectstore+s3://BUCKET/PREFIX",
        )
    if parts.scheme in _REMOTE:
        return _remote(shown, given)
    if parts.netloc or given:
        what = f"host: {parts.netloc!r}" if parts.netloc else f"options: {', '.join(given)}"
        raise UsageError(f"{shown!r} takes no {what}")
    if parts.scheme == "memory":
        return MemoryObjects()
    if not parts.path.startswith("/"):
        raise UsageError(f"{shown!r} does not name a directory by an absolute path")
    return FileObjects(Path(unquote(parts.path)))


def read_object(objects: Objects, key: str, maximum: int) -> bytes | None:
    """All of an object. Raises StoreCorrupt when it has more than `maximum` bytes."""
    reader = objects.get(key)
    if reader is None:
        return None
    with reader:
        return read_all(reader, maximum, key)


def read_all(reader: BinaryIO, maximum: int, subject: str) -> bytes:
    """What is left to read. Raises StoreCorrupt when that is more than `maximum` bytes."""
    parts, left = [], maximum
    # Whoever states a large size and sends little costs little.
    while data := reader.read(min(left + 1, _PIECE)):
        parts.append(data)
        left -= len(data)
        if left < 0:
            raise damaged(f"{subject} has more than {maximum} bytes")
    return b"".join(parts)


def damaged(message: str) -> StoreCorrupt:
    """The error for an object that is not what its key promises."""
    return StoreCorrupt(message, hint="remove the damaged object, and copy it there again")


class MemoryObjects:
    """Objects of this process, for caches and tests."""

    def __init__(self) -> None:
        self._objects: dict[str, bytes] = {}

    def head(self, key: str) -> int | None:
        found = self._objects.get(key)
        return None if found is None else len(found)

    def get(self, key: str) -> BinaryIO | None:
        found = self._objects.get(key)
        return None if found is None else io.BytesIO(found)

    def put(self, key: str, content: bytes | BinaryIO, *, replace: bool = False) -> None:
        data = content if isinstance(content, bytes) else content.read()
        if replace:
            self._objects[key] = data
        else:
            self._objects.setdefault(key, data)

    def list(self, prefix: str) -> Iterator[str]:
        return iter([key for key in self._objects if key.startswith(f"{prefix}/")])


class FileObjects:
    """Files below a directory, which is made when the first of them is.

    In the making they are called `NAME#DIGITS`, which snix's backend takes for no object either.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def head(self, key: str) -> int | None:
        try:
            return os.stat(self._root / key).st_size
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise self._failed("read", key, error) from error

    def get(self, key: str) -> BinaryIO | None:
        try:
            return open(self._root / key, "rb", buffering=0)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise self._failed("read", key, error) from error

    def put(self, key: str, content: bytes | BinaryIO, *, replace: bool = False) -> None:
        if not replace and self.head(key) is not None:
            return
        path = self._root / key
        try:
            _make_directory(path.parent)
            _write(path, io.BytesIO(content) if isinstance(content, bytes) else content)
        except OSError as error:
            raise self._failed("write", key, error) from error

    def list(self, prefix: str) -> Iterator[str]:
        def fail(error: OSError) -> None:
            if not isinstance(error, FileNotFoundError):
                raise self._failed("list", prefix, error) from error

        for directory, _, names in os.walk(self._root / prefix, onerror=fail):
            below = os.path.relpath(directory, self._root)
            yield from (f"{below}/{name}" for name in names if "#" not in name)

    def _failed(self, verb: str, key: str, error: OSError) -> StoreAccessError:
        return StoreAccessError(f"cannot {verb} {self._root / key}: {error.strerror}")


def _write(path: Path, content: BinaryIO) -> None:
    # Two who write one object write the same bytes, so that it does not matter who comes last.
    temporary = f"{os.fspath(path)}#{secrets.randbits(62)}"
    try:
        # Buffered, since an unbuffered file may take less than it was given.
        with open(temporary, "xb") as file:
            shutil.copyfileobj(content, file, _PIECE)
            file.flush()
            if file.tell():
                os.fsync(file.fileno())
        os.rename(temporary, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    _sync(path.parent)


def _make_directory(path: Path) -> None:
    if path.is_dir():
        return
    _make_directory(path.parent)
    with suppress(FileExistsError):
        path.mkdir()
    _sync(path.parent)


def _sync(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class RemoteObjects:
    """Any store of obstore."""

    def __init__(self, store: ObjectStore) -> None:
        import obstore

        self._obstore = obstore
        self._store = store

    def head(self, key: str) -> int | None:
        try:
            with _service_errors():
                return self._obstore.head(self._store, key)["size"]
        except FileNotFoundError:
            return None

    def get(self, key: str) -> BinaryIO | None:
        try:
            with _service_errors():
                found = self._obstore.get(self._store, key)
        except FileNotFoundError:
            return None
        return cast(BinaryIO, _Download(found.stream(min_chunk_size=_PIECE)))

    def put(self, key: str, content: bytes | BinaryIO, *, replace: bool = False) -> None:
        # Not a conditional put: few services besides Amazon's have that.
        if not replace and self.head(key) is not None:
            return
        try:
            with _service_errors():
                self._obstore.put(self._store, key, content)
        except FileNotFoundError as error:
            # Of an object that is being written: some service does not say that it is the bucket.
            raise bucket_error(key, error) from error

    def list(self, prefix: str) -> Iterator[str]:
        with _service_errors():
            for found in self._obstore.list(self._store, prefix):
                yield from (meta["path"] for meta in found)


class _Download(io.RawIOBase):
    """An object as it comes in."""

    def __init__(self, pieces: Iterable[Any]) -> None:
        self._pieces = iter(pieces)
        self._piece = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        with _service_errors():
            while not self._piece:
                piece = next(self._pieces, None)
                if piece is None:
                    return 0
                self._piece = memoryview(piece)
        count = min(len(view), len(self._piece))
        view[:count] = self._piece[:count]
        self._piece = self._piece[count:]
        return count


@contextmanager
def _service_errors() -> Iterator[None]:
    """ServiceError for all but an object that is not there, which is FileNotFoundError."""
    from obstore.exceptions import BaseError

    try:
        yield
    except BaseError as error:
        raise bucket_error("the object store", error) from error
    except FileNotFoundError as error:
        if is_missing_bucket(error):
            raise bucket_error("the object store", error) from error
        raise


def _remote(shown: str, options: Mapping[str, str]) -> Objects:
    try:
        from obstore.exceptions import BaseError
        from obstore.store import from_url as open_store
    except ImportError:
        raise MissingExtra(
            f"{shown} needs the library obstore", hint="run `pip install 'eka[s3]'`"
        ) from None
    url = shown.removeprefix(_PREFIX)
    client, config = _divided(options)
    endpoint = _with_endpoint(config) if url.startswith("s3:") else ""
    if url.startswith("http:") or endpoint.startswith("http:"):
        client.setdefault("allow_http", "true")
    if url.startswith("http") and config:
        raise UsageError(f"{shown}: unknown options: {', '.join(config)}")
    more: dict[str, Any] = {"config": config} if config else {}
    try:
        store = open_store(
            url,
            client_options=cast(Any, client),
            retry_config={"max_retries": _RETRIES, "retry_timeout": _RETRY_FOR},
            **more,
        )
    except (BaseError, ValueError) as error:
        raise UsageError(f"{shown}: {_first_line(error)}") from error
    return RemoteObjects(store)


def _with_endpoint(config: dict[str, str]) -> str:
    """That of S3, if one was named; it is among the options then."""
    stated = next(filter(None, (config.pop(name, "") for name in _ENDPOINTS)), None)
    endpoint = named_endpoint(stated, os.environ)
    if endpoint:
        config["aws_endpoint"] = endpoint
    return endpoint or ""


def _divided(options: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Those of any HTTP client and those of one service: obstore panics if they are mixed up."""
    client, config = {}, {}
    for name, value in options.items():
        name = name.lower()
        if (plain := name.removeprefix("aws_")) in _CLIENT_OPTIONS:
            client[plain] = value
        else:
            config[name] = value
    return client, config


def _first_line(error: Exception) -> str:
    # Below it obstore shows its structures.
    return in_one_line(str(error).partition("\n")[0], _MESSAGE_MAX)
