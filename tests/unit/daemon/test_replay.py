"""What real clients asked real daemons, asked of our server: the answers are equal in meaning.

A recording has no store, but most of what was in it: whatever some client added or read. Those
paths that a daemon's answers show to have been there are added first; exchanges about others, whose
contents nobody recorded, are left out, and so are those that change more than they add.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from functools import cache

import pytest

from eka_runtime.daemon.protocol import VALID_PATH_INFO, Op
from eka_runtime.daemon.wire import Values
from eka_runtime.nix.nar import NarReader
from tests.stores import assert_clean
from tests.unit.castore.local import temporary
from tests.unit.daemon.client import Client, Refused, served
from tests.unit.daemon.recorded import Conversation, Exchange, decode, recordings
from tests.unit.nix.trees import File, to_nar

_LEFT_OUT = (
    Op.AddIndirectRoot,
    Op.BuildPaths,
    Op.BuildPathsWithResults,
    Op.CollectGarbage,
    Op.QueryMissing,
)
_NEEDING = (
    Op.AddTempRoot,
    Op.EnsurePath,
    Op.NarFromPath,
    Op.QueryDerivationOutputMap,
    Op.QueryValidDerivers,
)
_FLAGS = {"repair": False, "dontCheckSigs": True}
# What a path is; the rest depends on when, and by whom.
_MEANING = ("narHash", "narSize", "references", "ca")


@cache
def _conversations() -> dict[str, Conversation]:
    return {name: decode(sides) for name, sides in recordings().items()}


@cache
def _contents() -> dict[str, bytes]:
    """NARs by path, of all recordings."""
    found: dict[str, bytes] = {}
    for conversation in _conversations().values():
        for one in conversation.exchanges:
            found.update(_brought(one))
    return found


def _brought(one: Exchange) -> Iterator[tuple[str, bytes]]:
    if one.op is Op.NarFromPath:
        yield one.request["path"], one.nar
    elif one.op is Op.AddToStoreNar:
        yield one.request["info"]["path"], one.data
    elif one.op is Op.AddToStore and one.reply:
        nar = ":r:" in one.request["method"]
        yield one.reply["info"]["path"], one.data if nar else to_nar(File(one.data))
    elif one.op is Op.AddMultipleToStore:
        reader = NarReader(io.BytesIO(one.data).read)
        for _ in range(reader.u64("count")):
            info = VALID_PATH_INFO.read(reader, 16)
            reader.expect(info["narSize"])
            yield info["path"], b"".join(iter(lambda: reader.contents(1 << 20), b""))


@cache
def _infos() -> dict[str, Values]:
    found = {}
    for conversation in _conversations().values():
        for one in conversation.exchanges:
            if one.op is Op.QueryPathInfo and one.reply and one.reply["info"]:
                found[one.request["path"]] = {"path": one.request["path"], **one.reply["info"]}
            elif one.op is Op.AddToStore and one.reply:
                found[one.reply["info"]["path"]] = one.reply["info"]
            elif one.op is Op.AddToStoreNar:
                found[one.request["info"]["path"]] = one.request["info"]
    return found


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


def _seed(client: Client, path: str, done: set[str]) -> bool:
    """Whether the path could be added, with all that it needs."""
    if path in done:
        return True
    info, nar = _infos().get(path), _contents().get(path)
    if info is None or nar is None or len(nar) != info["narSize"]:
        return False
    others = [other for other in info["references"] if other != path]
    if not all(_seed(client, other, done) for other in others):
        return False
    client.ask(Op.AddToStoreNar, {"info": info, **_FLAGS}, nar)
    done.add(path)
    return True


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
    return reply == expected


def _replay(client: Client, conversation: Conversation) -> int:
    """The number of exchanges that were compared."""
    adding = [one for one in conversation.exchanges if one.op is not Op.NarFromPath]
    added = {path for one in adding for path, _ in _brought(one)}
    there = {path for one in conversation.exchanges for path in _there(one)}
    # What was built meanwhile was there only afterwards.
    built = {path for path in there for one in conversation.exchanges if _denies(one, path)} - added
    done: set[str] = set()
    lost = [path for path in sorted(there - added - built) if not _seed(client, path, done)]
    lost += built
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
            assert _is_same(one, reply, client), (one, reply)
        compared += 1
    return compared


@pytest.mark.parametrize("folder", ["c2.8-d2.8", "c2.26-d2.26", "ssh-2.8", "ssh-2.26"])
def test_answers_are_those_of_nix(folder: str) -> None:
    names = [name for name in _conversations() if name.startswith(f"{folder}/")]
    compared = 0
    for name in names:
        conversation = _conversations()[name]
        with temporary() as place:
            with (
                served(place / "store", place / "socket") as socket,
                Client(socket, min(conversation.version, 37)) as client,
            ):
                compared += _replay(client, conversation)
            assert_clean(place / "store")
    assert compared >= len(names) * 2
