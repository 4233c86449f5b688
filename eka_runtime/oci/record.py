"""`eka.json`, the file beside config.json: reasons, the list of the rootfs, variables to pass on.

A runtime does not read it. It lets `eka explain DIR` and `eka bundle diff A B` say more than
config.json can, and it is optional: bundles of other origin have none. Deterministic like the rest.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import blake3

from eka_runtime.errors import SpecError
from eka_runtime.oci.explain import Reason, reasons_of_spec
from eka_runtime.oci.profile import Passed
from eka_runtime.oci.rootfs import RootfsEntry
from eka_runtime.oci.spec import MAX_SIZE, load_spec
from eka_runtime.oci.spec_base import InvalidSpec, Model, canonical_json

RECORD = "eka.json"


class EntryRecord(Model):
    path: str
    kind: Literal["directory", "file", "symlink", "host"]
    mode: int
    text: str = ""
    digest: str = ""


class ReasonRecord(Model):
    kind: str
    subject: str
    origin: str
    detail: str


class PassedRecord(Model):
    name: str
    terminal_only: bool
    origin: str


class BundleRecord(Model):
    """`version` is 1; a reader refuses others."""

    version: Literal[1]
    digest: str
    rootfs: tuple[EntryRecord, ...]
    reasons: tuple[ReasonRecord, ...]
    passed: tuple[PassedRecord, ...]

    def to_json(self) -> bytes:
        return canonical_json(self.to_data())

    def entries(self) -> tuple[RootfsEntry, ...]:
        return tuple(
            RootfsEntry(entry.path, entry.kind, entry.mode, entry.text, entry.digest)
            for entry in self.rootfs
        )


def make_record(
    digest: str,
    rootfs: Iterable[RootfsEntry],
    reasons: Iterable[Reason],
    passed: Iterable[Passed],
) -> BundleRecord:
    return BundleRecord(
        version=1,
        digest=digest,
        rootfs=tuple(EntryRecord(**entry._asdict()) for entry in rootfs),
        reasons=tuple(ReasonRecord(**reason._asdict()) for reason in reasons),
        passed=tuple(PassedRecord(**variable._asdict()) for variable in passed),
    )


def load_record(bundle: Path) -> BundleRecord | None:
    """The record of a bundle directory; None if it has none. Raises SpecError if it is broken."""
    file = bundle / RECORD
    try:
        with file.open("rb") as stream:
            data = stream.read(MAX_SIZE + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise SpecError(f"cannot read `{file}`: {error.strerror}") from error
    if len(data) > MAX_SIZE:
        raise SpecError(f"`{file}` is larger than {MAX_SIZE // 2**20} MiB")
    from eka_runtime.oci.judge import judge

    try:
        return judge(BundleRecord, data)
    except InvalidSpec as error:
        raise SpecError(f"`{file}`: {error.problems[0]}") from None


def load_reasons(place: Path) -> tuple[Reason, ...]:
    """Of a bundle directory or a config.json.

    Where there is no record, or config.json was edited since, the reasons are what it says itself.
    """
    spec, record = load_spec(place), load_record(place)
    if record is None or record.digest != bundle_digest(spec.to_json(), record.entries()):
        return reasons_of_spec(spec)
    return tuple(Reason(one.kind, one.subject, one.origin, one.detail) for one in record.reasons)


def bundle_digest(config: bytes, rootfs: Iterable[RootfsEntry]) -> str:
    """BLAKE3 of what runs: config.json in canonical form and the list of the rootfs."""
    listing = canonical_json([entry._asdict() for entry in rootfs])
    return blake3_text(config + b"\0" + listing)


def blake3_text(data: bytes) -> str:
    return "blake3-" + base64.b64encode(blake3.blake3(data).digest()).decode("ascii")
