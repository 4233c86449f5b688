"""What the ledger says of a run, and reading it back: see `spec/ledger.md`.

What is known before the program starts goes into the launch (`head`), so that a warm start has only
to add how it ended. Arguments and values of variables are never written: they may be secrets.
Constraint: a ledger may have lines that a full disk cut, and those of other versions; a reader
leaves them out and says how many.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from eka.config import state_dir
from eka_runtime.errors import StoreAccessError
from eka_runtime.oci.bundle import Bundle
from eka_runtime.oci.grants import Grants
from eka_runtime.runtime.host import Host

VERSION = 1
Digest = Annotated[str, Field(pattern=r"^blake3-[A-Za-z0-9+/]{43}=$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, defer_build=True)


class GrantsRecord(_Strict):
    """Paths as they are named inside; of variables the names only."""

    network: bool
    read: tuple[str, ...]
    write: tuple[str, ...]
    env: tuple[str, ...]


class RuntimeRecord(_Strict):
    name: str
    path: str


class RunRecord(_Strict):
    """One line of the ledger."""

    version: Literal[1]
    file: str = Field(description="The script or program, absolute.")
    bundle: Digest = Field(description="Digest of the bundle, as in its eka.json.")
    artifact: str | None = Field(
        default=None, description="Artifact id of the atom that it is of; several by blanks."
    )
    closure: Digest = Field(description="Digest of the closure, as in the bundle's annotations.")
    grants: GrantsRecord
    mode: str = Field(description="How the runtime was started: outer, direct or degraded.")
    tier: Literal["full", "degraded"] = Field(description="How much the sandbox isolates.")
    unsandboxed: bool = Field(description="Whether that is less than a full sandbox.")
    runtime: RuntimeRecord
    start: str = Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$", description="UTC.")
    wall: Annotated[float, Field(ge=0)] = Field(description="Seconds, launcher included.")
    status: int | None = Field(default=None, ge=0, le=255, description="Exit status, if it exited.")
    signal: int | None = Field(default=None, ge=1, le=64, description="Signal that ended it.")
    peakMemory: int = Field(ge=0, description="Most resident bytes of any one process of the run.")


class Runs(NamedTuple):
    """Oldest first; `unreadable` lines were left out."""

    records: list[RunRecord]
    unreadable: int


def ledger_file(environ: Mapping[str, str]) -> Path:
    return state_dir(environ) / "runs.jsonl"


def head(subject: str, bundle: Bundle, grants: Grants, host: Host, mode: str) -> bytes:
    """The line of a run up to what only its end can tell; see `eka.ledger.begin`."""
    degraded = mode == "degraded"
    known: dict[str, object] = {
        "version": VERSION,
        "file": subject,
        "bundle": bundle.digest(),
        "closure": (bundle.spec.annotations or {})["dev.eka.closure"],
        "grants": {
            "network": grants.network is not None,
            "read": [grant.path for grant in grants.paths if not grant.write],
            "write": [grant.path for grant in grants.paths if grant.write],
            "env": [variable.name for variable in grants.env],
        },
        "mode": mode,
        "tier": "degraded" if degraded else "full",
        "unsandboxed": degraded,
        "runtime": {"name": host.kind, "path": host.runtime},
    }
    if artifact := (bundle.spec.annotations or {}).get("dev.eka.artifact"):
        known["artifact"] = artifact
    # Names of files need not be UTF-8; JSON has to be.
    text = json.dumps(known, separators=(",", ":"), ensure_ascii=False)
    return text.encode("utf-8", "replace").removesuffix(b"}")


def read_runs(environ: Mapping[str, str], limit: int | None = None) -> Runs:
    """The newest `limit` runs. Raises StoreAccessError for a ledger that cannot be read."""
    place = ledger_file(environ)
    lines = [*_lines(place.with_name(f"{place.name}.1")), *_lines(place)]
    records: list[RunRecord] = []
    unreadable = 0
    for line in reversed(lines):
        if limit is not None and len(records) == limit:
            break
        try:
            records.append(RunRecord.model_validate_json(line))
        except ValidationError:
            unreadable += 1
    return Runs(records[::-1], unreadable)


def _lines(place: Path) -> list[bytes]:
    try:
        return place.read_bytes().splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StoreAccessError(
            f"cannot read the ledger `{os.fspath(place)}`: {error.strerror}"
        ) from error
