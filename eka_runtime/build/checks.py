"""What a derivation demands of its outputs: which references and requisites, what sizes.

In plain variables the demands hold for every output; with structured attributes, `outputChecks` has
some for each. An item is a store path or the name of an output. Semantics are those of Nix 2.8.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from eka_runtime.build.attributes import Attributes, string_list
from eka_runtime.errors import FormatError, OutputRejected
from eka_runtime.nix.path import STORE_DIR, StorePath, split
from eka_runtime.store.pathinfo import PathInfo
from eka_runtime.store.store import Store

_LISTS = (
    # key, whether what it lists is allowed, whether it is about the whole closure
    ("allowedReferences", True, False),
    ("allowedRequisites", True, True),
    ("disallowedReferences", False, False),
    ("disallowedRequisites", False, True),
)


class Checks(NamedTuple):
    """Demands on one output; `lists` by key, without those that are not stated."""

    lists: Mapping[str, tuple[str, ...]]
    max_size: int | None = None
    max_closure_size: int | None = None
    ignore_self: bool = True


def checks_for(attributes: Attributes, output: str) -> Checks:
    """Raises FormatError."""
    if attributes.structured is None:
        return Checks(_stated(attributes.optional_strings(key) for key, _, _ in _LISTS))
    stated = attributes.table("outputChecks").get(output)
    if stated is None:
        return Checks({})
    where = f"`outputChecks.{output}` of derivation {attributes.name}"
    if not isinstance(stated, dict):
        raise FormatError(f"{where} is not an object")
    lists = (
        None if stated.get(key) is None else string_list(stated[key], f"{where}: `{key}`")
        for key, _, _ in _LISTS
    )
    return Checks(
        _stated(lists),
        _number(stated, "maxSize", where),
        _number(stated, "maxClosureSize", where),
        ignore_self=False,
    )


def check_outputs(store: Store, attributes: Attributes, outputs: Mapping[str, PathInfo]) -> None:
    """Raises OutputRejected; the outputs need not be valid yet, what they refer to must be."""
    own = {info.path: info for info in outputs.values()}
    for name, info in outputs.items():
        checks = checks_for(attributes, name)
        if checks.max_size is not None and info.nar_size > checks.max_size:
            raise OutputRejected(
                f"path `{info.path}` is too large: {info.nar_size} bytes, allowed are"
                f" {checks.max_size}"
            )
        for key, allowed, whole in _LISTS:
            if key in checks.lists:
                listed = _paths(checks.lists[key], outputs, attributes.name)
                used = set(_closure(store, info, own)) if whole else set(info.references)
                if whole and checks.ignore_self:
                    used.discard(info.path)
                bad = used - listed if allowed else used & listed
                if bad:
                    raise _forbidden(info, bad, whole)
        _check_closure_size(store, checks, info, own)


def _check_closure_size(
    store: Store, checks: Checks, info: PathInfo, own: Mapping[StorePath, PathInfo]
) -> None:
    if checks.max_closure_size is None:
        return
    closure = _closure(store, info, own)
    size = sum((own.get(path) or store.info(path)).nar_size for path in closure)
    if size > checks.max_closure_size:
        raise OutputRejected(
            f"the closure of `{info.path}` is too large: {size} bytes, allowed are"
            f" {checks.max_closure_size}"
        )


def _closure(store: Store, info: PathInfo, own: Mapping[StorePath, PathInfo]) -> set[StorePath]:
    found, waiting, outside = {info.path}, [info], set[StorePath]()
    while waiting:
        for path in waiting.pop().references:
            if path not in own:
                outside.add(path)
            elif path not in found:
                found.add(path)
                waiting.append(own[path])
    return found | set(store.closure(outside))


def _paths(items: Iterable[str], outputs: Mapping[str, PathInfo], name: str) -> set[StorePath]:
    found = set()
    for item in items:
        if item.startswith(STORE_DIR + "/"):
            found.add(split(item)[0])
        elif item in outputs:
            found.add(outputs[item].path)
        else:
            raise FormatError(
                f"derivation {name} names what is neither a store path nor an output of it as a"
                f" reference: {item[:300]!r}"
            )
    return found


def _forbidden(info: PathInfo, bad: Iterable[StorePath], whole: bool) -> OutputRejected:
    lines = "".join(f"\n  {path}" for path in sorted(bad))
    how = "directly or indirectly " if whole else ""
    return OutputRejected(
        f"output `{info.path}` is not allowed to refer {how}to the following paths:{lines}"
    )


def _stated(lists: Iterable[tuple[str, ...] | None]) -> dict[str, tuple[str, ...]]:
    keys = (key for key, _, _ in _LISTS)
    return {key: items for key, items in zip(keys, lists, strict=True) if items is not None}


def _number(stated: Mapping[str, Any], key: str, where: str) -> int | None:
    value = stated.get(key)
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
        raise FormatError(f"{where}: `{key}` is not a size in bytes")
    return value
