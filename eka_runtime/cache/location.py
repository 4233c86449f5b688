"""From the URL of a binary cache to the cache: schemes, and the parameters that Nix has in them.

    http(s)://HOST/PATH   file:///DIR   s3://BUCKET[/PREFIX]

with `?priority=N`, `?trusted=1`; for those who write `compression`, `compression-level`,
`secret-key=FILE`, `write-nar-listing`, and eka's own `castore`; for S3 `region`, `endpoint`,
`scheme`, `profile`. Other parameters of Nix's are ignored. An address of something that is no cache
is refused with advice.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from eka_runtime.cache.access import Access
from eka_runtime.cache.client import BinaryCache
from eka_runtime.cache.files import DirectoryFiles, Files
from eka_runtime.cache.trust import Trust
from eka_runtime.errors import UsageError

SCHEMES = ("http", "https", "file", "s3")


class Location(NamedTuple):
    """A URL without its query, and the query."""

    url: str
    parameters: dict[str, str]

    @classmethod
    def parse(cls, text: str) -> Location:
        """Raises UsageError."""
        parts = urlsplit(text)
        if parts.scheme not in SCHEMES:
            raise UsageError(
                f"`{text}` is not the URL of a binary cache",
                hint="write `https://HOST`, `http://HOST:PORT`, `file:///DIR` or `s3://BUCKET`",
            )
        if parts.scheme == "file":
            if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
                raise UsageError(f"`{text}` does not name a directory", hint="write `file:///DIR`")
        elif not parts.netloc:
            raise UsageError(f"`{text}` names no host", hint=f"write `{parts.scheme}://HOST`")
        parameters = dict(parse_qsl(parts.query, keep_blank_values=True))
        return cls(parts._replace(query="", fragment="").geturl(), parameters)

    @property
    def scheme(self) -> str:
        return self.url.partition(":")[0]

    @property
    def local(self) -> bool:
        """Whether no network is needed."""
        return self.scheme == "file"

    @property
    def directory(self) -> Path:
        """Of a `file:` URL."""
        return Path(unquote(urlsplit(self.url).path))

    @property
    def priority(self) -> int | None:
        stated = self.parameters.get("priority", "")
        return int(stated) if stated.isdecimal() else None

    @property
    def trusted(self) -> bool:
        return self.parameters.get("trusted", "") in ("1", "true")


def open_cache(text: str, trust: Trust, access: Access) -> BinaryCache:
    """Nothing is asked yet. Raises UsageError, and MissingExtra for s3."""
    location = Location.parse(text)
    files = open_files(location, access)
    if location.trusted:
        trust = trust._replace(all=True)
    return BinaryCache(files.name, files, trust, priority=location.priority)


def open_files(location: Location, access: Access) -> Files:
    if location.scheme == "file":
        return DirectoryFiles(location.directory)
    if location.scheme == "s3":
        from eka_runtime.cache.s3 import S3Files

        return S3Files(location.url, location.parameters)
    from eka_runtime.cache.http import HttpFiles

    return HttpFiles(location.url, access)
