"""Several caches as one: who is asked, what is remembered, what happens when one is not there."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest

from eka_runtime.cache.answers import Answer, Answers, Lifetimes
from eka_runtime.errors import ServiceError
from eka_runtime.nix.path import StorePath
from eka_runtime.store.store import Store
from tests.caches import Request, Server, serving
from tests.unit.cache.world import A, B, C, bring, narinfo, plan, substituter

ABSENT = StorePath("0" * 32, "absent")
NOBODY = "http://127.0.0.1:1"


def without(pristine: Path, place: Path, *paths: StorePath) -> Path:
    shutil.copytree(pristine, place)
    for path in paths:
        (place / f"{path.hash}.narinfo").unlink()
    return place


def asked_for(server: Server, path: StorePath) -> int:
    return server.asked.count(f"{path.hash}.narinfo")


def test_a_closure_may_lie_in_several_caches(store: Store, pristine: Path, tmp_path: Path) -> None:
    first = without(pristine, tmp_path / "first", A)
    second = without(pristine, tmp_path / "second", B, C)
    with serving(first) as one, serving(second) as two, substituter(one.url, two.url) as caches:
        assert bring(store, caches, C).valid == [A, B, C]
        assert [asked_for(two, path) for path in (A, B, C)] == [1, 0, 0]


def test_priorities_decide_and_not_the_order(store: Store, server: Server, pristine: Path) -> None:
    with serving(pristine) as other:
        with substituter(server.url, other.url, priorities=(50, 10)) as caches:
            bring(store, caches, A)
        assert asked_for(other, A) == 1
        assert asked_for(server, A) == 0


def test_what_is_here_is_not_asked_for(store: Store, server: Server) -> None:
    with substituter(server.url) as caches:
        bring(store, caches, B)
        server.asked.clear()
        assert bring(store, caches, C).valid == [C]
        assert [name for name in server.asked if name.endswith(".narinfo")] == [f"{C.hash}.narinfo"]


def test_a_cache_that_is_not_there_is_left_out(store: Store, server: Server) -> None:
    warnings: list[str] = []
    with substituter(NOBODY, server.url, warn=warnings.append) as caches:
        assert bring(store, caches, C).valid == [A, B, C]
    assert len(warnings) == 1
    assert "going on without it" in warnings[0]
    with substituter(NOBODY, server.url) as caches:
        # It might have had it.
        assert isinstance(plan(caches, store, ABSENT).absent[ABSENT.hash], ServiceError)


def test_a_cache_that_breaks_down_in_the_middle_is_left_out(
    store: Store, server: Server, pristine: Path
) -> None:
    def fail(request: Request) -> bool:
        broken = request.name.endswith(".narinfo") and not request.name.startswith(C.hash)
        if broken:
            request.answer(500)
        return broken

    server.instead = fail
    with substituter(server.url, pristine) as caches:
        assert bring(store, caches, C).valid == [A, B, C]


def test_a_reference_that_nobody_has_is_told(store: Store, pristine: Path, tmp_path: Path) -> None:
    cache = without(pristine, tmp_path / "holes", A)
    with (
        substituter(cache) as caches,
        pytest.raises(ServiceError, match=f"has `{C}`, but no cache has `{A}`"),
    ):
        bring(store, caches, C)
    assert not store.paths.count()


def test_answers_are_remembered(store: Store, server: Server, tmp_path: Path) -> None:
    memory = tmp_path / "deep" / "answers"
    with substituter(server.url, answers=memory) as caches:
        found = plan(caches, store, C, ABSENT)
        assert [one.path for one in found.found] == [A, B, C]
        assert found.absent == {ABSENT.hash: None}
    server.asked.clear()
    with substituter(server.url, answers=memory) as caches:
        assert plan(caches, store, C, ABSENT) == found._replace(
            found=[one._replace(cache=caches.caches[0]) for one in found.found]
        )
        assert not [name for name in server.asked if name.endswith(".narinfo")]
        caches.forget_answers()
        plan(caches, store, C, ABSENT)
        assert asked_for(server, ABSENT) == 1


def test_a_remembered_answer_that_is_not_true_any_more_does_no_harm(
    store: Store, cache: Path, server: Server, pristine: Path, tmp_path: Path
) -> None:
    memory = tmp_path / "answers"
    with substituter(server.url, pristine, answers=memory) as caches:
        plan(caches, store, A)
        (cache / narinfo(cache, A).url).unlink()
        told = bring(store, caches, A)
        assert told.valid == [A]
        assert len(told.warnings) == 1


def test_answers_have_lifetimes(tmp_path: Path) -> None:
    file = tmp_path / "answers"
    answers = Answers(file)
    answers.put([Answer("c", "found", b"text"), Answer("c", "absent", None)])
    assert answers.get("c", "found") == ("c", "found", b"text")
    assert answers.get("c", "absent") == ("c", "absent", None)
    assert answers.get("d", "found") is None
    answers.close()
    for lifetimes, kept in ((Lifetimes(0, 99), "absent"), (Lifetimes(99, 0), "found")):
        answers = Answers(file, lifetimes)
        assert [name for name in ("found", "absent") if answers.get("c", name)] == [kept]
        answers.close()


@pytest.mark.parametrize("harm", ["damaged", "of a newer version", "a directory"])
def test_a_memory_that_cannot_be_used_is_begun_anew_or_left_alone(
    tmp_path: Path, harm: str
) -> None:
    file = tmp_path / "answers"
    if harm == "damaged":
        file.write_bytes(b"nonsense" * 1000)
    elif harm == "a directory":
        file.mkdir()
    else:
        connection = sqlite3.connect(file)
        connection.execute("pragma user_version = 99")
        connection.close()
    answers = Answers(file)
    answers.put([Answer("c", "h", b"text")])
    assert bool(answers.get("c", "h")) == (harm != "a directory")
    answers.close()
