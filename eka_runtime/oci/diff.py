"""How two bundles differ: keys of config.json, with lists that have names compared by name.

Mounts are compared by destination, variables by name, namespaces by type, so that one insertion is
one difference and not a shift of everything after it. Names in the rootfs are compared by path.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from eka_runtime.oci.rootfs import RootfsEntry
from eka_runtime.oci.spec import Spec
from eka_runtime.oci.spec_base import json_path

_KEYED = {
    ("mounts",): "destination",
    ("linux", "namespaces"): "type",
    ("linux", "devices"): "path",
    ("process", "rlimits"): "type",
}
_SETS = {("linux", "maskedPaths"), ("linux", "readonlyPaths")}


class Change(NamedTuple):
    """`before` or `after` is None when the thing is not there; both are JSON data."""

    path: str
    before: Any
    after: Any

    @property
    def kind(self) -> str:
        if self.before is None:
            return "added"
        return "removed" if self.after is None else "changed"


def diff_specs(before: Spec, after: Spec) -> list[Change]:
    """Sorted by path; paths are like `.mounts["/tmp"].options`."""
    old, new = _flatten(before.to_data()), _flatten(after.to_data())
    return _compare(old, new, json_path)


def diff_rootfs(before: Iterable[RootfsEntry], after: Iterable[RootfsEntry]) -> list[Change]:
    """Paths are like `rootfs/etc/passwd`."""
    old, new = ({(entry.path,): _entry(entry) for entry in side} for side in (before, after))
    return _compare(old, new, lambda place: f"rootfs/{place[0]}")


def _entry(entry: RootfsEntry) -> dict[str, Any]:
    data = {**entry._asdict(), "mode": f"{entry.mode:04o}"}
    return {key: value for key, value in data.items() if key != "path" and value != ""}


def _compare(old: dict[Any, Any], new: dict[Any, Any], name: Any) -> list[Change]:
    changes = [
        Change(name(place), old.get(place), new.get(place))
        for place in old.keys() | new.keys()
        if old.get(place) != new.get(place)
    ]
    return sorted(changes, key=lambda change: change.path)


def _flatten(data: dict[str, Any]) -> dict[tuple[str, ...], Any]:
    return dict(_leaves((), data))


def _leaves(place: tuple[str, ...], value: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    named = _by_name(place, value)
    if named is None:
        yield place, value
        return
    for key, child in named.items():
        # A mount is one thing to a person: it is shown whole, not option by option.
        if place in _KEYED:
            yield (*place, key), child
        else:
            yield from _leaves((*place, key), child)


def _by_name(place: tuple[str, ...], value: Any) -> dict[str, Any] | None:
    """The parts of a value by name; None for what is compared as a whole."""
    if isinstance(value, dict):
        return value or None
    pairs: list[tuple[str, Any]]
    if place in _SETS:
        pairs = [(item, True) for item in value]
    elif place == ("process", "env"):
        pairs = [_split(text) for text in value]
    elif place in _KEYED:
        key = _KEYED[place]
        pairs = [(item[key], {k: v for k, v in item.items() if k != key}) for item in value]
    else:
        return None
    named = dict(pairs)
    return named if len(named) == len(pairs) > 0 else None


def _split(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    return name, value
