"""SBOM and provenance: complete, reproducible, with the references that scanners cannot see."""

from __future__ import annotations

import json

from eka_runtime.oci.image_facts import provenance_json, spdx_json
from tests.stores import link_info

LEAF = link_info("/leaf")
TOP = link_info("/top", [LEAF.path], to_itself=True)
INFOS = {info.path: info for info in (TOP, LEAF)}


def test_the_sbom_has_each_path_and_each_reference() -> None:
    data = spdx_json(INFOS, [TOP.path], "name", "sha256:00", "eka-1")
    assert data == spdx_json(
        dict(reversed(INFOS.items())), [TOP.path], "name", "sha256:00", "eka-1"
    )
    document = json.loads(data)
    assert document["spdxVersion"] == "SPDX-2.3"
    assert document["documentNamespace"].endswith("/name-sha256%3A00")
    packages = {package["packageFileName"]: package for package in document["packages"]}
    assert packages.keys() == {str(path) for path in INFOS}
    for path, info in INFOS.items():
        package = packages[str(path)]
        assert package["checksums"][0]["checksumValue"] == info.nar_hash.hex()
        assert package["SPDXID"] == f"SPDXRef-{path.hash}"
    relations = {
        (one["spdxElementId"], one["relationshipType"], one["relatedSpdxElement"])
        for one in document["relationships"]
    }
    top, leaf = (f"SPDXRef-{info.path.hash}" for info in (TOP, LEAF))
    assert relations == {("SPDXRef-DOCUMENT", "DESCRIBES", top), (top, "DEPENDS_ON", leaf)}


def test_names_are_split_into_package_and_version() -> None:
    path = LEAF.path._replace(name="python3-3.12.1-env")
    document = json.loads(spdx_json({path: LEAF._replace(path=path)}, [], "n", "x", "t"))
    [package] = document["packages"]
    assert (package["name"], package["versionInfo"]) == ("python3", "3.12.1-env")
    assert package["externalRefs"][0]["referenceLocator"] == "pkg:nix/python3@3.12.1-env"
    # Without roots, all is described.
    assert document["relationships"][0]["relatedSpdxElement"] == package["SPDXID"]


def test_provenance_names_the_artifact_and_all_materials() -> None:
    signed = TOP._replace(signatures=("key:sig",), deriver=LEAF.path)
    infos = {**INFOS, TOP.path: signed}
    digest = "sha256:" + "ab" * 32
    statement = json.loads(
        provenance_json(infos, {"user": "0:0"}, {"localhost/x:1": digest}, "eka-1")
    )
    assert statement["subject"] == [{"name": "localhost/x:1", "digest": {"sha256": "ab" * 32}}]
    definition = statement["predicate"]["buildDefinition"]
    materials = {one["uri"]: one for one in definition["resolvedDependencies"]}
    assert materials.keys() == {str(path) for path in INFOS}
    facts = materials[str(TOP.path)]["annotations"]
    assert (facts["signatures"], facts["deriver"]) == (["key:sig"], str(LEAF.path))
    assert facts["ca"] == TOP.ca
