"""The castore messages as the protobuf library sees them, made without a compiler."""

from __future__ import annotations

from typing import Any

from google.protobuf import (  # type: ignore[import-untyped]
    descriptor_pb2,
    descriptor_pool,
    message_factory,
)

_MESSAGES = {
    "DirectoryEntry": [("name", "bytes"), ("digest", "bytes"), ("size", "uint64")],
    "FileEntry": [
        ("name", "bytes"),
        ("digest", "bytes"),
        ("size", "uint64"),
        ("executable", "bool"),
    ],
    "SymlinkEntry": [("name", "bytes"), ("target", "bytes")],
    "Directory": [
        ("directories", "*DirectoryEntry"),
        ("files", "*FileEntry"),
        ("symlinks", "*SymlinkEntry"),
    ],
    "Entry": [("directory", "DirectoryEntry"), ("file", "FileEntry"), ("symlink", "SymlinkEntry")],
}


def _file() -> descriptor_pb2.FileDescriptorProto:
    field = descriptor_pb2.FieldDescriptorProto
    scalars = {"bytes": field.TYPE_BYTES, "uint64": field.TYPE_UINT64, "bool": field.TYPE_BOOL}
    file = descriptor_pb2.FileDescriptorProto(
        name="castore.proto", package="snix.castore.v1", syntax="proto3"
    )
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        if name == "Entry":
            message.oneof_decl.add(name="entry")
        for number, (label, kind) in enumerate(fields, 1):
            added = message.field.add(name=label, number=number, label=field.LABEL_OPTIONAL)
            if kind in scalars:
                added.type = scalars[kind]
                continue
            added.type = field.TYPE_MESSAGE
            added.type_name = f".snix.castore.v1.{kind.lstrip('*')}"
            if kind.startswith("*"):
                added.label = field.LABEL_REPEATED
            else:
                added.oneof_index = 0
    return file


_POOL = descriptor_pool.DescriptorPool()
_POOL.Add(_file())


def _class(name: str) -> Any:
    found = _POOL.FindMessageTypeByName(f"snix.castore.v1.{name}")
    return message_factory.GetMessageClass(found)


Directory = _class("Directory")
Entry = _class("Entry")
