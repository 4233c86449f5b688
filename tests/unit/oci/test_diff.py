"""Differences between bundles, named so that a person sees what changed."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings

from eka_runtime.oci.bundle import compile_bundle
from eka_runtime.oci.diff import Change, diff_rootfs, diff_specs
from eka_runtime.oci.grants import EnvGrant, Grant, Grants
from eka_runtime.oci.rootfs import RootfsEntry
from eka_runtime.oci.spec import Mount, Spec
from tests.unit.oci.official import documents
from tests.unit.oci.requests import request

DATA = Grant("/srv/data", False, "flag --read", "/srv/data", True)


def test_a_grant_is_one_difference_wherever_it_lands_in_the_list() -> None:
    before = compile_bundle(request())
    after = compile_bundle(request(grants=Grants(paths=(DATA,))))
    options = ["rbind", "rro", "rnosuid", "rnodev"]
    assert diff_specs(before.spec, after.spec) == [
        Change(
            '.mounts["/srv/data"]',
            None,
            {"options": options, "source": "/srv/data", "type": "bind"},
        )
    ]
    assert diff_rootfs(before.rootfs, after.rootfs) == [
        Change("rootfs/srv", None, {"kind": "directory", "mode": "0755"}),
        Change("rootfs/srv/data", None, {"kind": "directory", "mode": "0755"}),
    ]


def test_changed_added_and_removed() -> None:
    before = compile_bundle(request(grants=Grants(env=(EnvGrant("A", "1", "x"),))))
    after = compile_bundle(request(grants=Grants("x", env=(EnvGrant("B", "é", "x"),))))
    changes = diff_specs(before.spec, after.spec)
    assert [(change.kind, change.path) for change in changes] == [
        ("changed", '.annotations["dev.eka.network"]'),
        ("removed", ".linux.namespaces.network"),
        ("removed", ".process.env.A"),
        ("added", ".process.env.B"),
    ]
    (change,) = diff_specs(before.spec, before.spec.replace(hostname="other"))
    assert change == Change(".hostname", "eka", "other")
    assert change.kind == "changed"


def test_the_contents_of_a_file_are_a_difference() -> None:
    old = [RootfsEntry("etc/x", "file", 0o644, "1")]
    new = [RootfsEntry("etc/x", "file", 0o644, "2")]
    (change,) = diff_rootfs(old, new)
    assert (change.path, change.before["text"], change.after["text"]) == ("rootfs/etc/x", "1", "2")


def test_lists_with_a_name_twice_are_compared_as_they_are() -> None:
    mount = Mount(destination="/a")
    one, two = (Spec(ociVersion="1", mounts=(mount,) * count) for count in (1, 2))
    assert [change.path for change in diff_specs(one, two)] == [".mounts", '.mounts["/a"]']


@settings(deadline=None)
@given(documents(), documents())
def test_nothing_differs_from_itself_and_changes_turn_round(first: Any, second: Any) -> None:
    one, two = Spec.from_json(json.dumps(first)), Spec.from_json(json.dumps(second))
    assert diff_specs(one, one) == []
    forth, back = diff_specs(one, two), diff_specs(two, one)
    assert [(c.path, c.before, c.after) for c in forth] == [
        (c.path, c.after, c.before) for c in back
    ]
