"""Every operation, as every version of the protocol has it."""

from __future__ import annotations

import hashlib
import socket
from pathlib import Path

import pytest

from eka_runtime.daemon.protocol import CLIENT_MAGIC, MINOR, OLDEST, REQUESTS, Message, Op
from eka_runtime.daemon.session import HANDLERS
from eka_runtime.nix.path import StorePath, fixed_path, source_path, text_path
from eka_runtime.nix.tokens import u64
from tests.unit.castore.local import temporary
from tests.unit.daemon.client import Client, Refused, served
from tests.unit.nix.trees import COMPLICATED, File, to_nar

_ABSENT = "/nix/store/" + "0" * 32 + "-absent"
_TREE = to_nar(COMPLICATED)
_TREE_HASH = hashlib.sha256(_TREE).digest()
_DRV = 'Derive([("out","%s","","")],[],["%s"],"x86_64-linux","/bin/sh",[],[("out","%s")])'

# Those that changed something.
_VERSIONS = (OLDEST, 22, 23, 25, 26, 28, 30, 31, MINOR)
versions = pytest.mark.parametrize("version", _VERSIONS)


def test_every_operation_has_a_handler() -> None:
    assert set(HANDLERS) == set(Op)


def _add_tree(client: Client, name: str = "tree") -> StorePath:
    path = source_path(name, _TREE_HASH)
    request = {"name": name, "method": "fixed:r:sha256", "references": [], "repair": False}
    request |= {"fixed": False, "recursive": 1, "algo": "sha256"}
    reply = client.ask(Op.AddToStore, request, _TREE)
    assert reply["path" if client.version < 25 else "info"]
    return path


def _add_text(client: Client, name: str, text: str, references: list[str]) -> str:
    if client.version < 25:
        request = {"name": name, "text": text, "references": references}
        return str(client.ask(Op.AddTextToStore, request)["path"])
    request = {"name": name, "method": "text:sha256", "references": references, "repair": False}
    return str(client.ask(Op.AddToStore, request, text.encode())["info"]["path"])


@versions
def test_adding_and_asking(place: Path, version: int) -> None:
    with Client(place, version) as client:
        tree = str(_add_tree(client))
        text = _add_text(client, "text", "hello", [tree])
        assert text == str(
            text_path("text", hashlib.sha256(b"hello").digest(), [StorePath.parse(tree)])
        )
        assert client.ask(Op.IsValidPath, {"path": tree}) == {"valid": True}
        assert client.ask(Op.IsValidPath, {"path": _ABSENT}) == {"valid": False}
        found = client.ask(Op.QueryPathInfo, {"path": text})["info"]
        assert (found["references"], found["ca"][:12]) == ([tree], "text:sha256:")
        assert client.ask(Op.QueryPathInfo, {"path": _ABSENT}) == {"info": None}
        assert client.ask(Op.QueryPathHash, {"path": tree}) == {"hash": _TREE_HASH.hex()}
        assert client.ask(Op.QueryReferences, {"path": text}) == {"paths": [tree]}
        assert client.ask(Op.QueryReferrers, {"path": tree}) == {"paths": [text]}
        assert client.ask(Op.QueryDeriver, {"path": tree}) == {"path": ""}
        assert client.ask(Op.QueryValidDerivers, {"path": tree}) == {"paths": []}
        assert client.ask(Op.QueryAllValidPaths) == {"paths": sorted([tree, text])}
        asked = {"paths": [tree, _ABSENT], "substitute": False}
        assert client.ask(Op.QueryValidPaths, asked) == {"paths": [tree]}
        part = StorePath.parse(tree).hash
        assert client.ask(Op.QueryPathFromHashPart, {"part": part}) == {"path": tree}
        assert client.ask(Op.QueryPathFromHashPart, {"part": "0" * 32}) == {"path": ""}
        client.ask(Op.NarFromPath, {"path": tree})
        client.source.expect(len(_TREE))
        assert b"".join(iter(lambda: client.source.contents(64), b"")) == _TREE
        assert client.ask(Op.IsValidPath, {"path": tree}) == {"valid": True}


