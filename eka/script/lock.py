"""The text of a script's lock: what `eka lock FILE` writes beside FILE, as `FILE.lock`.

    {
      "closure": [{"narHash": "sha256-…", "narSize": 1234, "path": "/nix/store/…"}, …],
      "format": "eka script lock 1",
      "interpreter": "python3",
      "packages": [{"path": "/nix/store/…", "stated": "./result"}, …]
    }

Canonical JSON (sorted keys, two-space indent, one final newline) without times or places of this
machine, so that equal locks are equal files. A file that states no packages has `mentioned`, the
store paths in its text, instead of `packages`. spec/lock.md is the rule book. Constraint: a lock
comes from outside; what is read is bounded and checked. Out of scope: whether it is current, and
what is done with it (`eka/locked.py`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from eka.script.stated import quoted
from eka.shapes import Constant, Field, Items, Json, Path, Plain, Problem, Table, Text, dotted
from eka_runtime.errors import FormatError, LockError
from eka_runtime.nix.hashes import NixHash, parse_hash
from eka_runtime.nix.path import StorePath
from eka_runtime.oci.spec_base import canonical_json
from eka_runtime.store.pathinfo import PathInfo

if TYPE_CHECKING:
    from eka_runtime.nix.narinfo import NarInfo

FORMAT = "eka script lock 1"
SIZE_LIMIT = 1 << 24
"""Of a lock, in bytes; `eka_runtime.store.roots` reads as much."""

_FAMILY = b'"eka script lock '


def _stated(text: str) -> str:
    if not text or "\0" in text:
        raise FormatError("must be a text without null characters")
    return text


def _content(text: str) -> bytes:
    found = parse_hash(text)
    if found.algo != "sha256" or found.sri() != text:
        raise FormatError("must be a SHA-256 as `sha256-…`")
    return found.digest


class _Size(Plain[int]):
    def check(self, value: object, path: Path) -> int:
        if (size := super().check(value, path)) <= 0:
            raise Problem(f"`{dotted(path)}` must be more than 0", path)
        return size

    def schema(self) -> Json:
        return {**super().schema(), "exclusiveMinimum": 0}


_TEXT = Text(_stated, "a string", pattern=r"^[^\x00]+$")
_PATH = Text(
    StorePath.parse,
    "a store path",
    pattern=r"^/nix/store/[0-9a-df-np-sv-z]{32}-[A-Za-z0-9+._?=-]+$",
)
_PACKAGE = Table(
    {
        "path": Field(_PATH, "The store path that it led to.", required=True),
        "stated": Field(_TEXT, "A package as the script states it.", required=True),
    }
)
_ENTRY = Table(
    {
        "narHash": Field(
            Text(_content, "a SHA-256 as SRI", pattern=r"^sha256-[A-Za-z0-9+/]{43}=$"),
            "SHA-256 of its NAR as SRI, as in the JSON of Nix.",
            required=True,
        ),
        "narSize": Field(_Size(int, "an integer"), "Its NAR's size in bytes.", required=True),
        "path": Field(_PATH, "A path of the closure.", required=True),
    }
)
LOCK_FILE = Table(
    {
        "closure": Field(Items(_ENTRY, "an array"), "All that the script needs.", required=True),
        "format": Field(Constant(FORMAT), "", required=True),
        "interpreter": Field(_TEXT, "As the script states it."),
        "mentioned": Field(Items(_PATH, "an array"), "Store paths in the script's text."),
        "packages": Field(Items(_PACKAGE, "an array"), "Instead of `mentioned`: what it states."),
    }
)
"""What `eka lock FILE` writes: exactly one of `packages` and `mentioned` is there."""


class Content(NamedTuple):
    """`nar_hash` is a SHA-256."""

    nar_hash: bytes
    nar_size: int

    @classmethod
    def of(cls, info: PathInfo | NarInfo) -> Content:
        return cls(info.nar_hash, info.nar_size)

    def sri(self) -> str:
        return NixHash("sha256", self.nar_hash).sri()


class Lock(NamedTuple):
    """`packages` are (as stated, store path) pairs; `mentioned` is for a file that states none."""

    interpreter: str | None
    packages: tuple[tuple[str, StorePath], ...] | None
    mentioned: tuple[StorePath, ...] | None
    closure: Mapping[StorePath, Content]

    def roots(self) -> list[StorePath]:
        """Each once, in order."""
        stated = [path for _, path in self.packages or ()]
        return list(dict.fromkeys([*stated, *(self.mentioned or ())]))


def is_ours(data: bytes) -> bool:
    """Whether a file is a lock of eka's, be it a broken one: other programs have `.lock` files."""
    return _FAMILY in data


def render_lock(lock: Lock) -> bytes:
    data: dict[str, object] = {
        "format": FORMAT,
        "closure": [
            {"narHash": content.sri(), "narSize": content.nar_size, "path": str(path)}
            for path, content in sorted(lock.closure.items())
        ],
    }
    if lock.interpreter is not None:
        data["interpreter"] = lock.interpreter
    if lock.mentioned is not None:
        data["mentioned"] = [str(path) for path in lock.mentioned]
    if lock.packages is not None:
        data["packages"] = [{"path": str(path), "stated": text} for text, path in lock.packages]
    return canonical_json(data)


def parse_lock(data: bytes, file: str) -> Lock:
    """Raises LockError; `file` is the name for messages."""
    if len(data) > SIZE_LIMIT:
        raise LockError(f"`{file}` is malformed: larger than {SIZE_LIMIT >> 20} MiB")
    try:
        plain = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise LockError(f"`{file}` is malformed: not JSON: {error}") from None
    _check_format(plain, file)
    try:
        return _from_data(LOCK_FILE.check(plain, ()))
    except (Problem, FormatError) as error:
        raise LockError(f"`{file}` is malformed: {error}") from None


def _check_format(plain: object, file: str) -> None:
    stated = plain.get("format") if isinstance(plain, dict) else None
    if stated == FORMAT:
        return
    if isinstance(stated, str) and stated.startswith("eka script lock "):
        raise LockError(
            f"`{file}` has the format {quoted(stated)}, which this version of eka does not know",
            hint="upgrade eka",
        )
    raise LockError(f"`{file}` is malformed: not a lock of a script")


def _from_data(data: dict[str, Any]) -> Lock:
    if ("packages" in data) == ("mentioned" in data):
        raise FormatError("exactly one of `packages` and `mentioned` must be there")
    closure = {
        entry["path"]: Content(entry["narHash"], entry["narSize"]) for entry in data["closure"]
    }
    packages = None
    if "packages" in data:
        packages = tuple((item["stated"], item["path"]) for item in data["packages"])
    lock = Lock(data.get("interpreter"), packages, data.get("mentioned"), closure)
    _check_complete(lock.roots(), closure, len(data["closure"]))
    return lock


def _check_complete(
    roots: Iterable[StorePath], closure: Mapping[StorePath, Content], entries: int
) -> None:
    if len(closure) != entries:
        raise FormatError("a path stands in `closure` twice")
    for path in roots:
        if path not in closure:
            raise FormatError(f"`{path}` is not in `closure`")
