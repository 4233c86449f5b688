"""Castore nodes as texts of binary caches: in URLs (`infused.py`) and in narinfos (`trust.py`).

<base64url of a canonical Entry without a name>    without the padding
"""

from __future__ import annotations

import base64
import binascii
import re

from eka_runtime.castore.node import Node, decode_entry, encode_entry
from eka_runtime.errors import CastoreError

PATTERN = "[A-Za-z0-9_-]{1,6000}"
_TEXT = re.compile(PATTERN)


def node_text(node: Node) -> str:
    return base64.urlsafe_b64encode(encode_entry(node)).decode().rstrip("=")


def parse_node(text: str) -> Node | None:
    """None for what makes no sense."""
    if not _TEXT.fullmatch(text):
        return None
    try:
        name, node = decode_entry(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (CastoreError, binascii.Error, ValueError):
        return None
    return None if name else node