@versions
def test_flat_contents(place: Path, version: int) -> None:
    contents = b"flat" * 100
    nar = to_nar(File(contents))
    request = {"name": "flat", "references": [], "repair": False}
    request |= {"fixed": True, "recursive": 0}
    with Client(place, version) as client:
        for algo in ("md5", "sha1", "sha256", "sha512"):
            more = {"method": f"fixed:{algo}", "algo": algo}
            reply = client.ask(Op.AddToStore, request | more, nar if version < 25 else contents)
            digest = hashlib.new(algo, contents).digest()
            path = str(fixed_path("flat", algo, digest, False))
            assert (reply["path"] if version < 25 else reply["info"]["path"]) == path
        if version < 25:
            program = to_nar(File(b"x", executable=True))
            with pytest.raises(Refused, match="only a file that is not executable"):
                client.ask(Op.AddToStore, request | {"algo": "sha256"}, program)
        assert client.ask(Op.IsValidPath, {"path": path}) == {"valid": True}


def _stated(path: StorePath, nar: bytes, **more: object) -> dict[str, object]:
    return {
        "path": str(path),
        "deriver": "",
        "narHash": hashlib.sha256(nar).hexdigest(),
        "references": [],
        "registrationTime": 0,
        "narSize": len(nar),
        "ultimate": True,
        "sigs": ["key:c2ln"],
        "ca": "",
        **more,
    }


@versions
def test_adding_nars(place: Path, version: int) -> None:
    path = StorePath.parse("/nix/store/" + "1" * 32 + "-nar")
    flags = {"repair": False, "dontCheckSigs": True}
    with Client(place, version) as client:
        assert client.ask(Op.AddToStoreNar, {"info": _stated(path, _TREE), **flags}, _TREE) == {}
        found = client.ask(Op.QueryPathInfo, {"path": str(path)})["info"]
        assert (found["narHash"], found["sigs"]) == (_TREE_HASH.hex(), ["key:c2ln"])
        other = StorePath.parse("/nix/store/" + "2" * 32 + "-nar")
        wrong = _stated(other, _TREE, narHash="0" * 64)
        with pytest.raises(Refused, match="hash mismatch"):
            client.ask(Op.AddToStoreNar, {"info": wrong, **flags}, _TREE)
        assert client.ask(Op.IsValidPath, {"path": str(other)}) == {"valid": False}


@versions
def test_the_rest(place: Path, store_dir: Path, tmp_path: Path, version: int) -> None:
    with Client(place, version) as client:
        tree = str(_add_tree(client))
        options = dict.fromkeys((field.name for field in REQUESTS[Op.SetOptions]), 0)
        assert client.ask(Op.SetOptions, options | {"overrides": {"a": "b"}}) == {}
        one = {"one": 1}
        for op in (Op.EnsurePath, Op.AddTempRoot):
            assert client.ask(op, {"path": tree}) == one
        assert client.ask(Op.AddTempRoot, {"path": _ABSENT}) == one
        with pytest.raises(Refused, match="is not valid"):
            client.ask(Op.EnsurePath, {"path": _ABSENT})
        assert client.ask(Op.OptimiseStore) == one
        assert client.ask(Op.SyncWithGC) == one
        assert client.ask(Op.HasSubstitutes, {"path": tree}) == {"has": False}
        assert client.ask(Op.QuerySubstitutablePaths, {"paths": [tree]}) == {"paths": []}
        assert client.ask(Op.QuerySubstitutablePathInfo, {"path": tree}) == {"info": None}
        infos = {"paths": [tree], "addresses": {tree: ""}}
        assert client.ask(Op.QuerySubstitutablePathInfos, infos) == {"infos": {}}
        check = {"checkContents": True, "repair": False}
        assert client.ask(Op.VerifyStore, check) == {"errors": False}
        link = str(tmp_path / "link")
        assert client.ask(Op.AddPermRoot, {"path": tree, "link": link}) == {"link": link}
        assert client.ask(Op.FindRoots) == {"roots": {link: tree}}
        assert client.ask(Op.AddSignatures, {"path": tree, "sigs": ["k:YQ=="]}) == one
        assert client.ask(Op.QueryPathInfo, {"path": tree})["info"]["sigs"] == ["k:YQ=="]
        missing = client.ask(Op.QueryMissing, {"targets": [tree, _ABSENT]})
        assert (missing["willBuild"], missing["unknown"]) == ([], [_ABSENT])
        targets = {"targets": [tree], "mode": 0}
        assert client.ask(Op.BuildPaths, targets) == one
        results = client.ask(Op.BuildPathsWithResults, targets)["results"]
        assert [one["result"]["status"] for one in results] == [2]
        with pytest.raises(Refused, match="is not valid"):
            client.ask(Op.BuildPaths, {"targets": [_ABSENT], "mode": 0})


