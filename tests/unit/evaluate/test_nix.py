"""What evaluators say when they fail, by Nix 2.8 and 2.26, and what people are told."""

from __future__ import annotations

import os
import threading

import pytest

from eka.evaluate.evaluator import Answer
from eka.evaluate.nix import failure
from eka.evaluate.sandbox import ERROR_LIMIT, _read
from eka_runtime.errors import ImpureEvaluation

NEW = """\
warning: unable to load nss_dns backend
error:
       … while evaluating a branch condition
         at /eka/nix/entry.nix:120:10:
          119|       here
          120|     else if !b.isAttrs here then
             |          ^
          121|       throw "eka: no attribute: ${place} is ${b.typeOf here}, and has no `${name}`"

       … while evaluating the attribute 'f'
         at /eka/atoms/0/source/u.nix:5:3:
            4|   c = builtins.readFile ./nothing;
            5|   f = let g = x: if x == 0 then throw "deep" else 1 + g (x - 1); in g 5;
             |   ^
            6| }

       (9 duplicate frames omitted)

       … while calling the 'throw' builtin
         at /eka/atoms/0/source/u.nix:5:33:
            5|   f = let g = x: if x == 0 then throw "deep" else 1 + g (x - 1); in g 5;
             |                                 ^
            6| }

       error: deep
"""
OLD = """\
error: deep

       … while evaluating 'g'

       at /eka/atoms/0/source/u.nix:5:15:

            5|   f = let g = x: if x == 0 then throw "deep" else 1 + g (x - 1); in g 5;
             |               ^
            6| }

       … while evaluating 'select'

       at /eka/nix/entry.nix:112:19:

          112|     value: names: above:
             |                   ^
          113|     let
"""


def told(err: str) -> str:
    return str(failure(Answer(1, b"", err)))


@pytest.mark.parametrize(
    ("err", "first", "place"),
    [(NEW, "… while calling the 'throw' builtin", "5:33"), (OLD, "… while evaluating 'g'", "5:15")],
)
def test_what_is_wrong_comes_first_and_where(err: str, first: str, place: str) -> None:
    lines = told(err).splitlines()
    assert lines[:2] == ["deep", first]
    assert lines[2].strip() == f"at /eka/atoms/0/source/u.nix:{place}:"
    assert "/eka/nix/" not in told(err)
    assert "duplicate frames" not in told(err)


def test_what_stands_in_a_source_was_not_said() -> None:
    assert "eka: no attribute" in NEW
    assert told(NEW).startswith("deep\n")
    assert told(NEW.replace("error: deep", "error: eka: no attribute: the value")) == "the value"


ABSENT = {
    "getting status of '/nix/store/a-b/c'": "`/nix/store/a-b/c`",
    "opening file '/nix/store/a-b'": "`/nix/store/a-b`",
    "reading directory /nix/store/a-b": "`/nix/store/a-b`",
    "getting status of '/eka/atoms/0/other'": "`/eka/atoms/0/other`",
    "opening file '/eka/atoms/0/other/default.nix'": "`/eka/atoms/0/other`",
}


@pytest.mark.parametrize("what", ABSENT)
def test_what_is_not_shown_was_refused(what: str) -> None:
    found = failure(Answer(1, b"", f"error: {what}: No such file or directory\n"))
    assert isinstance(found, ImpureEvaluation)
    assert ABSENT[what] in str(found)
    told_of_a_path = f"error: path {what.split()[-1]} does not exist\n"
    assert isinstance(failure(Answer(1, b"", told_of_a_path)), ImpureEvaluation)


def test_of_an_endless_trace_both_ends_are_kept() -> None:
    lines = ["trace: on the way", "error: first", *["… a frame"] * 500_000, "error: last"]
    text = "\n".join(lines).encode() + b"\n"
    assert len(text) > ERROR_LIMIT
    (out, out_end), (err, err_end) = os.pipe(), os.pipe()
    os.close(out_end)

    def write() -> None:
        with open(err_end, "wb") as stream:
            stream.write(text)

    writing = threading.Thread(target=write)
    writing.start()
    said: list[str] = []
    _, kept = _read(out, err, said.append)
    writing.join()
    os.close(out)
    os.close(err)
    assert said == ["trace: on the way"]
    assert len(kept) <= ERROR_LIMIT
    assert kept.startswith("error: first\n")
    assert kept.endswith("error: last\n")


def test_what_is_missing_in_an_atom_is_just_missing() -> None:
    for place in ("/eka/atoms/0/source/nothing", "/eka/atoms/12/source/a/b"):
        text = f"error: opening file '{place}': No such file or directory\n"
        assert not isinstance(failure(Answer(1, b"", text)), ImpureEvaluation)
