"""The Nix worker protocol: operations, their requests and replies, and what is said meanwhile.

Tables only: each operation's fields, with the versions that have them, and in which way data
follows. Versions are minor numbers of major version 1. Announced is 1.37: from 1.38 on features are
negotiated, of which none is needed.

Source: Nix's `worker-protocol.cc` and `daemon.cc`, releases 2.3 (1.21) to current.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

from eka_runtime.daemon.wire import (
    BOOL,
    NUMBER,
    TEXT,
    Codec,
    Field,
    Fields,
    mapping,
    optional,
    record,
    sequence,
    write_fields,
)
from eka_runtime.nix.tokens import NarReader, u64

CLIENT_MAGIC = 0x6E697863
SERVER_MAGIC = 0x6478696F
MAJOR = 1
MINOR = 37
OLDEST = 21
"""Nix 2.3; older clients are refused."""


class Op(IntEnum):
    IsValidPath = 1
    HasSubstitutes = 3
    QueryPathHash = 4
    QueryReferences = 5
    QueryReferrers = 6
    AddToStore = 7
    AddTextToStore = 8
    BuildPaths = 9
    EnsurePath = 10
    AddTempRoot = 11
    AddIndirectRoot = 12
    SyncWithGC = 13
    FindRoots = 14
    QueryDeriver = 18
    SetOptions = 19
    CollectGarbage = 20
    QuerySubstitutablePathInfo = 21
    QueryDerivationOutputs = 22
    QueryAllValidPaths = 23
    QueryPathInfo = 26
    QueryDerivationOutputNames = 28
    QueryPathFromHashPart = 29
    QuerySubstitutablePathInfos = 30
    QueryValidPaths = 31
    QuerySubstitutablePaths = 32
    QueryValidDerivers = 33
    OptimiseStore = 34
    VerifyStore = 35
    BuildDerivation = 36
    AddSignatures = 37
    NarFromPath = 38
    AddToStoreNar = 39
    QueryMissing = 40
    QueryDerivationOutputMap = 41
    RegisterDrvOutput = 42
    QueryRealisation = 43
    AddMultipleToStore = 44
    AddBuildLog = 45
    BuildPathsWithResults = 46
    AddPermRoot = 47


class Message(IntEnum):
    """What a server says before it answers."""

    LAST = 0x616C7473
    ERROR = 0x63787470
    NEXT = 0x6F6C6D67
    READ = 0x64617461
    WRITE = 0x64617416
    START_ACTIVITY = 0x53545254
    STOP_ACTIVITY = 0x53544F50
    RESULT = 0x52534C54


class Payload(IntEnum):
    """The data behind a request or a reply."""

    NONE = 0
    FRAMED = 1
    NAR = 2  # as it is, its end is its own
    ASKED = 3  # in pieces that the server asks for (Message.READ)


class Status(IntEnum):
    """Of a build."""

    Built = 0
    Substituted = 1
    AlreadyValid = 2
    PermanentFailure = 3
    InputRejected = 4
    OutputRejected = 5
    TransientFailure = 6
    CachedFailure = 7
    TimedOut = 8
    MiscFailure = 9
    DependencyFailed = 10
    LogLimitExceeded = 11
    NotDeterministic = 12
    ResolvesToAlreadyValid = 13
    NoSubstituters = 14


TEXTS = sequence(TEXT)

_INFO: Fields = (
    Field("deriver", TEXT),
    Field("narHash", TEXT),
    Field("references", TEXTS),
    Field("registrationTime", NUMBER),
    Field("narSize", NUMBER),
    Field("ultimate", BOOL, since=16),
    Field("sigs", TEXTS, since=16),
    Field("ca", TEXT, since=16),
)
UNKEYED_INFO = record(*_INFO)
VALID_PATH_INFO = record(Field("path", TEXT), *_INFO)
SUBSTITUTABLE = record(
    Field("deriver", TEXT),
    Field("references", TEXTS),
    Field("downloadSize", NUMBER),
    Field("narSize", NUMBER),
)
# microseconds
_CPU_TIME = optional(NUMBER)
BUILD_RESULT = record(
    Field("status", NUMBER),
    Field("errorMsg", TEXT),
    Field("timesBuilt", NUMBER, since=29),
    Field("isNonDeterministic", BOOL, since=29),
    Field("startTime", NUMBER, since=29),
    Field("stopTime", NUMBER, since=29),
    Field("cpuUser", _CPU_TIME, since=37),
    Field("cpuSystem", _CPU_TIME, since=37),
    Field("builtOutputs", mapping(TEXT, TEXT), since=28),
)
KEYED_BUILD_RESULT = record(Field("path", TEXT), Field("result", BUILD_RESULT))
BASIC_DERIVATION = record(
    Field(
        "outputs",
        mapping(TEXT, record(Field("path", TEXT), Field("methodAlgo", TEXT), Field("hash", TEXT))),
    ),
    Field("inputSrcs", TEXTS),
    Field("platform", TEXT),
    Field("builder", TEXT),
    Field("args", TEXTS),
    Field("env", mapping(TEXT, TEXT)),
)


def _read_field(source: NarReader, version: int) -> int | str:
    return (TEXT if NUMBER.read(source, version) else NUMBER).read(source, version)


def _write_field(value: Any, version: int) -> bytes:
    if isinstance(value, str):
        return u64(1) + TEXT.write(value, version)
    return u64(0) + u64(value)


_ACTIVITY_FIELDS = sequence(Codec[Any](_read_field, _write_field))
_PATH: Fields = (Field("path", TEXT),)
_PATHS: Fields = (Field("paths", TEXTS),)
_NOTHING: Fields = ()
_ONE: Fields = (Field("one", NUMBER),)
_TARGETS: Fields = (Field("targets", TEXTS), Field("mode", NUMBER))
_FLAGS: Fields = (Field("repair", BOOL), Field("dontCheckSigs", BOOL))

OPTIONS = (
    "keepFailed",
    "keepGoing",
    "tryFallback",
    "verbosity",
    "maxBuildJobs",
    "maxSilentTime",
    "useBuildHook",
    "verboseBuild",
    "logType",
    "printBuildTrace",
    "buildCores",
    "useSubstitutes",
)

REQUESTS: dict[Op, Fields] = {
    Op.IsValidPath: _PATH,
    Op.HasSubstitutes: _PATH,
    Op.QueryPathHash: _PATH,
    Op.QueryReferences: _PATH,
    Op.QueryReferrers: _PATH,
    Op.AddToStore: (
        Field("name", TEXT),
        Field("method", TEXT, since=25),
        Field("references", TEXTS, since=25),
        Field("repair", BOOL, since=25),
        Field("fixed", BOOL, until=25),
        Field("recursive", NUMBER, until=25),
        Field("algo", TEXT, until=25),
    ),
    Op.AddTextToStore: (Field("name", TEXT), Field("text", TEXT), Field("references", TEXTS)),
    Op.BuildPaths: _TARGETS,
    Op.EnsurePath: _PATH,
    Op.AddTempRoot: _PATH,
    Op.AddIndirectRoot: (Field("link", TEXT),),
    Op.SyncWithGC: _NOTHING,
    Op.FindRoots: _NOTHING,
    Op.QueryDeriver: _PATH,
    Op.SetOptions: (
        *(Field(name, NUMBER) for name in OPTIONS),
        Field("overrides", mapping(TEXT, TEXT)),
    ),
    Op.CollectGarbage: (
        Field("action", NUMBER),
        Field("paths", TEXTS),
        Field("ignoreLiveness", BOOL),
        Field("maxFreed", NUMBER),
        *(Field(f"obsolete{number}", NUMBER) for number in range(3)),
    ),
    Op.QuerySubstitutablePathInfo: _PATH,
    Op.QueryDerivationOutputs: _PATH,
    Op.QueryAllValidPaths: _NOTHING,
    Op.QueryPathInfo: _PATH,
    Op.QueryDerivationOutputNames: _PATH,
    Op.QueryPathFromHashPart: (Field("part", TEXT),),
    Op.QuerySubstitutablePathInfos: (
        Field("paths", TEXTS, until=22),
        Field("addresses", mapping(TEXT, TEXT), since=22),
    ),
    Op.QueryValidPaths: (*_PATHS, Field("substitute", BOOL, since=27)),
    Op.QuerySubstitutablePaths: _PATHS,
    Op.QueryValidDerivers: _PATH,
    Op.OptimiseStore: _NOTHING,
    Op.VerifyStore: (Field("checkContents", BOOL), Field("repair", BOOL)),
    Op.BuildDerivation: (*_PATH, Field("derivation", BASIC_DERIVATION), Field("mode", NUMBER)),
    Op.AddSignatures: (*_PATH, Field("sigs", TEXTS)),
    Op.NarFromPath: _PATH,
    Op.AddToStoreNar: (Field("info", VALID_PATH_INFO), *_FLAGS),
    Op.QueryMissing: (Field("targets", TEXTS),),
    Op.QueryDerivationOutputMap: _PATH,
    Op.RegisterDrvOutput: (
        Field("realisation", TEXT, since=31),
        Field("id", TEXT, until=31),
        Field("path", TEXT, until=31),
    ),
    Op.QueryRealisation: (Field("id", TEXT),),
    Op.AddMultipleToStore: _FLAGS,
    Op.AddBuildLog: (Field("name", TEXT),),
    Op.BuildPathsWithResults: _TARGETS,
    Op.AddPermRoot: (*_PATH, Field("link", TEXT)),
}

REPLIES: dict[Op, Fields] = {
    Op.IsValidPath: (Field("valid", BOOL),),
    Op.HasSubstitutes: (Field("has", BOOL),),
    Op.QueryPathHash: (Field("hash", TEXT),),
    Op.QueryReferences: _PATHS,
    Op.QueryReferrers: _PATHS,
    Op.AddToStore: (
        Field("info", VALID_PATH_INFO, since=25),
        Field("path", TEXT, until=25),
    ),
    Op.AddTextToStore: _PATH,
    Op.BuildPaths: _ONE,
    Op.EnsurePath: _ONE,
    Op.AddTempRoot: _ONE,
    Op.AddIndirectRoot: _ONE,
    Op.SyncWithGC: _ONE,
    Op.FindRoots: (Field("roots", mapping(TEXT, TEXT)),),
    Op.QueryDeriver: _PATH,
    Op.SetOptions: _NOTHING,
    Op.CollectGarbage: (*_PATHS, Field("freed", NUMBER), Field("obsolete", NUMBER)),
    Op.QuerySubstitutablePathInfo: (Field("info", optional(SUBSTITUTABLE)),),
    Op.QueryDerivationOutputs: _PATHS,
    Op.QueryAllValidPaths: _PATHS,
    Op.QueryPathInfo: (Field("info", optional(UNKEYED_INFO)),),
    Op.QueryDerivationOutputNames: (Field("names", TEXTS),),
    Op.QueryPathFromHashPart: _PATH,
    Op.QuerySubstitutablePathInfos: (Field("infos", mapping(TEXT, SUBSTITUTABLE)),),
    Op.QueryValidPaths: _PATHS,
    Op.QuerySubstitutablePaths: _PATHS,
    Op.QueryValidDerivers: _PATHS,
    Op.OptimiseStore: _ONE,
    Op.VerifyStore: (Field("errors", BOOL),),
    Op.BuildDerivation: (Field("result", BUILD_RESULT),),
    Op.AddSignatures: _ONE,
    Op.NarFromPath: _NOTHING,
    Op.AddToStoreNar: _NOTHING,
    Op.QueryMissing: (
        Field("willBuild", TEXTS),
        Field("willSubstitute", TEXTS),
        Field("unknown", TEXTS),
        Field("downloadSize", NUMBER),
        Field("narSize", NUMBER),
    ),
    Op.QueryDerivationOutputMap: (Field("outputs", mapping(TEXT, TEXT)),),
    Op.RegisterDrvOutput: _NOTHING,
    Op.QueryRealisation: (Field("realisations", TEXTS),),
    Op.AddMultipleToStore: _NOTHING,
    Op.AddBuildLog: _ONE,
    Op.BuildPathsWithResults: (Field("results", sequence(KEYED_BUILD_RESULT)),),
    Op.AddPermRoot: (Field("link", TEXT),),
}


def payload(op: Op, version: int) -> Payload:
    """What follows a request."""
    if op in (Op.AddMultipleToStore, Op.AddBuildLog):
        return Payload.FRAMED
    if op is Op.AddToStore:
        return Payload.FRAMED if version >= 25 else Payload.NAR
    if op is Op.AddToStoreNar:
        return Payload.FRAMED if version >= 23 else Payload.ASKED
    return Payload.NONE


_TRACE = record(Field("position", NUMBER), Field("hint", TEXT))

MESSAGES: dict[Message, Fields] = {
    Message.LAST: (),
    Message.ERROR: (
        Field("type", TEXT, since=26),
        Field("level", NUMBER, since=26),
        Field("name", TEXT, since=26),
        Field("message", TEXT),
        Field("position", NUMBER, since=26),
        Field("traces", sequence(_TRACE), since=26),
        Field("status", NUMBER, until=26),
    ),
    Message.NEXT: (Field("text", TEXT),),
    Message.READ: (Field("size", NUMBER),),
    Message.WRITE: (Field("data", TEXT),),
    Message.START_ACTIVITY: (
        Field("id", NUMBER),
        Field("level", NUMBER),
        Field("type", NUMBER),
        Field("text", TEXT),
        Field("fields", _ACTIVITY_FIELDS),
        Field("parent", NUMBER),
    ),
    Message.STOP_ACTIVITY: (Field("id", NUMBER),),
    Message.RESULT: (
        Field("id", NUMBER),
        Field("type", NUMBER),
        Field("fields", _ACTIVITY_FIELDS),
    ),
}


def error_message(text: str, version: int) -> bytes:
    """A whole STDERR_ERROR; the client puts `error:` in front itself."""
    values = {"type": "Error", "level": 0, "name": "Error", "message": text, "position": 0}
    values |= {"traces": [], "status": 1}
    return u64(Message.ERROR) + write_fields(MESSAGES[Message.ERROR], values, version)