@versions
def test_derivations(place: Path, version: int) -> None:
    with Client(place, version) as client:
        tree = str(_add_tree(client))
        out = str(_add_tree(client, "out-of-it"))
        text = _DRV % (out, tree, out)
        drv = _add_text(client, "out-of-it.drv", text, [tree])
        assert client.ask(Op.QueryDerivationOutputs, {"path": drv}) == {"paths": [out]}
        assert client.ask(Op.QueryDerivationOutputNames, {"path": drv}) == {"names": ["out"]}
        assert client.ask(Op.QueryDerivationOutputMap, {"path": drv}) == {"outputs": {"out": out}}
        assert client.ask(Op.QueryRealisation, {"id": f"sha256:{'0' * 64}!out"}) == {
            "realisations": []
        }
        # This server was made without a workbench; clients that build: tests/cli.
        with pytest.raises(Refused, match="nothing is built here"):
            client.ask(Op.BuildPaths, {"targets": [f"{drv}!out"], "mode": 0})


def test_many_paths_in_one_frame(place: Path) -> None:
    from eka_runtime.daemon.protocol import VALID_PATH_INFO

    infos = [_stated(StorePath.parse(f"/nix/store/{str(n) * 32}-n"), _TREE) for n in range(4)]
    infos[1]["references"] = [infos[0]["path"]]
    stream = u64(4) + b"".join(VALID_PATH_INFO.write(one, 37) + _TREE for one in infos)
    flags = {"repair": False, "dontCheckSigs": True}
    with Client(place) as client:
        assert client.ask(Op.AddMultipleToStore, flags, stream) == {}
        assert len(client.ask(Op.QueryAllValidPaths)["paths"]) == 4
        for bad in (stream + b"more", stream[:-8]):
            with pytest.raises(Refused):
                client.ask(Op.AddMultipleToStore, flags, bad)
        assert client.ask(Op.IsValidPath, {"path": str(infos[3]["path"])}) == {"valid": True}


def test_an_unknown_operation_is_an_error_and_no_end(place: Path) -> None:
    with Client(place) as client:
        client.send(u64(1000) + b"whatever it has")
        with pytest.raises(Refused, match="operation 1000"):
            client.answer()
        assert client.ask(Op.IsValidPath, {"path": _ABSENT}) == {"valid": False}


def test_temporary_roots_die_with_their_connection(place: Path) -> None:
    collect = {"action": 2, "paths": [], "ignoreLiveness": False, "maxFreed": 1 << 63}
    collect |= {f"obsolete{number}": 0 for number in range(3)}
    with Client(place) as other:
        with Client(place) as client:
            tree = str(_add_tree(client))
            client.ask(Op.AddTempRoot, {"path": tree})
            assert other.ask(Op.CollectGarbage, collect)["paths"] == []
        while True:
            # The server notices the end of a connection in its own time.
            gone = other.ask(Op.CollectGarbage, collect)["paths"]
            if gone:
                break
        assert gone == [tree]


def test_old_clients_are_told(store_dir: Path) -> None:
    reports: list[str] = []
    with (
        temporary() as directory,
        served(store_dir, directory / "s", reports=reports) as place,
        socket.socket(socket.AF_UNIX) as connection,
    ):
        connection.connect(bytes(place))
        connection.sendall(u64(CLIENT_MAGIC) + u64(0x100 | 20))
        answer = b"".join(iter(lambda: connection.recv(4096), b""))
    assert u64(Message.ERROR) in answer
    assert b"clients of protocol 1.20 are not served" in answer
    assert "clients of protocol 1.20 are not served" in reports[0]
