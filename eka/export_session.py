"""What one `eka export` is about: the request as typed, and all it was resolved to."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from eka.config import Settings
from eka.evaluate.config import Choices
from eka.exporting import Export
from eka.fetching import Reach
from eka.output import Output
from eka.script.flags import Flags
from eka_runtime.errors import UsageError
from eka_runtime.oci.image_layers import MAX_LAYERS, Closure
from eka_runtime.store.store import Store


class Request(NamedTuple):
    """What was typed. `platforms` are `PLATFORM` for the target, `PLATFORM=TARGET` for more."""

    target: str
    arguments: tuple[str, ...]
    flags: Flags
    choices: Choices | None
    output: str | None
    form: str
    tag: str | None
    compression: str | None
    max_layers: int | None
    share_with: tuple[str, ...]
    user: str
    labels: tuple[str, ...]
    platforms: tuple[str, ...]
    shell: bool
    push: bool
    plain_http: bool
    attach: bool
    sbom: str | None
    provenance: str | None


class Session(NamedTuple):
    """`others` are exports of the same image for other platforms, `beside` closures to share
    layers with."""

    store: Store
    settings: Settings
    reach: Reach
    output: Output
    request: Request
    export: Export
    others: tuple[Export, ...]
    beside: tuple[tuple[str, Closure], ...]

    @property
    def maximum(self) -> int:
        asked = self.request.max_layers
        return MAX_LAYERS if asked is None else asked

    def place(self) -> Path:
        """Where a directory is to be made."""
        if self.request.output in (None, "-"):
            raise UsageError(f"`{self.request.form}` is a directory: it cannot go to stdout")
        return Path(str(self.request.output))
