"""What the ledger says of a run: see `spec/ledger.md`; `run_records.py` reads it back.

What is known before the program starts goes into the launch (`head`), so that a warm start has only
to add how it ended. Arguments and values of variables are never written: they may be secrets.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from eka.config import state_dir

if TYPE_CHECKING:
    from eka.prepare import Prepared
    from eka_runtime.runtime.host import Host

VERSION = 1


def ledger_file(environ: Mapping[str, str]) -> Path:
    return state_dir(environ) / "runs.jsonl"


def head(prepared: Prepared, digest: str, host: Host, mode: str) -> bytes:
    """The line of a run up to what only its end can tell; see `eka.ledger.begin`.

    `digest` is the bundle's.
    """
    grants, annotations = prepared.grants, prepared.bundle.spec.annotations or {}
    degraded = mode == "degraded"
    known: dict[str, object] = {
        "version": VERSION,
        "file": prepared.subject,
        "bundle": digest,
        "closure": annotations["dev.eka.closure"],
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
    if artifact := annotations.get("dev.eka.artifact"):
        known["artifact"] = artifact
    # Names of files need not be UTF-8; JSON has to be.
    text = json.dumps(known, separators=(",", ":"), ensure_ascii=False)
    return text.encode("utf-8", "replace").removesuffix(b"}")
