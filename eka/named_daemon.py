"""A daemon that runs already, named in place of eka's own: its socket, and the store it serves.

    unix:///run/eka.sock?root=/R     files at /R/nix/store, as `eka daemon` announces itself
    unix:///run/nix.sock             files at the host's /nix/store
    daemon                           Nix's own, at its usual place
    own                              eka's own, whatever eka.toml says

Constraint: nothing is sent but the greeting. What such a daemon does with a store is its business.
"""

from __future__ import annotations

import socket
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from eka.config import Settings
from eka_runtime.daemon.protocol import CLIENT_MAGIC, SERVER_MAGIC
from eka_runtime.errors import ConfigError, EkaError, ServiceError, UsageError
from eka_runtime.nix.path import STORE_DIR
from eka_runtime.nix.tokens import u64

OWN = "own"
_NIX_SOCKET = "/nix/var/nix/daemon-socket/socket"
_FORMS = "name it as `unix:///SOCKET`, `unix:///SOCKET?root=DIR`, `daemon`, or `own` for eka's own"
_PATIENCE = 10.0  # seconds


class NamedDaemon(NamedTuple):
    """`store` is the directory of the host that is to be seen at /nix/store."""

    socket: Path
    store: Path


def named_daemon(flag: str | None, settings: Settings) -> NamedDaemon | None:
    """The daemon of the flag, else of the settings, which answers; None for eka's own.

    Raises UsageError or ConfigError for a text that names none, ServiceError when no daemon
    answers there or its store cannot be seen.
    """
    text = flag or settings.daemon or OWN
    if text == OWN:
        return None
    origin = "--daemon" if flag else settings.origin["daemon"]
    found = _parsed(text, origin, UsageError if flag else ConfigError)
    _greet(found.socket, origin)
    if not found.store.is_dir():
        raise ServiceError(
            f"the store of the daemon ({origin}) is not at `{found.store}`",
            hint="say where it is: `unix:///SOCKET?root=DIR` for DIR/nix/store",
        )
    return found._replace(store=found.store.resolve())


def _parsed(text: str, origin: str, error: type[EkaError]) -> NamedDaemon:
    if text == "daemon":
        text = f"unix://{_NIX_SOCKET}"
    try:
        url = urlsplit(text)
    except ValueError:
        raise error(f"`{text}` ({origin}) names no daemon", hint=_FORMS) from None
    place, known = unquote(url.path), parse_qs(url.query, keep_blank_values=True)
    roots = known.pop("root", ["/"])
    whole = (url.scheme, url.netloc, url.fragment) == ("unix", "", "")
    if not whole or known or "\0" in place + roots[0] or len(roots) > 1:
        raise error(f"`{text}` ({origin}) names no daemon", hint=_FORMS)
    if not place.startswith("/") or not roots[0].startswith("/"):
        raise error(f"`{text}` ({origin}): the paths in it must be absolute", hint=_FORMS)
    return NamedDaemon(Path(place), Path(roots[0]) / STORE_DIR.lstrip("/"))


def _greet(place: Path, origin: str) -> None:
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(_PATIENCE)
            connection.connect(str(place))
            connection.sendall(u64(CLIENT_MAGIC))
            answer = connection.recv(8, socket.MSG_WAITALL)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ServiceError(
            f"no daemon answers at `{place}` ({origin}): {reason}",
            hint="start it, or use eka's own: `--daemon own`",
        ) from error
    if answer != u64(SERVER_MAGIC):
        raise ServiceError(f"what listens at `{place}` ({origin}) is no Nix daemon", hint=_FORMS)
