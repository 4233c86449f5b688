"""One executable file with a program and all it needs, for hosts that have crun or runc only.

    a shell script (`stub/single-file`), padded to a multiple of 512 bytes
    a tar archive, compressed by gzip: rootfs/, config.template, escape.sed

Self-extracting, and not a file system image: a squashfs cannot be mounted in a user namespace, so
it would need squashfuse and /dev/fuse on every host, and a process and a mount for each start.
`tests/bench/bench_export.py` has the figures. What is unpacked stays in a cache, so that from the
second start on there is only the runtime to wait for.
"""

from __future__ import annotations

import json
import shlex
import zlib
from importlib import resources
from typing import Any, BinaryIO

from eka.config import Settings
from eka.exporting import Export
from eka.fetching import Reach
from eka.prepare import prepare
from eka_runtime.oci.bundle import Caller
from eka_runtime.oci.image import ImageSpec, write_whole
from eka_runtime.oci.image_tar import TarWriter, Write
from eka_runtime.oci.image_write import GZIP_LEVEL, Blob, hashed, write_all
from eka_runtime.store.store import Store

# No ids of anybody's; they are looked for in the text of config.json, and replaced at each start.
_UID, _GID = 4_294_967_001, 4_294_967_002
_BLOCK = 512


def template(export: Export, settings: Settings, reach: Reach) -> str:
    """config.json with a line `@NAME@` for each part that only a start knows."""
    wanted = export.wanted._replace(script=None, arguments=(), read=(), write=(), devices=())
    if export.file and wanted.program:
        wanted = wanted._replace(program=wanted.program._replace(file=export.file.place))
    caller = Caller(_UID, _GID, "root", "root", "/root")
    prepared = prepare(wanted, settings, reach, True, contained=True, caller=caller)
    spec = prepared.bundle.spec.to_data()
    process = spec["process"]
    process["args"] = _Open([*export.words], "@ARGS@") if export.words else [_Part("@COMMAND@")]
    process["cwd"] = _Part("@CWD@")
    process["env"] = _Open(process["env"], "@ENV@")
    process["terminal"] = _Part("@TERMINAL@")
    spec["mounts"] = _Open(spec["mounts"], "@BINDS@")
    spec["root"]["path"] = _Part("@ROOT@")
    for kind, number, part in (("uid", _UID, "@UID@"), ("gid", _GID, "@GID@")):
        for mapping in spec["linux"][f"{kind}Mappings"]:
            assert mapping["hostID"] == number
            mapping["hostID"] = _Part(part)
    return _render(spec) + "\n"


class _Part(str):
    """A line of the template."""


class _Open(list[Any]):
    """A list that a start may add to."""

    def __init__(self, items: list[Any], part: str) -> None:
        super().__init__(items)
        self.part = part


def _render(value: Any) -> str:
    if isinstance(value, _Part):
        return f"\n{value}\n"
    if isinstance(value, dict):
        items = (f"{json.dumps(key)}:{_render(item)}" for key, item in sorted(value.items()))
        return "{" + ",".join(items) + "}"
    if isinstance(value, list | tuple):
        rendered = ",".join(_render(item) for item in value)
        return f"[{rendered}\n{value.part}\n]" if isinstance(value, _Open) else f"[{rendered}]"
    return json.dumps(value, ensure_ascii=False)


def escape_script() -> bytes:
    """For sed: makes a text the inside of a JSON string. Control characters are bytes in it."""
    lines = [b":a", b"$!{", b"N", b"ba", b"}", rb"s/\\/\\\\/g", rb's/"/\\"/g', rb"s/\n/\\n/g"]
    lines += [
        b"s/%c/\\\\u%04x/g" % (number, number) for number in (*range(1, 10), *range(11, 32), 127)
    ]
    return b"\n".join(lines) + b"\n"


def write_single_file(
    store: Store, export: Export, image: ImageSpec, config: str, stream: BinaryIO
) -> Blob:
    """Returns digest and size of the payload, uncompressed. Rendered twice: the script names it."""

    def produce(write: Write) -> None:
        tar = TarWriter(write)
        tar.file(b"config.template", 0o444, config.encode())
        tar.file(b"escape.sed", 0o444, escape_script())
        tar.directory(b"rootfs")
        write_whole(tar, store, image, b"rootfs/")
        tar.end()

    blob = hashed(produce, lambda data: None)
    write_all(stream, _stub(export, blob))
    engine = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    hashed(produce, lambda data: write_all(stream, engine.compress(data)))
    write_all(stream, engine.flush())
    return blob


def _stub(export: Export, blob: Blob) -> bytes:
    text = resources.files("eka").joinpath("stub", "single-file").read_text()
    values = {
        "@NAME@": f"{export.name} {export.version}",
        "@DIGEST@": blob.hex,
        "@PASSED@": " ".join(export.asked.get("env", ())),
        "@DEFAULTS@": shlex.join(export.arguments),
    }
    for name, value in values.items():
        text = text.replace(name, value)
    # Where the archive begins depends on how many digits that number has, so there is room for ten.
    length = len(text.encode()) - len("@SKIP@") + 10
    padded = length + -length % _BLOCK
    data = text.replace("@SKIP@", f"{padded + 1:010}").encode()
    return data.ljust(padded, b"\n")
