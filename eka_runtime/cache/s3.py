"""Files of a binary cache in an S3 bucket, by the library that snix itself uses (`eka[s3]`).

Parameters of the URL are Nix's: `region`, `endpoint`, `scheme`, `profile`; where they and the
credentials come from otherwise is in `aws.py`. Large files go in parts, and appear when the last of
them is there. A download that is cut goes on where it was, as long as it is the same object.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from eka_runtime.cache.aws import bucket_options
from eka_runtime.cache.client import CACHE_INFO
from eka_runtime.cache.files import Body, checked_name, too_large
from eka_runtime.castore.bucket_errors import bucket_error, is_missing_bucket
from eka_runtime.errors import MissingExtra, ServiceError, UsageError
from eka_runtime.printable import in_one_line

_CHUNK = 1 << 18
# Longer than a restart of a service takes, shorter than a person's patience.
_RETRIES = {"max_retries": 5, "retry_timeout": timedelta(seconds=30)}
# Cuts in a row without a byte between them.
_CUTS_MAX = 5


class S3Files:
    """Raises MissingExtra without the library, UsageError and ConfigError for what it is given."""

    def __init__(
        self, url: str, parameters: Mapping[str, str], environ: Mapping[str, str] = os.environ
    ) -> None:
        try:
            import obstore
            from obstore.exceptions import BaseError, PermissionDeniedError
            from obstore.store import S3Store
        except ImportError as error:
            raise MissingExtra(
                f"`{url}` needs the library obstore", hint="install it: `pip install 'eka[s3]'`"
            ) from error
        parts = urlsplit(url)
        self.name = f"s3://{parts.netloc}{parts.path.rstrip('/')}"
        self._library = obstore
        self.errors = BaseError
        self._denied = PermissionDeniedError
        options = bucket_options(parameters, environ)
        retries: Any = _RETRIES
        prefix = parts.path.strip("/") or None
        try:
            self._store = S3Store(parts.netloc, prefix=prefix, retry_config=retries, **options)
        except (BaseError, ValueError) as error:
            raise UsageError(
                f"{self.name}: {in_one_line(str(error).partition(chr(10))[0], 400)}"
            ) from error

    def close(self) -> None:
        pass

    def read(self, name: str, limit: int) -> bytes | None:
        body = self.open(name)
        data = b""
        while body is not None and (piece := body.read(_CHUNK)):
            data += piece
            if len(data) > limit:
                raise too_large(self.name, name, limit)
        return None if body is None else data

    def open(self, name: str) -> Body | None:
        try:
            found = self.get(name, None)
        except (FileNotFoundError, self.errors) as error:
            self._require_absence(name, error)
            return None
        return _S3Body(self, name, found)

    def get(self, name: str, options: Any) -> Any:
        """Raises what the library raises."""
        return self._library.get(self._store, checked_name(self.name, name), options=options)

    def has(self, name: str) -> bool:
        try:
            self._library.head(self._store, checked_name(self.name, name))
        except (FileNotFoundError, self.errors) as error:
            self._require_absence(name, error)
            return False
        return True

    def scratch(self) -> BinaryIO:
        return tempfile.TemporaryFile()

    def settle(self) -> None:
        pass

    def write(self, name: str, data: BinaryIO, size: int, mime: str) -> None:
        data.seek(0)
        attributes: Any = {"Content-Type": mime}
        try:
            self._library.put(
                self._store, checked_name(self.name, name), data, attributes=attributes
            )
        except (FileNotFoundError, self.errors) as error:
            raise self.failure(name, error) from error

    def _require_absence(self, name: str, error: Exception) -> None:
        """Raises ServiceError unless all that is wrong is that there is no such object.

        Those who may not list the bucket are told instead that it is forbidden.
        """
        if isinstance(error, FileNotFoundError) and not is_missing_bucket(error):
            return
        if not isinstance(error, self._denied) or name == CACHE_INFO:
            raise self.failure(name, error) from error

    def failure(self, name: str, error: Exception) -> ServiceError:
        return bucket_error(f"{self.name}: `{name}`", error)


class _S3Body:
    """An object through as many requests as it takes."""

    def __init__(self, files: S3Files, name: str, found: Any) -> None:
        self._files = files
        self._name = name
        self._tag = found.meta["e_tag"]
        self._position = 0
        self._size = found.meta["size"]
        self._cuts = 0
        self._chunks: Iterator[Any] = iter(found.stream(min_chunk_size=_CHUNK))
        self._left = memoryview(b"")

    def read(self, size: int) -> bytes:
        while not self._left and self._position < self._size:
            try:
                self._next()
            except self._files.errors as error:
                self._resume(error)
        data, self._left = self._left[:size], self._left[size:]
        return bytes(data)

    def _next(self) -> None:
        chunk = next(self._chunks, None)
        if chunk is None:
            raise ServiceError(f"{self._files.name}: `{self._name}` was cut")
        self._left = memoryview(chunk)
        self._position += len(self._left)
        self._cuts = 0

    def _resume(self, error: Exception) -> None:
        self._cuts += 1
        if self._cuts > _CUTS_MAX or not self._tag:
            raise self._files.failure(self._name, error) from error
        rest = {"range": {"offset": self._position}, "if_match": self._tag}
        try:
            found = self._files.get(self._name, rest)
        except (FileNotFoundError, self._files.errors) as other:
            raise self._files.failure(self._name, other) from other
        self._chunks = iter(found.stream(min_chunk_size=_CHUNK))

    def close(self) -> None:
        pass

    def abort(self) -> None:
        pass
