from __future__ import annotations

from tests.stores import damaged, store, store_dir

__all__ = ["damaged", "store", "store_dir"]
