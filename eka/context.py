"""What the common options of a command line add up to; handed to every command as `ctx.obj`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from eka.output import Output

if TYPE_CHECKING:
    from eka.config import Settings
    from eka_runtime.store.store import Store


class Context:
    """Mutable while click parses (an option may stand before or after the sub-command)."""

    def __init__(self) -> None:
        self.output = Output()
        self.store_dir: Path | None = None
        self.offline = False

    @property
    def json(self) -> bool:
        return self.output.json_mode

    def settings(self) -> Settings:
        """eka.toml and the environment, with `--store` on top."""
        from eka.config import load_settings

        return load_settings(os.environ, store=self.store_dir)

    def open_store(self, create: bool = True) -> Store:
        """The store in force; the caller closes it (`with ctx.open_store() as store`)."""
        from eka_runtime.store.store import Store

        return Store.open(self.settings().store, create=create)
