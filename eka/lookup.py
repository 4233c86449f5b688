"""`eka store closure PATH…`, answered before click is imported.

Scripts ask for closures in loops. The answer takes SQLite two milliseconds; Python's imports take a
hundred. Taken is the plain form alone: store paths written out, no options, no eka.toml, and a
store in which all of them are valid. Whatever else is asked for, missing or odd is left to the
whole program, which says what is wrong: this module never reports anything.

CONSTRAINT: imports `posix`, `_sqlite3` and one statement, nothing more (a test pins the set). No
lock is held: the answer is one statement, thus one snapshot, and looks at rows only.
"""

from __future__ import annotations

import posix
import sys

from eka_runtime.store.reach import CLOSURE

STORE_PREFIX = "/nix/store/"
# Those of `eka_runtime`'s `store/layout.py` and `castore/database.py`; a test compares them.
FORMAT_LINE = b"eka-store 2\n"
VERSIONS = (0x656B6131, 2)

_HASH_LENGTH = 32


def attempt(words: list[str]) -> None:
    """Prints the answer and ends the process, or returns."""
    hashes, store = hashes_of(words), store_place()
    if hashes is None or store is None:
        return
    try:
        found = closure(store, hashes)
    except (ImportError, OSError, ValueError):
        return
    if not set(words).issubset(found):
        return
    if written("".join([f"{path}\n" for path in found]).encode()):
        posix._exit(0)


def hashes_of(words: list[str]) -> list[str] | None:
    """The digits of store paths that are written out; None if anything else is among the words.

    Whether they are valid shows when the store has them.
    """
    start = len(STORE_PREFIX)
    found = [word[start : start + _HASH_LENGTH] for word in words if word.startswith(STORE_PREFIX)]
    plain = len(found) == len(words) and all(map(str.isalnum, found))
    return found if found and plain else None


def store_place() -> str | None:
    """The store in force, if the environment alone says which; None for an odd one."""
    environ = posix.environ
    home = environ.get(b"HOME", b"")
    store = environ.get(b"EKA_STORE") or _xdg(b"XDG_DATA_HOME", home + b"/.local/share") + b"/store"
    # What means something in a URI is rare in names of stores.
    if not (home.startswith(b"/") and store.startswith(b"/")) or any(map(store.count, b"%?#")):
        return None
    try:
        posix.lstat(_xdg(b"XDG_CONFIG_HOME", home + b"/.config") + b"/eka.toml")
        return None
    except FileNotFoundError:
        pass
    except OSError:
        return None
    try:
        return store.decode("utf-8")
    except UnicodeDecodeError:
        return None


def _xdg(variable: bytes, fallback: bytes) -> bytes:
    stated = posix.environ.get(variable, b"")
    return (stated if stated.startswith(b"/") else fallback) + b"/eka"


def closure(store: str, hashes: list[str]) -> list[str]:
    """Sorted paths. Raises OSError or ValueError for what is no store of this version."""
    _spare_functools()
    import _sqlite3

    with open(store + "/format", "rb", buffering=0) as file:
        if file.read(len(FORMAT_LINE) + 1) != FORMAT_LINE:
            raise ValueError("another format")
    try:
        database = _sqlite3.connect(f"file:{store}/db.sqlite?mode=rw", uri=True)
        try:
            found = [database.execute(f"pragma {name}").fetchone() for name in _PRAGMAS]
            if found != [(version,) for version in VERSIONS]:
                raise ValueError("another version")
            rows = database.execute(CLOSURE, ('["' + '","'.join(hashes) + '"]',)).fetchall()
        finally:
            database.close()
    except _sqlite3.Error as error:
        raise OSError from error
    return [f"{STORE_PREFIX}{digits}-{name}" for digits, name in rows]


_PRAGMAS = ("application_id", "user_version")


def _spare_functools() -> None:
    """`_sqlite3` takes one name from it, and its import takes longer than finding the answer.

    Nothing else will miss it: this process ends here, or becomes another.
    """
    functools = type(sys)("functools")
    functools.lru_cache = lambda size: lambda compiled: compiled  # type: ignore[attr-defined]
    sys.modules.setdefault("functools", functools)


def written(data: bytes) -> bool:
    """All of it, or nothing. Ends the process after a part."""
    rest = memoryview(data)
    try:
        while rest:
            rest = rest[posix.write(1, rest) :]
    except BrokenPipeError:
        posix._exit(141)
    except OSError:
        # The whole program meets the same, and has the words for it.
        if len(rest) != len(data):
            posix._exit(1)
        return False
    return True
