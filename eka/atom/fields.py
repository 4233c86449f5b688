"""The values that manifests and locks share, as shapes: labels, versions, URLs, paths."""

from __future__ import annotations

import posixpath
import re
from urllib.parse import quote, urlsplit

from eka.atom import names
from eka.atom.git_url import LENGTH_LIMIT, parse_git_url, parse_mirror
from eka.atom.identity import decode_id, git_id
from eka.atom.version import parse_requirement, parse_version
from eka.shapes import Text
from eka_runtime.errors import FormatError
from eka_runtime.nix.hashes import parse_hash

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[^\s\x00-\x1f\x7f]+")
_SYSTEM = re.compile(r"[a-z0-9_]+-[a-z0-9_]+(?:-[a-z0-9_]+)?")
_PORTS = {"http": 80, "https": 443, "ftp": 21}


def entry_path(text: str) -> str:
    """A path inside an atom's directory, as written. Raises FormatError."""
    inside = posixpath.normpath(text) if text else ".."
    if text.startswith("/") or "\0" in text or inside == ".." or inside.startswith("../"):
        raise FormatError(f"{text[:80]!r} is not inside the atom", hint="write it as in `src`")
    return text


def package_path(text: str) -> str:
    """A path of a set's package, relative to the set's root; a leading `/` means that root."""
    inside = posixpath.normpath(text.lstrip("/") or ".") if text else ".."
    if "\0" in text or inside == ".." or inside.startswith("../"):
        raise FormatError(f"{text[:80]!r} is not inside the set", hint="write it as in `pkgs/foo`")
    return inside


def web_url(text: str) -> str:
    """The URL of a file, absolute, in canonical text. Raises FormatError."""
    parts = urlsplit(text) if len(text) <= LENGTH_LIMIT and _URL.fullmatch(text) else None
    try:
        port = parts.port if parts else None
    except ValueError:
        parts, port = None, None
    if parts is None or (parts.scheme != "file" and not parts.hostname):
        raise FormatError(
            f"{text[:80]!r} is not an absolute URL",
            hint="write it as in `https://example.org/file.tar.gz`",
        )
    if parts.password is not None:
        raise FormatError(
            f"the URL of {parts.hostname} has a password",
            hint="keep passwords out of files that others read",
        )
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    user = f"{parts.username}@" if parts.username else ""
    shown = f":{port}" if port is not None and port != _PORTS.get(parts.scheme) else ""
    path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._[]|^")
    query = f"?{parts.query}" if parts.query else ""
    fragment = f"#{parts.fragment}" if parts.fragment else ""
    return f"{parts.scheme}://{user}{host}{shown}{path}{query}{fragment}"


def git_place(text: str) -> str:
    """The canonical text of a git URL without a password. Raises FormatError."""
    if text == "::":
        raise FormatError("`::` is no URL", hint="write one as in `https://example.org/repo`")
    return parse_mirror(text)


def mirror_url(text: str) -> str:
    """A mirror in a lock. Upstream writes `redacted` for passwords; that is kept."""
    return str(parse_git_url(text))


def system(text: str) -> str:
    """`x86_64-linux`. Raises FormatError."""
    if _SYSTEM.fullmatch(text) is None:
        raise FormatError(f"{text[:80]!r} is not a system", hint="write it as in `x86_64-linux`")
    return text


def _decoded_id(text: str) -> str:
    decode_id(text)
    return text


LABEL = Text(names.label, "a label", minLength=1, maxLength=names.MAX_BYTES)
TAG = Text(names.tag, "a tag", minLength=1, maxLength=names.MAX_BYTES)
VERSION = Text(
    parse_version,
    "a version",
    pattern=r"^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?$",
)
REQUIREMENT = Text(parse_requirement, "a version requirement", minLength=1)
MIRROR = Text(parse_mirror, "`::` or a git URL", minLength=1)
LOCKED_MIRROR = Text(lambda text: text if text == "::" else mirror_url(text), "`::` or a git URL")
GIT_URL = Text(git_place, "a git URL", minLength=1)
WEB_URL = Text(web_url, "an absolute URL", format="uri")
ENTRY = Text(entry_path, "a path inside the atom", minLength=1, pattern="^[^/]")
PACKAGE_PATH = Text(package_path, "a path inside the set", minLength=1)
SYSTEM = Text(system, "a system", pattern=f"^{_SYSTEM.pattern}$")
GIT_ID = Text(git_id, "a git object id", pattern="^[0-9a-fA-F]{40}([0-9a-fA-F]{24})?$")
ATOM_ID = Text(_decoded_id, "an atom id", pattern="^[0-9a-v]{51}[0g]$")
HASH = Text(lambda text: parse_hash(text).sri(), "a hash", pattern="^(md5|sha1|sha256|sha512)[-:]")
