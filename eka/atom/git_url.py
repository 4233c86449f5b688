"""Places of git repositories as manifests and locks write them, by gitoxide's rules.

    scheme://[user@]host[:port]/path     a URL; `ssh+git` and `git+ssh` are `ssh`
    [user@]host:path                     scp's form; stays in that form
    path                                 a directory of this machine

Two spellings of one place are two places. Aliases are not known here (`eka/atom/uri.py`).
"""

from __future__ import annotations

import re
from typing import NamedTuple

from eka_runtime.errors import FormatError

LOCAL = "::"
"""The mirror that stands for "the set that I am in"."""

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_AUTHORITY = re.compile(
    r"(?:(?P<user>[^@/:]*)(?::(?P<password>[^@/]*))?@)?"
    r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^/:@\[\]]*)(?::(?P<port>[0-9]*))?(?P<path>/.*)?",
    re.DOTALL,
)
_SCP = re.compile(r"(?:(?P<user>[^@/:]+)@)?(?P<host>\[[0-9A-Fa-f:.]+\]|[^/:@]+):(?P<path>.+)")
_ORDER = {"file": 0, "git": 1, "ssh": 2, "http": 3, "https": 4}
_PORTS = {"http": 80, "https": 443, "ssh": 22, "git": 9418}
_SAME = {"ssh+git": "ssh", "git+ssh": "ssh"}
LENGTH_LIMIT = 4096

SortKey = tuple[tuple[int, str], str, str, str, bool, int, str]


class GitUrl(NamedTuple):
    """`alternative`: a bare path if `scheme` is file, else scp's form."""

    scheme: str
    user: str | None
    password: str | None
    host: str | None
    port: int | None
    path: str
    alternative: bool = False

    def __str__(self) -> str:
        user = self.user or ""
        credentials = f"{user}:{self.password}@" if self.password is not None else f"{user}@"
        before = credentials if self.user is not None else ""
        if self.alternative:
            return self.path if self.scheme == "file" else f"{before}{self.host}:{self.path}"
        port = f":{self.port}" if self.port is not None else ""
        return f"{self.scheme}://{before}{self.host or ''}{port}{self.path}"

    def sort_key(self) -> SortKey:
        """Upstream's order of mirrors."""
        scheme = (_ORDER.get(self.scheme, len(_ORDER)), self.scheme)
        words = (self.user or "", self.password or "", self.host or "")
        return (scheme, *words, self.alternative, self.port or 0, self.path)


def parse_git_url(text: str) -> GitUrl:
    """Raises FormatError, also for what git could take for an option or a command."""
    _check_characters(text)
    if match := _SCHEME.match(text):
        return _from_url(text, match[1].lower(), text[match.end() :])
    head = text.partition("/")[0]
    if ":" in head:
        return _from_scp(text)
    return GitUrl("file", None, None, None, None, text, alternative=True)


def parse_mirror(text: str) -> str:
    """`::`, or the canonical text of a git URL without a password. Raises FormatError."""
    if text == LOCAL:
        return text
    url = parse_git_url(text)
    if url.password is not None:
        raise FormatError(
            f"the URL of {url.host} has a password",
            hint="keep passwords out of files that others read: use git's credential helpers",
        )
    return str(url)


def mirror_key(mirror: str) -> tuple[bool, SortKey]:
    """Sorts canonical mirrors as locks have them: `::`, then URLs in upstream's order."""
    local = mirror == LOCAL
    return not local, parse_git_url("." if local else mirror).sort_key()


def _check_characters(text: str) -> None:
    if not text:
        raise FormatError("the URL is empty", hint="write one as in `https://example.org/repo`")
    if len(text) > LENGTH_LIMIT or not text.isprintable() or text != text.strip():
        raise FormatError(f"{text[:80]!r} is not a git URL", hint="remove what is not printable")
    if text.startswith("-"):
        raise FormatError(f"{text[:80]!r} looks like an option of git", hint="write `./-…`")


def _from_url(text: str, scheme: str, rest: str) -> GitUrl:
    scheme = _SAME.get(scheme, scheme)
    if scheme == "file":
        if not rest.startswith("/"):
            raise _not_a_url(text, "a file URL has three slashes, as in `file:///srv/repo`")
        return GitUrl("file", None, None, None, None, rest)
    match = _AUTHORITY.fullmatch(rest)
    if match is None or not match["host"] or _optionlike(match["host"], match["user"]):
        raise _not_a_url(text, "write it as in `https://example.org/repo`")
    path = match["path"] or ""
    if scheme in ("http", "https"):
        path = path or "/"
    elif not path:
        raise _not_a_url(text, f"a {scheme} URL needs a path after the host")
    port = int(match["port"]) if match["port"] and len(match["port"]) < 6 else None
    if match["port"] and (port is None or port > 65535):
        raise _not_a_url(text, "its port is too large")
    port = None if port == _PORTS.get(scheme) else port
    return GitUrl(scheme, match["user"], match["password"], match["host"], port, path)


def _from_scp(text: str) -> GitUrl:
    match = _SCP.fullmatch(text)
    if match is None or _optionlike(match["host"], match["user"]) or match["path"][0] == ":":
        raise _not_a_url(text, "write it as in `git@example.org:owner/repo`")
    return GitUrl("ssh", match["user"], None, match["host"], None, match["path"], alternative=True)


def _optionlike(*words: str | None) -> bool:
    # ssh would take them for options: CVE-2017-1000117.
    return any(word is not None and word.startswith("-") for word in words)


def _not_a_url(text: str, hint: str) -> FormatError:
    return FormatError(f"{text[:80]!r} is not a git URL", hint=hint)
