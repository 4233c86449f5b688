"""The store that recordings were made with, as far as their contents tell it."""

from __future__ import annotations

import io
from collections.abc import Iterator
from functools import cache

from eka_runtime.daemon.protocol import VALID_PATH_INFO, Op
from eka_runtime.daemon.wire import Values
from eka_runtime.nix.nar import NarReader
from tests.unit.daemon.client import Client
from tests.unit.daemon.recorded import Conversation, Exchange, decode, recordings
from tests.unit.nix.trees import File, to_nar

_FLAGS = {"repair": False, "dontCheckSigs": True}


@cache
def conversations() -> dict[str, Conversation]:
    return {name: decode(sides) for name, sides in recordings().items()}


@cache
def contents() -> dict[str, bytes]:
    """NARs by path, of all recordings."""
    found: dict[str, bytes] = {}
    for conversation in conversations().values():
        for one in conversation.exchanges:
            found.update(brought(one))
    return found


def brought(one: Exchange) -> Iterator[tuple[str, bytes]]:
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
def infos() -> dict[str, Values]:
    found = {}
    for conversation in conversations().values():
        for one in conversation.exchanges:
            if one.op is Op.QueryPathInfo and one.reply and one.reply["info"]:
                found[one.request["path"]] = {"path": one.request["path"], **one.reply["info"]}
            elif one.op is Op.AddToStore and one.reply:
                found[one.reply["info"]["path"]] = one.reply["info"]
            elif one.op is Op.AddToStoreNar:
                found[one.request["info"]["path"]] = one.request["info"]
    return found


def seed(client: Client, path: str, done: set[str]) -> bool:
    """Whether the path could be added, with all that it needs."""
    if path in done:
        return True
    info, nar = infos().get(path), contents().get(path)
    if info is None or nar is None or len(nar) != info["narSize"]:
        return False
    others = [other for other in info["references"] if other != path]
    if not all(seed(client, other, done) for other in others):
        return False
    client.ask(Op.AddToStoreNar, {"info": info, **_FLAGS}, nar)
    done.add(path)
    return True
