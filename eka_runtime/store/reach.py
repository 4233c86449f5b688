"""What SQL says for a closure: apart from all else, for those who may import nothing else."""

from __future__ import annotations

# Roots come as one JSON array: a closure may have more of them than SQLite has parameters.
REACH = """
    WITH RECURSIVE reach (id) AS (
        SELECT path.id FROM json_each(?) AS root JOIN path ON path.hash = root.value
        UNION
        SELECT reference.reference FROM reach JOIN reference ON reference.referrer = reach.id
    )
"""
CLOSURE = REACH + "SELECT hash, name FROM reach JOIN path USING (id) ORDER BY hash"
