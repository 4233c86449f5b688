"""What real clients asked real daemons, asked of our server: the answers are equal in meaning.

A recording has no store, but most of what was in it: whatever some client added or read. Those
paths that a daemon's answers show to have been there are added first, and what was built is built
again; exchanges about others, whose contents nobody recorded, are left out. So are collections of
garbage, whose answers name the whole store, and roots, which lie in somebody's directories.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from eka_runtime.daemon.protocol import Op, Status
from eka_runtime.daemon.wire import Values
from tests.stores import assert_clean
from tests.unit.castore.local import temporary
from tests.unit.daemon.benches import workbench
from tests.unit.daemon.client import Client, Refused, served
from tests.unit.daemon.recorded import Conversation, Exchange
from tests.unit.daemon.replayed import brought, conversations, seed

_LEFT_OUT = (Op.AddIndirectRoot, Op.CollectGarbage)
_BUILDING = (Op.BuildPaths, Op.BuildPathsWithResults, Op.BuildDerivation)
_NEEDING = (
    Op.AddTempRoot,
    Op.EnsurePath,
    Op.NarFromPath,
    Op.QueryDerivationOutputMap,
    Op.QueryValidDerivers,
)
# What a path is; the rest depends on when, and by whom.
_MEANING = ("narHash", "narSize", "references", "ca")


def _there(one: Exchange) -> set[str]:
    """Paths that an answer shows to be valid."""
    request, reply = one.request, one.reply or {}
    if one.op is Op.QueryPathInfo and reply.get("info"):
        return {request["path"], *reply["info"]["references"]}
    if one.op is Op.IsValidPath and reply.get("valid"):
        return {request["path"]}
    if one.op in (Op.QueryAllValidPaths, Op.QueryValidPaths):
        return set(reply.get("paths", ()))
    if one.op is Op.QueryReferrers:
        return {request["path"], *reply.get("paths", ())}
    if one.op in (
        Op.NarFromPath,
        Op.EnsurePath,
        Op.QueryDerivationOutputMap,
        Op.QueryValidDerivers,
    ):
        return {request["path"]} if reply else set()
    return set(reply["info"]["references"]) if one.op is Op.AddToStore and reply else set()


def _denies(one: Exchange, path: str) -> bool:
    asked = one.op in (Op.IsValidPath, Op.QueryPathInfo) and one.request["path"] == path
    return asked and not any((one.reply or {}).values())


def _is_same(one: Exchange, reply: Values, client: Client) -> bool:
    expected = one.reply or {}
    if one.op in (Op.QueryPathInfo, Op.AddToStore):
        ours, theirs = reply["info"], expected["info"]
        if not ours or not theirs:
            return ours == theirs
        return all(ours[key] == theirs[key] for key in _MEANING)
    if one.op is Op.NarFromPath:
        client.source.expect(len(one.nar))
        return b"".join(iter(lambda: client.source.contents(1 << 20), b"")) == one.nar
    if one.op is Op.BuildPathsWithResults:
        return _outcomes(reply) == _outcomes(expected)
    return reply == expected


def _outcomes(reply: Values) -> list[object]:
    """Without times, and without how often something was built."""
    found: list[object] = []
    for one in reply["results"]:
        result = one["result"]
        outputs = {key: json.loads(text)["outPath"] for key, text in result["builtOutputs"].items()}
        found.append((one["path"], result["status"], outputs))
    return found


def _built_before(conversation: Conversation) -> Iterator[str]:
    """Targets that a daemon did not have to build, of derivations."""
    for one in conversation.exchanges:
        if one.op is Op.QueryMissing and one.reply:
            missing = {*one.reply["willBuild"], *one.reply["unknown"]}
            targets = [text for text in one.request["targets"] if ".drv!" in text]
            yield from (text for text in targets if text.partition("!")[0] not in missing)
        elif one.op is Op.BuildPathsWithResults and one.reply:
            results = [found for found in one.reply["results"] if ".drv!" in found["path"]]
            valid = Status.AlreadyValid
            yield from (found["path"] for found in results if found["result"]["status"] == valid)


def _prepare(client: Client, conversation: Conversation) -> list[str]:
    """Makes what was there at first; those of the paths that could not be made."""
    adding = [one for one in conversation.exchanges if one.op is not Op.NarFromPath]
    added = {path for one in adding for path, _ in brought(one)}
    there = {path for one in conversation.exchanges for path in _there(one)}
    # What was built meanwhile was there only afterwards.
    built = {path for path in there for one in conversation.exchanges if _denies(one, path)} - added
    done: set[str] = set()
    for target in _built_before(conversation):
        if seed(client, target.partition("!")[0], done):
            client.ask(Op.BuildPaths, {"targets": [target], "mode": 0})
    lost = [path for path in sorted(there - added - built) if not seed(client, path, done)]
    lost = [path for path in lost if not client.ask(Op.IsValidPath, {"path": path})["valid"]]
    building = any(one.op in _BUILDING for one in conversation.exchanges)
    return lost if building else [*lost, *built]


def _replay(client: Client, conversation: Conversation) -> int:
    """The number of exchanges that were compared."""
    lost = _prepare(client, conversation)
    compared = 0
    for one in conversation.exchanges:
        text = repr((one.request, one.reply))
        if one.op in _LEFT_OUT or any(path in text for path in lost):
            continue
        if one.reply is None:
            with pytest.raises(Refused):
                client.ask(one.op, one.request, one.data)
        else:
            reply = client.ask(one.op, one.request, one.data)
            assert _is_same(one, reply, client), (one.op, one.request, one.reply, reply)
        compared += 1
    return compared


@pytest.mark.parametrize("folder", ["c2.8-d2.8", "c2.26-d2.26", "ssh-2.8", "ssh-2.26"])
def test_answers_are_those_of_nix(folder: str) -> None:
    names = [name for name in conversations() if name.startswith(f"{folder}/")]
    compared = 0
    for name in names:
        conversation = conversations()[name]
        with temporary() as place:
            with (
                served(place / "store", place / "socket", workbench=workbench) as socket,
                Client(socket, min(conversation.version, 37)) as client,
            ):
                compared += _replay(client, conversation)
            assert_clean(place / "store")
    # The rest is about paths whose contents no recording has.
    assert compared >= 0.8 * sum(len(conversations()[name].exchanges) for name in names)
