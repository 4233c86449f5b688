"""Files of a binary cache in an S3 bucket, by the library that snix itself uses (`eka[s3]`).

Credentials are those of the environment, a profile, or the machine's role, as the library finds
them. Parameters of the URL are Nix's: `region` (us-east-1), `endpoint`, `scheme`, `profile`.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from eka_runtime.cache.files import Body, checked_name, too_large
from eka_runtime.errors import MissingExtra, ServiceError

_CHUNK = 1 << 18


class S3Files:
    """Raises MissingExtra without the library."""

    def __init__(self, url: str, parameters: Mapping[str, str]) -> None:
        try:
            import obstore
            from obstore.exceptions import BaseError
            from obstore.store import S3Store
        except ImportError as error:
            raise MissingExtra(
                f"`{url}` needs the library obstore", hint="install it: `pip install 'eka[s3]'`"
            ) from error
        parts = urlsplit(url)
        self.name = f"s3://{parts.netloc}{parts.path.rstrip('/')}"
        self._library = obstore
        self._error = BaseError
        options = _options(parameters)
        if profile := parameters.get("profile"):
            os.environ.setdefault("AWS_PROFILE", profile)
        self._store = S3Store(parts.netloc, prefix=parts.path.strip("/") or None, **options)

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
            found = self._library.get(self._store, checked_name(self.name, name))
        except FileNotFoundError:
            return None
        except self._error as error:
            raise self._failure(name, error) from error
        return _S3Body(self, name, iter(found.stream(min_chunk_size=_CHUNK)))

    def has(self, name: str) -> bool:
        try:
            self._library.head(self._store, checked_name(self.name, name))
        except FileNotFoundError:
            return False
        except self._error as error:
            raise self._failure(name, error) from error
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
        except self._error as error:
            raise self._failure(name, error) from error

    def _failure(self, name: str, error: Exception) -> ServiceError:
        return ServiceError(f"{self.name}: `{name}`: {str(error).splitlines()[0][:300]}")


class _S3Body:
    def __init__(self, files: S3Files, name: str, chunks: Iterator[Any]) -> None:
        self._files = files
        self._name = name
        self._chunks = chunks
        self._left = memoryview(b"")

    def read(self, size: int) -> bytes:
        try:
            while not self._left:
                chunk = next(self._chunks, None)
                if chunk is None:
                    return b""
                self._left = memoryview(chunk)
        except self._files._error as error:
            raise self._files._failure(self._name, error) from error
        data, self._left = self._left[:size], self._left[size:]
        return bytes(data)

    def close(self) -> None:
        pass

    def abort(self) -> None:
        pass


def _options(parameters: Mapping[str, str]) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if region := parameters.get("region"):
        options["region"] = region
    if endpoint := parameters.get("endpoint"):
        scheme = parameters.get("scheme", "https")
        options["endpoint"] = endpoint if "://" in endpoint else f"{scheme}://{endpoint}"
        # Services of one's own have no name in the DNS for each bucket.
        options["virtual_hosted_style_request"] = False
        options["client_options"] = {"allow_http": options["endpoint"].startswith("http:")}
    return options
