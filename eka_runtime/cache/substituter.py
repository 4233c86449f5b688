"""Several binary caches as one place to get store paths from.

They are asked in the order of their priorities, each path by itself: the first answer that is
believable counts, whatever the others would say. A cache that takes long does not hold up the
rest: the next one is asked beside it, and whoever answers first is taken. A cache that cannot be
reached is left out for the time being. References are asked for as soon as they are known, so a
closure takes as many round trips as it is deep, and hundreds of questions wait at the same time.

How paths are then brought: `fetch.py`.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from eka_runtime.cache.access import Access
from eka_runtime.cache.answers import Answer, Answers
from eka_runtime.cache.client import BinaryCache
from eka_runtime.cache.crew import Crew, Report
from eka_runtime.cache.location import Location, open_cache
from eka_runtime.cache.settings import CacheSettings
from eka_runtime.cache.trust import Trust, parse_keys
from eka_runtime.errors import ConfigError, EkaError, FormatError, ServiceError
from eka_runtime.nix.narinfo import NarInfo
from eka_runtime.nix.path import StorePath
from eka_runtime.store.copying import MAX_CLOSURE, kept_here

if TYPE_CHECKING:
    from eka_runtime.store.store import Store

JOBS = 128
"""Questions that wait for an answer at the same time."""
HEDGE = 1.0
"""Seconds after which the next cache is asked beside one that has not answered."""

Warn = Callable[[str], object]
Accept = Callable[[NarInfo], bool]


class Found(NamedTuple):
    """A path that a cache has."""

    info: NarInfo
    cache: BinaryCache

    @property
    def path(self) -> StorePath:
        return self.info.path


class Plan(NamedTuple):
    """What has to be fetched, references first, and why some of what was wanted cannot be.

    `absent` maps hash parts to what the caches said against them; None where none has the path.
    """

    found: list[Found]
    absent: dict[str, EkaError | None]

    @property
    def nar_size(self) -> int:
        """Bytes when unpacked."""
        return sum(found.info.nar_size for found in self.found)

    @property
    def file_size(self) -> int | None:
        """Bytes to come over the network, if all caches say so."""
        sizes = [found.info.file_size for found in self.found]
        return None if None in sizes else sum(size or 0 for size in sizes)


class Substituter:
    """Used from one thread. `warn` gets what is worth telling but ends nothing."""

    def __init__(
        self, caches: Sequence[BinaryCache], answers: Answers, warn: Warn, *, hedge: float = HEDGE
    ) -> None:
        self.caches = tuple(caches)
        self.answers = answers
        self._warn = warn
        self._hedge = hedge
        self._down: dict[BinaryCache, EkaError] = {}
        self._ordered: list[BinaryCache] | None = None

    @property
    def name(self) -> str:
        return ", ".join(cache.name for cache in self.caches)

    def order(self) -> list[BinaryCache]:
        """Those that can be reached, best first; in the order given where priorities are equal."""
        if self._ordered is None:
            with Crew[BinaryCache, int](len(self.caches) or 1) as crew:
                for cache in self.caches:
                    crew.submit(cache, partial(_priority, cache))
                priorities = dict(self._priorities(crew))
            known = [cache for cache in self.caches if cache in priorities]
            self._ordered = sorted(known, key=lambda cache: priorities[cache])
        return [cache for cache in self._ordered if cache not in self._down]

    def _priorities(self, crew: Crew[BinaryCache, int]) -> Iterator[tuple[BinaryCache, int]]:
        while crew.busy and (report := crew.next()):
            if report.result is not None:
                yield report.key, report.result
            else:
                self._lose(report.key, report.error)

    def _lose(self, cache: BinaryCache, error: BaseException | None) -> EkaError:
        """From now on the cache is not asked any more."""
        if not isinstance(error, EkaError):
            raise error or AssertionError
        if cache not in self._down:
            self._down[cache] = error
            if len(self._down) < len(self.caches):
                self._warn(f"{error}; going on without it")
        return error

    def look_up(self, wanted: Iterable[str]) -> dict[str, Found]:
        """What the caches have of these hash parts, without their closures."""
        return {
            question.digits: question.answer
            for question in self._ask([(digits, _any) for digits in wanted], lambda found: ())
            if question.answer
        }

    def plan(self, store: Store, wanted: Mapping[str, Accept]) -> Plan:
        """The closures of what is wanted, by hash part, without what is valid in the store.

        What is here already stays until the store is closed. `Accept` judges what has the hash.
        A reference that no cache has is against the path that needs it. Raises ServiceError for
        references that make no sense.
        """
        seen = set(wanted)

        def references(found: Found) -> Iterable[tuple[str, Accept]]:
            new = [path for path in found.info.references if path.hash not in seen]
            here = kept_here(store, new)
            seen.update(path.hash for path in new)
            if len(seen) > MAX_CLOSURE:
                raise ServiceError(f"a closure has more than {MAX_CLOSURE} paths")
            for path in new:
                if path not in here:
                    yield path.hash, _exactly(path)

        asked = self._ask(wanted.items(), references)
        questions = {question.digits: question for question in asked}
        return _closed(self.name, wanted, questions)

    def forget_answers(self) -> None:
        """Asks anew whatever is remembered of these caches."""
        for cache in self.caches:
            self.answers.forget_all(cache.url)

    def again(self, path: StorePath, without: set[BinaryCache]) -> Found | None:
        """Another cache that has the path, asked anew."""
        for cache in without:
            self.answers.forget(cache.url, path.hash)
        caches = [cache for cache in self.order() if cache not in without]
        asked = self._ask([(path.hash, _exactly(path))], lambda found: (), caches)
        return next((question.answer for question in asked if question.answer), None)

    def _ask(
        self,
        wanted: Iterable[tuple[str, Accept]],
        more: Callable[[Found], Iterable[tuple[str, Accept]]],
        caches: Sequence[BinaryCache] | None = None,
    ) -> Iterable[_Question]:
        """All questions with their answers; `more` says what else to ask for after each answer."""
        inquiry = _Inquiry(self, self.order() if caches is None else caches, more)
        return inquiry.run(wanted)

    # For `_Inquiry`.

    def lost(self, cache: BinaryCache) -> EkaError | None:
        return self._down.get(cache)

    def lose(self, cache: BinaryCache, error: BaseException | None) -> EkaError:
        return self._lose(cache, error)

    @property
    def hedge(self) -> float:
        return self._hedge

    def first_failure(self) -> EkaError | None:
        return next(iter(self._down.values()), None)


class _Question:
    """One hash part: whom it can still be put to, and what came of it."""

    __slots__ = ("accept", "answer", "asking", "caches", "digits", "done", "since", "trouble")

    def __init__(self, digits: str, accept: Accept, caches: Sequence[BinaryCache]) -> None:
        self.digits = digits
        self.accept = accept
        self.caches = deque(caches)
        self.asking = 0
        self.since = 0.0
        self.done = False
        self.answer: Found | None = None
        self.trouble: EkaError | None = None


_Key = tuple[_Question, BinaryCache]
_Text = tuple[bytes | None, NarInfo | None, EkaError | None]


class _Inquiry:
    """Puts questions to caches until all have an answer, or nobody is left to ask."""

    def __init__(
        self,
        owner: Substituter,
        caches: Sequence[BinaryCache],
        more: Callable[[Found], Iterable[tuple[str, Accept]]],
    ) -> None:
        self._owner = owner
        self._caches = caches
        self._more = more
        self._questions: dict[str, _Question] = {}
        self._open: dict[_Question, None] = {}
        self._learned: list[Answer] = []
        self._crew = Crew[_Key, _Text](JOBS)

    def run(self, wanted: Iterable[tuple[str, Accept]]) -> list[_Question]:
        try:
            with self._crew:
                self._begin(wanted)
                while self._open:
                    report = self._crew.next(self._owner.hedge)
                    if report is not None:
                        self._take(report)
                    self._hurry()
        finally:
            self._owner.answers.put(self._learned)
        return list(self._questions.values())

    def _begin(self, wanted: Iterable[tuple[str, Accept]]) -> None:
        # A stack and not recursion: answers that are remembered come at once.
        pending = list(wanted)
        while pending:
            digits, accept = pending.pop()
            if digits in self._questions:
                continue
            question = _Question(digits, accept, self._caches)
            self._questions[digits] = question
            self._open[question] = None
            self._put(question, pending)

    def _put(self, question: _Question, pending: list[tuple[str, Accept]]) -> None:
        """To the next cache that must be asked; remembered answers are taken on the way."""
        while question.caches and not question.done:
            cache = question.caches.popleft()
            if error := self._owner.lost(cache):
                question.trouble = question.trouble or error
                continue
            known = self._owner.answers.get(cache.url, question.digits)
            if known is None:
                question.asking += 1
                question.since = time.monotonic()
                self._crew.submit((question, cache), partial(_fetched, cache, question.digits))
                return
            self._judge(question, cache, _understood(cache, question.digits, known.text), pending)
        if not question.asking:
            self._close(question)

    def _take(self, report: Report[_Key, _Text]) -> None:
        question, cache = report.key
        question.asking -= 1
        pending: list[tuple[str, Accept]] = []
        if report.result is None:
            error = self._owner.lose(cache, report.error)
            question.trouble = question.trouble or error
        else:
            if report.result[2] is None:
                self._learned.append(Answer(cache.url, question.digits, report.result[0]))
            if not question.done:
                self._judge(question, cache, report.result, pending)
        if not question.done:
            self._put(question, pending)
        self._begin(pending)

    def _judge(
        self,
        question: _Question,
        cache: BinaryCache,
        text: _Text,
        pending: list[tuple[str, Accept]],
    ) -> None:
        _, info, error = text
        if error is not None:
            question.trouble = error
        elif info is not None and question.accept(info):
            question.answer = Found(info, cache)
            self._close(question)
            pending += self._more(question.answer)

    def _close(self, question: _Question) -> None:
        if question.answer is None:
            # One that could not be asked may have it.
            question.trouble = question.trouble or self._owner.first_failure()
        question.done = True
        self._open.pop(question, None)

    def _hurry(self) -> None:
        """Asks the next cache, too, where one has not answered for long."""
        if len(self._caches) < 2:
            return
        late = time.monotonic() - self._owner.hedge
        pending: list[tuple[str, Accept]] = []
        for question in [one for one in self._open if one.caches and one.since < late]:
            self._put(question, pending)
        self._begin(pending)


def _priority(cache: BinaryCache) -> int:
    return cache.info().priority


def _fetched(cache: BinaryCache, digits: str) -> _Text:
    return _understood(cache, digits, cache.narinfo_text(digits))


def _understood(cache: BinaryCache, digits: str, text: bytes | None) -> _Text:
    if text is None:
        return None, None, None
    try:
        return text, cache.understand(digits, text), None
    except EkaError as error:
        # Of this path only: the cache may be right about others.
        return text, None, error


def _any(info: NarInfo) -> bool:
    return True


def _exactly(path: StorePath) -> Accept:
    return lambda info: info.path == path


def _closed(name: str, wanted: Iterable[str], questions: Mapping[str, _Question]) -> Plan:
    """References first; what refers to something that nobody has is absent, too."""
    ordered = _references_first(name, questions)
    good: set[str] = set()
    absent: dict[str, EkaError | None] = {}
    found: list[Found] = []
    for question in ordered:
        if question.answer is None:
            absent[question.digits] = question.trouble
            continue
        bad = [path for path in question.answer.info.references if path.hash in absent]
        if bad:
            absent[question.digits] = _incomplete(question.answer, bad[0], absent[bad[0].hash])
        else:
            found.append(question.answer)
            good.add(question.digits)
    needed = _needed(wanted, {one.path.hash: one for one in found})
    return Plan(
        [one for one in found if one.path.hash in needed],
        {digits: absent[digits] for digits in wanted if digits in absent},
    )


def _incomplete(found: Found, path: StorePath, why: EkaError | None) -> EkaError:
    if why is not None:
        return why
    return ServiceError(
        f"{found.cache.name} has `{found.path}`, but no cache has `{path}`, to which it refers",
        hint="have the whole closure copied there",
    )


def _needed(wanted: Iterable[str], found: Mapping[str, Found]) -> set[str]:
    needed: set[str] = set()
    pending = [digits for digits in wanted if digits in found]
    while pending:
        digits = pending.pop()
        if digits not in needed:
            needed.add(digits)
            pending += [p.hash for p in found[digits].info.references if p.hash in found]
    return needed


def _references_first(name: str, questions: Mapping[str, _Question]) -> list[_Question]:
    from graphlib import CycleError, TopologicalSorter

    graph: dict[str, list[str]] = {}
    for digits, question in sorted(questions.items()):
        references = question.answer.info.references if question.answer else ()
        others = [path.hash for path in references if path.hash != digits]
        graph[digits] = [other for other in others if other in questions]
    try:
        return [questions[digits] for digits in TopologicalSorter(graph).static_order()]
    except CycleError as error:
        cycle = " -> ".join(error.args[1])
        raise ServiceError(f"{name}: references form a cycle: {cycle}") from error


def open_caches(
    settings: CacheSettings, access: Access, *, offline: bool = False
) -> list[BinaryCache]:
    """The caches in force, with `offline` only those on this host; nothing is asked yet.

    Raises UsageError for a URL nobody can use, ConfigError for a key that is none.
    """
    try:
        trust = Trust(parse_keys(settings.keys), not settings.require)
    except FormatError as error:
        raise ConfigError(f"`trusted-public-keys`: {error}", hint=error.hint) from error
    urls = [url for url in settings.substituters if not offline or Location.parse(url).local]
    return [open_cache(url, trust, access) for url in urls]


@contextmanager
def open_substituter(
    settings: CacheSettings,
    access: Access,
    answers_file: Path | None,
    warn: Warn,
    *,
    offline: bool = False,
) -> Iterator[Substituter]:
    """For the caches in force; raises as `open_caches`."""
    caches = open_caches(settings, access, offline=offline)
    answers = Answers(answers_file)
    try:
        yield Substituter(caches, answers, warn)
    finally:
        for cache in caches:
            cache.files.close()
        answers.close()
