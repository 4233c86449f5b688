"""Messages as the protobuf library sees them, made from tables of their fields.

A table has a row for each message: its fields as `name kind [number]`, where a kind is a scalar or
another message, with `*` in front if repeated and `?` if it is the choice of a oneof. Numbers count
from 1 unless stated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    message_factory,
)

_FIELD = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    "bytes": _FIELD.TYPE_BYTES,
    "string": _FIELD.TYPE_STRING,
    "uint64": _FIELD.TYPE_UINT64,
    "bool": _FIELD.TYPE_BOOL,
    "enum": _FIELD.TYPE_INT32,  # the same on the wire
}

Table = Mapping[str, Sequence[str]]

CASTORE = "snix.castore.v1"
CASTORE_MESSAGES: Table = {
    "DirectoryEntry": ["name bytes", "digest bytes", "size uint64"],
    "FileEntry": ["name bytes", "digest bytes", "size uint64", "executable bool"],
    "SymlinkEntry": ["name bytes", "target bytes"],
    "Entry": ["directory ?DirectoryEntry", "file ?FileEntry", "symlink ?SymlinkEntry"],
    "StatBlobRequest": ["digest bytes", "send_chunks bool", "send_bao bool"],
    "ChunkMeta": ["digest bytes", "size uint64"],
    "StatBlobResponse": ["chunks *ChunkMeta 2", "bao bytes 3"],
    "ReadBlobRequest": ["digest bytes"],
    "BlobChunk": ["data bytes"],
    "PutBlobResponse": ["digest bytes"],
    "GetDirectoryRequest": ["digest ?bytes", "recursive bool"],
    "PutDirectoryResponse": ["root_digest bytes"],
}

STORE = "snix.store.v1"
STORE_MESSAGES: Table = {
    "Signature": ["name string", "data bytes"],
    "StorePath": ["name string", "digest bytes"],
    "CA": ["type enum", "digest bytes"],
    "NARInfo": [
        "nar_size uint64",
        "nar_sha256 bytes",
        "signatures *Signature",
        "reference_names *string",
        "deriver StorePath",
        "ca CA",
    ],
    "PathInfo": ["entry .snix.castore.v1.Entry", "references *bytes", "narinfo NARInfo"],
    "GetPathInfoRequest": ["by_output_hash ?bytes"],
    "CalculateNARResponse": ["nar_size uint64", "nar_sha256 bytes"],
}


def _file(package: str, table: Table, imports: Sequence[str] = ()) -> Any:
    file = descriptor_pb2.FileDescriptorProto(
        name=f"{package}.proto", package=package, syntax="proto3", dependency=imports
    )
    for name, fields in table.items():
        message = file.message_type.add(name=name)
        for number, text in enumerate(fields, 1):
            _add_field(message, package, number, text)
    return file


def _add_field(message: Any, package: str, place: int, text: str) -> None:
    label, kind, *number = text.split()
    field = message.field.add(name=label, number=int(number[0]) if number else place)
    field.label = _FIELD.LABEL_REPEATED if kind.startswith("*") else _FIELD.LABEL_OPTIONAL
    if kind.startswith("?"):
        if not message.oneof_decl:
            message.oneof_decl.add(name="choice")
        field.oneof_index = 0
    kind = kind.lstrip("*?")
    if kind in _SCALARS:
        field.type = _SCALARS[kind]
    else:
        field.type = _FIELD.TYPE_MESSAGE
        field.type_name = kind if kind.startswith(".") else f".{package}.{kind}"


_POOL = descriptor_pool.DescriptorPool()
_POOL.Add(_file(CASTORE, CASTORE_MESSAGES))
_POOL.Add(_file(STORE, STORE_MESSAGES, [f"{CASTORE}.proto"]))


def message(name: str, package: str = CASTORE) -> Any:
    """The class of one message."""
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(f"{package}.{name}"))


def wire(found: Any) -> bytes:
    """As Rust and Go write it."""
    data: bytes = found.SerializeToString(deterministic=True)
    return data
