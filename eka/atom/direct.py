"""Direct dependencies: what they are named by default, and what they are exactly, for the lock."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from eka.atom import names
from eka.atom.fields import git_place, web_url
from eka.atom.git_url import parse_git_url
from eka.atom.lock import FileType, LockedFile, LockedGit
from eka.atom.manifest import PLACEHOLDER
from eka.atom.mirrors import absolute_place
from eka.atom.parts import Direct
from eka.atom.remote import list_refs
from eka.atom.version import Version, parse_requirement, parse_version
from eka_runtime.errors import FormatError, ResolveError, UsageError

if TYPE_CHECKING:
    # They take long to import, and are needed only where something is fetched.
    from eka.atom.download import Downloads, Progress

Locked = LockedFile | LockedGit

LOCK_TYPES: Mapping[str, FileType] = {"url": "nix", "tar": "nix+tar", "build": "nix+src"}
_TAGS = "refs/tags/"
_FROM = re.compile(r"\{([^{}.]+(?:\.[^{}.]+)*)\.([^{}.]+)\}")
# Where git looks for a short name, in its order (gitrevisions(7)).
_PLACES = ("{}", "refs/{}", "refs/tags/{}", "refs/heads/{}", "refs/remotes/{}")


class Request(NamedTuple):
    """`eka add direct nix`: the options as given, None for those that are not."""

    git: str | None = None
    tar: bool | None = None
    build: bool = False
    unpack: bool | None = None


def choose(url: str, request: Request) -> Direct:
    """Which variety a URL (aliases expanded) and options mean. Raises UsageError, FormatError.

    `{set.label}` in a URL's path becomes the placeholder for that atom's version.
    """
    given = [request.git is not None, request.tar is not None, request.build]
    if sum(given) > 1:
        raise UsageError("`--git`, `--tar` and `--build` exclude one another", hint="give one")
    if request.git is not None or _is_git(url):
        return _git(url, request.git or "")
    url, pair = _with_placeholder(url)
    looks = _looks_like_tar(url)
    if request.build or request.unpack:
        unpack = looks if request.unpack is None else request.unpack
        return Direct("build", web_url(url), unpack=unpack, from_version=pair)
    tar = looks if request.tar is None else request.tar
    return Direct("tar" if tar else "url", web_url(url), from_version=pair)


def default_name(direct: Direct) -> str:
    """From the last part of the URL's path. Raises UsageError if that is no label."""
    if direct.variety == "git":
        path = parse_git_url(direct.url).path.rstrip("/")
        name = path.rpartition("/")[2].rpartition(":")[2].removesuffix(".git")
    else:
        parts = urlsplit(direct.url)
        name = (parts.path.rstrip("/").rpartition("/")[2] or parts.hostname or "").partition(".")[0]
        name = name if parts.path.strip("/") else parts.hostname or ""
    if not names.is_label(name):
        raise UsageError(
            f"`{name}`, from the URL, cannot be a dependency's name",
            hint="name it with `--key NAME`",
        )
    return names.label(name)


def concrete_url(direct: Direct, versions: Mapping[tuple[str, str], Version]) -> str:
    """With the version that is locked for its atom (by tag and label) for the placeholder."""
    version = versions.get(direct.from_version) if direct.from_version else None
    if version is None or PLACEHOLDER not in direct.url:
        return direct.url
    parts = urlsplit(direct.url)
    return parts._replace(path=parts.path.replace(PLACEHOLDER, str(version))).geturl()


def is_current(direct: Direct, url: str, locked: object) -> bool:
    """Whether `locked` can be what `direct` asks for, as far as that shows without fetching."""
    if direct.variety != "git":
        if not isinstance(locked, LockedFile) or locked.type != LOCK_TYPES[direct.variety]:
            return False
        return locked.url == url and locked.unpack == direct.unpack
    if not isinstance(locked, LockedGit) or locked.url != url:
        return False
    if direct.requirement is None:
        return locked.version is None
    return locked.version is not None and direct.requirement.matches(locked.version)


def lock_direct(
    name: str,
    direct: Direct,
    url: str,
    downloads: Downloads,
    *,
    base: str | os.PathLike[str],
    progress: Progress = lambda size: None,
) -> Locked:
    """Fetches a file to hash it; only lists the refs of a repository.

    Relative paths start at `base`. Raises ServiceError, GitError, FormatError, ResolveError.
    """
    if direct.variety == "git":
        return _lock_git(name, direct, url, base)
    if PLACEHOLDER in urlsplit(url).path and direct.from_version:
        tag, label = direct.from_version
        raise ResolveError(
            f"`{name}` wants the version of `{label}` of `{tag}`, which is not locked",
            hint=f"depend on it: `[deps.from.{tag}]` with `{label}`",
        )
    from eka.atom.archive import hash_unpacked

    got = downloads.get(url, progress)
    unpack = direct.variety == "tar" or direct.unpack
    found = hash_unpacked(got.file) if unpack else got.hash()
    return LockedFile(LOCK_TYPES[direct.variety], name, url, found.sri(), direct.unpack)


def tag_version(ref: str) -> Version | None:
    """Of `refs/tags/v1.2.3` or `refs/tags/1.2.3`."""
    try:
        return parse_version(ref.removeprefix(_TAGS).removeprefix("v"))
    except FormatError:
        return None


def _is_git(url: str) -> bool:
    try:
        parsed = parse_git_url(url)
    except FormatError:
        return False
    return parsed.scheme in ("ssh", "git") or parsed.path.rstrip("/").endswith(".git")


def _git(url: str, wanted: str) -> Direct:
    place = git_place(url)
    if not wanted:
        return Direct("git", place)
    try:
        return Direct("git", place, requirement=parse_requirement(wanted))
    except FormatError:
        return Direct("git", place, ref=wanted)


def _with_placeholder(url: str) -> tuple[str, tuple[str, str] | None]:
    match = _FROM.search(url)
    if match is None:
        return url, None
    pair = (names.tag(match[1]), names.label(match[2]))
    return url[: match.start()] + PLACEHOLDER + url[match.end() :], pair


def _looks_like_tar(url: str) -> bool:
    file = urlsplit(url).path.rpartition("/")[2]
    return file.endswith(".tar") or ".tar." in file


def _lock_git(name: str, direct: Direct, url: str, base: str | os.PathLike[str]) -> LockedGit:
    place = absolute_place(url, base)
    if direct.requirement is not None:
        refs = list_refs(place, None, f"{_TAGS}*")
        found = {v: oid for ref, oid in refs.items() if (v := _tagged(ref)) is not None}
        best = direct.requirement.highest(found)
        if best is None:
            listed = ", ".join(map(str, sorted(found)[-8:])) or "none"
            raise ResolveError(
                f"no tag of `{url}` matches `{direct.requirement}` (`{name}`)",
                hint=f"its versions: {listed}",
            )
        return LockedGit(name, url, best, found[best])
    ref = direct.ref or "HEAD"
    candidates = [place.format(ref) for place in _PLACES]
    refs = list_refs(place, None, *candidates)
    for candidate in candidates:
        if candidate in refs:
            return LockedGit(name, url, None, refs[candidate])
    raise ResolveError(f"`{url}` has no ref `{ref}` (`{name}`)", hint=f"see `git ls-remote {url}`")


def _tagged(ref: str) -> Version | None:
    return tag_version(ref) if ref.startswith(_TAGS) else None
