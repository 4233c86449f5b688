"""Where the sets of a manifest are, what they offer, and whether their mirrors agree.

All mirrors of a set have one genesis, one genesis has one tag, and a version is the same commit on
every mirror: anything else may be tampering, and nothing is locked then. Unlike upstream, a mirror
that does not answer is only a warning while another one of its set does.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from eka.atom.git_url import LOCAL, mirror_key
from eka.atom.remote import Listing, list_set
from eka.atom.version import Version
from eka_runtime.errors import EkaError, GitError, ResolveError

WORKERS = 16


class Offer(NamedTuple):
    """One version: the atom commit and the mirrors that have it, in order."""

    rev: str
    mirrors: tuple[str, ...]


class ResolvedSet(NamedTuple):
    """`offers` by label and version; empty for a set that is only local."""

    tag: str
    genesis: str
    mirrors: tuple[str, ...]
    offers: Mapping[str, Mapping[Version, Offer]]

    @property
    def local(self) -> bool:
        return LOCAL in self.mirrors


class Mirrors:
    """Asks each place at most once, several at a time.

    `local_genesis` is called for `::` and raises where that has no meaning. Relative paths are
    relative to `base`.
    """

    def __init__(
        self,
        base: Path,
        local_genesis: Callable[[], str],
        warn: Callable[[str], None],
        *,
        offline: bool = False,
    ) -> None:
        self._base = base
        self.local_genesis = local_genesis
        self._warn = warn
        self.offline = offline
        self._known: dict[str, Listing | EkaError] = {}

    def ask(self, urls: Iterable[str]) -> None:
        """Lists what is not known yet; failures are kept for who wants them."""
        new = [url for url in dict.fromkeys(urls) if url != LOCAL and url not in self._known]
        if self.offline:
            for url in new:
                self._known[url] = GitError(
                    f"`{url}` was not asked: offline", hint="run it again without `--offline`"
                )
            return
        if len(new) < 2:
            results = [self._list(url) for url in new]
        else:
            from concurrent.futures import ThreadPoolExecutor

            with ThreadPoolExecutor(min(len(new), WORKERS)) as pool:
                results = list(pool.map(self._list, new))
        self._known.update(zip(new, results, strict=True))

    def listing(self, url: str) -> Listing:
        """Raises what asking it raised."""
        self.ask([url])
        found = self._known[url]
        if isinstance(found, EkaError):
            raise found
        return found

    def known(self, url: str) -> Listing | None:
        """What a place that was asked answered, if it did."""
        found = self._known.get(url)
        return found if isinstance(found, Listing) else None

    def any_genesis(self, mirrors: Iterable[str]) -> str | None:
        """As the first of them says that is known or local."""
        for mirror in mirrors:
            if mirror == LOCAL:
                return self.local_genesis()
            if listing := self.known(mirror):
                return listing.genesis
        return None

    def resolve(self, sets: Mapping[str, tuple[str, ...]]) -> dict[str, ResolvedSet]:
        """By tag. Raises ResolveError."""
        self.ask(url for mirrors in sets.values() for url in mirrors)
        resolved = {tag: self._one(tag, mirrors) for tag, mirrors in sets.items()}
        tags: dict[str, str] = {}
        for tag, found in resolved.items():
            if (other := tags.setdefault(found.genesis, tag)) != tag:
                raise ResolveError(
                    f"`{other}` and `{tag}` are one set, {found.genesis}",
                    hint="give all its mirrors to one tag of `[package.sets]`",
                )
        return resolved

    def _list(self, url: str) -> Listing | EkaError:
        try:
            return list_set(url, self._base)
        except EkaError as error:
            return error

    def _one(self, tag: str, mirrors: tuple[str, ...]) -> ResolvedSet:
        ordered = tuple(sorted(mirrors, key=mirror_key))
        listings: dict[str, Listing] = {}
        failures: dict[str, EkaError] = {}
        for url in ordered:
            found = self._known.get(url)
            if isinstance(found, Listing):
                listings[url] = found
            elif found is not None:
                failures[url] = found
        roots = {url: listing.genesis for url, listing in listings.items()}
        if LOCAL in ordered:
            roots[LOCAL] = self.local_genesis()
        if not roots:
            raise self._nobody(tag, failures)
        for error in failures.values():
            self._warn(f"{error} (mirror of `{tag}`)")
        return ResolvedSet(tag, _agreed(tag, roots), ordered, _merged(tag, listings))

    def _nobody(self, tag: str, failures: Mapping[str, EkaError]) -> EkaError:
        first = next(iter(failures.values()))
        if len(failures) == 1 or self.offline:
            return type(first)(f"{first} (set `{tag}`)", hint=first.hint)
        listed = "; ".join(map(str, failures.values()))
        return ResolveError(f"no mirror of `{tag}` answers: {listed}", hint=first.hint)


def _agreed(tag: str, roots: Mapping[str, str]) -> str:
    if len(set(roots.values())) > 1:
        listed = ", ".join(f"`{url}` {genesis[:12]}" for url, genesis in roots.items())
        raise ResolveError(
            f"the mirrors of `{tag}` are different sets: {listed}",
            hint="remove the wrong one from `[package.sets]`; one of them may be forged",
        )
    return next(iter(roots.values()))


def _merged(tag: str, listings: Mapping[str, Listing]) -> dict[str, dict[Version, Offer]]:
    offers: dict[str, dict[Version, Offer]] = {}
    for url, listing in listings.items():
        for label, versions in listing.atoms.items():
            known = offers.setdefault(label, {})
            for version, rev in versions.items():
                offer = known.get(version, Offer(rev, ()))
                if offer.rev != rev:
                    raise ResolveError(
                        f"`{label}` {version} of `{tag}` is {offer.rev[:12]} on"
                        f" `{offer.mirrors[0]}` and {rev[:12]} on `{url}`",
                        hint="one of them was tampered with: `eka verify` tells which",
                    )
                known[version] = Offer(rev, (*offer.mirrors, url))
    return offers


def absolute_place(url: str, base: str | os.PathLike[str]) -> str:
    """A mirror as git is to be told from anywhere: local paths made absolute."""
    from eka.atom.git_url import parse_git_url

    parsed = parse_git_url(url)
    if parsed.scheme == "file" and parsed.alternative:
        return os.path.join(base, os.path.expanduser(parsed.path))
    return url
