"""`builtin:fetchurl`: a file, or with `unpack` a NAR, from a URL, as `<nix/fetchurl.nix>` asks.

Constraint: this runs in no sandbox, for derivations of anybody's. Of this machine's files only
those of the derivation's inputs are read, which is what a builder in a sandbox could read.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3

from eka_runtime.build.task import Task
from eka_runtime.build.unpack import unpack_nar
from eka_runtime.cache.decompress import decompressing
from eka_runtime.errors import BuilderFailed, BuildRefused, EkaError, FormatError
from eka_runtime.nix.path import STORE_DIR
from eka_runtime.nix.tokens import Read
from eka_runtime.store.store import Store

_TIMEOUT = urllib3.Timeout(connect=15, read=60)
_RETRIES = urllib3.Retry(total=4, backoff_factor=0.5, status_forcelist=(429, 500, 502, 503, 504))


def fetch(store: Store, task: Task, directory: Path, *, offline: bool) -> None:
    """Raises BuildRefused for what is no fixed output, BuilderFailed."""
    env, output = task.drv.env, task.outputs.get("out")
    url = env.get("url", "")
    if task.drv.fixed is None or output is None or not url:
        raise BuildRefused(f"`{task.path}` is no fixed output with a `url`, as fetchurl wants it")
    place = directory / output.base
    try:
        with _opened(store, task, url, offline) as source:
            if env.get("unpack") == "1":
                unpack_nar(_nar(url, source), place)
            else:
                with open(place, "xb") as file:
                    shutil.copyfileobj(source, file, 1 << 20)
    except (OSError, urllib3.exceptions.HTTPError, EkaError) as error:
        raise BuilderFailed(f"cannot fetch `{url}`: {_reason(error)}") from error
    if env.get("executable") == "1":
        os.chmod(place, 0o755)


def _reason(error: Exception) -> str:
    """What there is at the bottom of urllib3's wrappings."""
    inner = error.reason if isinstance(error, urllib3.exceptions.MaxRetryError) else error
    cause = inner.__cause__ if isinstance(inner, urllib3.exceptions.NewConnectionError) else None
    return (isinstance(cause, OSError) and cause.strerror) or str(inner)


@contextmanager
def _opened(store: Store, task: Task, url: str, offline: bool) -> Iterator[BinaryIO]:
    parts = urlsplit(url)
    if parts.scheme == "file":
        with _opened_file(store, task, unquote(parts.path)) as file:
            yield file
        return
    if parts.scheme not in ("http", "https"):
        raise FormatError(f"`{parts.scheme}` is no scheme that can be fetched from")
    if offline:
        raise FormatError("the network is not to be used (`--offline`)")
    # As Nix: whoever answers, what comes is checked by its hash.
    with _manager(url) as pool:
        answer = pool.request("GET", url, preload_content=False, decode_content=False)
        try:
            if answer.status != 200:
                raise FormatError(f"the server answers {answer.status} {answer.reason or ''}")
            yield answer  # type: ignore[misc]
        finally:
            answer.release_conn()


@contextmanager
def _opened_file(store: Store, task: Task, path: str) -> Iterator[BinaryIO]:
    base = path.removeprefix(f"{STORE_DIR}/").partition("/")[0]
    if base == path or base not in {info.path.base for info in task.inputs}:
        raise FormatError(f"`{path}` is no input of the derivation")
    with TemporaryFile() as file:
        store.write_file(path, file.write)
        file.seek(0)
        yield file


def _manager(url: str) -> urllib3.PoolManager:
    proxies = getproxies()
    proxy = proxies.get(urlsplit(url).scheme) or proxies.get("all")
    options = {"timeout": _TIMEOUT, "retries": _RETRIES, "cert_reqs": "CERT_NONE"}
    if proxy and not proxy_bypass(urlsplit(url).hostname or ""):
        return urllib3.ProxyManager(proxy, **options)  # type: ignore[arg-type]
    return urllib3.PoolManager(**options)  # type: ignore[arg-type]


def _nar(url: str, source: BinaryIO) -> Read:
    def read(size: int) -> bytes:
        return source.read(size) or b""

    return decompressing(read, "xz", f"`{url}`") if url.endswith(".xz") else read
