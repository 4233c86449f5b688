"""Nix's own evaluator: `nix-instantiate` of a Nix in the store, 2.8 or later.

Restricted mode keeps files and the network away by itself, and says what was asked for; the sandbox
would only say that it is not there. The rest is in the expressions (`nix/scope.nix`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import NamedTuple

from eka.evaluate.evaluator import Answer, Capability, Command
from eka.evaluate.host_nix import LOADER, PROGRAM
from eka_runtime.errors import EvaluationError, EvaluatorMissing, ImpureEvaluation
from eka_runtime.nix.path import STORE_DIR, StorePath

_OPTIONS = {
    "allow-import-from-derivation": "true",
    "allowed-uris": "",
    "build-hook": "",
    "experimental-features": "ca-derivations",
    "restrict-eval": "true",
    "substituters": "",
    "warn-dirty": "false",
}
# Not compiled yet: most evaluations say nothing.
_REFUSED = (
    r"eka: refused: (?P<ours>.+?) is outside the inputs of this evaluation \((?P<hint>[^\n]*)\)"
    r"|access to (?P<what>(?:absolute |canonical )?path|URI) '(?P<place>[^'\n]*)' is forbidden"
    r"|(?P<store>'/nix/store/[^'\n]*') is not an input of this evaluation"
    # What is beside a directory of an atom was not shown; what is missing in it is just missing.
    r"|(?:getting status of|opening file|reading directory|path)"
    r" (?P<absent>'?/nix/store/[^'\n]*'?|'/eka(?:/[^/'\n]*){0,3}'"
    r"|'/eka/atoms/\d+/(?!source[/'])[^/'\n]*)[^'\n]*'?"
    r"(?:: No such file or directory| does not exist)"
)
_OURS = r"eka: (no attribute|no derivation): (.+)"
_ERROR = r"(?m)^ *error: ?"
_NOISE = (
    r"(?m)^warning: (the group 'nixbld'|unable to load nss_dns|.*'/homeless-shelter').*\n"
    r"|^ *\((use '--show-trace'|stack trace truncated|\d+ duplicate frames).*\n?"
)
# Of a source, beside a place in it: what stands there was not said by anybody.
_SOURCE = r"(?m)^ *\d*\|.*\n?"
_FRAME = r"(?m)^ *(?=… )"
_FRAMES = 3
_OWN = " at /eka/nix/"


class NixEvaluator(NamedTuple):
    """`wrapped` for the host's Nix, which is started through the loader beside it."""

    path: StorePath
    wrapped: bool

    @property
    def name(self) -> str:
        return "nix"

    @property
    def roots(self) -> tuple[StorePath, ...]:
        return (self.path,)

    @property
    def capabilities(self) -> frozenset[Capability]:
        return frozenset(("value", "plan", "shell", "import-from-derivation"))

    def command(self, entry: str, readable: Sequence[str]) -> Command:
        program = f"{self.path}/bin/{PROGRAM}"
        loader = (f"{self.path}/{LOADER}", "--library-path", f"{self.path}/lib")
        options = [word for item in _OPTIONS.items() for word in ("--option", *item)]
        # All that is shown at /nix/store is an input, or was added by this evaluation.
        paths = [word for place in (*readable, STORE_DIR) for word in ("-I", place)]
        mode = ("--eval", "--strict", "--json", "--read-write-mode", "--show-trace")
        words = (*(loader if self.wrapped else ()), program, *mode, *options, *paths, entry)
        return Command(words)

    def value(self, answer: Answer) -> object:
        if answer.status != 0:
            raise failure(answer)
        try:
            return json.loads(answer.out)
        except (ValueError, RecursionError) as error:
            raise EvaluationError(f"the evaluator's answer makes no sense: {error}") from error


def failure(answer: Answer) -> EvaluationError | EvaluatorMissing:
    """What an evaluator that failed has said, as an error."""
    text = _in_order(re.sub(_NOISE, "", answer.err).strip())
    said = re.sub(_SOURCE, "", text)
    if match := re.search(_REFUSED, said):
        return _refusal(match, said)
    if match := re.search(_OURS, said):
        return EvaluationError(match[2].strip())
    if not re.search(_ERROR, said):
        how = f"with status {answer.status}"
        return EvaluationError(f"the evaluator ended {how}: {text[-2000:] or 'it said nothing'}")
    return EvaluationError(re.sub(_ERROR, "", text, count=1).strip())


def _in_order(text: str) -> str:
    """What is wrong first, and then the innermost places that led there and are not our own.

    Nix before 2.20 says it in this order. Later ones begin with an empty `error:`, go from the
    outside in, and say at the end what is wrong.
    """
    if not (first := re.search(_ERROR, text)):
        return text
    rest = text[first.end() :]
    if rest.lstrip()[:1] == "…" and (last := re.search(_ERROR, rest)):
        message, frames = rest[last.start() :], re.split(_FRAME, rest[: last.start()])[:0:-1]
    else:
        message, *frames = re.split(_FRAME, text[first.start() :])
    theirs = [frame for frame in frames if " at " in frame and _OWN not in frame]
    return "\n".join(map(_compact, (message, *theirs[:_FRAMES])))


def _compact(part: str) -> str:
    lines = [line.removeprefix(" " * 7) for line in part.splitlines()]
    return "\n".join(line for line in lines if line.strip())


def _refusal(match: re.Match[str], text: str) -> ImpureEvaluation:
    if match["ours"]:
        what, hint = match["ours"], match["hint"]
    elif match["what"] == "URI":
        what, hint = f"the network (`{match['place']}`)", "declare it in `[deps.direct.nix]`"
    else:
        place = match["place"] or (match["store"] or match["absent"]).strip("'")
        what = f"`{place}`"
        hint = "put it into the atom, or declare it as a dependency"
    where = "".join(f"\n{line}" for line in text.splitlines() if line.lstrip().startswith("at "))
    return ImpureEvaluation(
        f"the evaluation was refused {what}, which is outside its inputs{where}", hint=hint
    )
