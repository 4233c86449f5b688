"""Every store of these tests is verified when its test ends."""

from __future__ import annotations

from tests.stores import store, store_dir

__all__ = ["store", "store_dir"]
