"""Reading back what the ledger says of runs: see `spec/ledger.md`.

Constraint: a ledger may have lines that a full disk cut, and those of other versions; a reader
leaves them out and says how many.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from eka.runs import ledger_file
from eka_runtime.errors import StoreAccessError

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
