"""What is in an image and where it comes from, for machines: SPDX 2.3 and SLSA provenance 1.0.

Both follow from path infos, so they are as reproducible as the image, and know what no scanner of
files can: each package, what it refers to, the hash of its NAR, its deriver, who signed it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

from eka_runtime.nix.hashes import NixHash
from eka_runtime.nix.path import StorePath
from eka_runtime.oci.image import CREATED
from eka_runtime.oci.spec_base import canonical_json
from eka_runtime.store.pathinfo import PathInfo

SPDX = "application/spdx+json"
IN_TOTO = "application/vnd.in-toto+json"

_STATEMENT = "https://in-toto.io/Statement/v1"
_PROVENANCE = "https://slsa.dev/provenance/v1"
_UNKNOWN = "NOASSERTION"

Closure = Mapping[StorePath, PathInfo]


def spdx_json(
    infos: Closure, roots: Iterable[StorePath], name: str, identity: str, tool: str
) -> bytes:
    """A document with one package for each store path. `identity` names the closure."""
    described = list(roots) or sorted(infos)
    relations = [_relation("SPDXRef-DOCUMENT", "DESCRIBES", _id(path)) for path in described]
    for path in sorted(infos):
        relations += [
            _relation(_id(path), "DEPENDS_ON", _id(reference))
            for reference in infos[path].references
            if reference != path
        ]
    return canonical_json(
        {
            "SPDXID": "SPDXRef-DOCUMENT",
            "creationInfo": {"created": CREATED, "creators": [f"Tool: {tool}"]},
            "dataLicense": "CC0-1.0",
            "documentNamespace": f"https://spdx.org/spdxdocs/{name}-{quote(identity, safe='')}",
            "name": name,
            "packages": [_package(infos[path]) for path in sorted(infos)],
            "relationships": relations,
            "spdxVersion": "SPDX-2.3",
        }
    )


def _package(info: PathInfo) -> dict[str, Any]:
    name, version = _split(info.path.name)
    package: dict[str, Any] = {
        "SPDXID": _id(info.path),
        "checksums": [{"algorithm": "SHA256", "checksumValue": info.nar_hash.hex()}],
        "comment": "the checksum is that of the path's NAR",
        "copyrightText": _UNKNOWN,
        "downloadLocation": _UNKNOWN,
        "externalRefs": [_purl(name, version)],
        "filesAnalyzed": False,
        "licenseConcluded": _UNKNOWN,
        "licenseDeclared": _UNKNOWN,
        "name": name,
        "packageFileName": str(info.path),
    }
    if version:
        package["versionInfo"] = version
    if info.deriver:
        package["sourceInfo"] = f"built by {info.deriver}"
    return package


def _purl(name: str, version: str) -> dict[str, str]:
    locator = f"pkg:nix/{quote(name, safe='')}" + (f"@{quote(version, safe='')}" if version else "")
    kind = {"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl"}
    return {**kind, "referenceLocator": locator}


def _split(text: str) -> tuple[str, str]:
    """As Nix splits the name of a package: the version begins at the first `-` before a digit."""
    for place, character in enumerate(text[:-1]):
        if character == "-" and place and text[place + 1].isdigit():
            return text[:place], text[place + 1 :]
    return text, ""


def _id(path: StorePath) -> str:
    return f"SPDXRef-{path.hash}"


def _relation(one: str, kind: str, other: str) -> dict[str, str]:
    return {"relatedSpdxElement": other, "relationshipType": kind, "spdxElementId": one}


def provenance_json(
    infos: Closure,
    parameters: Mapping[str, Any],
    subject: Mapping[str, str],
    tool: str,
) -> bytes:
    """An in-toto statement about artifacts, `subject` by name ("sha256:<hex>").

    The store paths are its materials, each with what is known of it.
    """
    subjects = [
        {"name": name, "digest": dict([digest.split(":", 1)])} for name, digest in subject.items()
    ]
    return canonical_json(
        {
            "_type": _STATEMENT,
            "predicate": {
                "buildDefinition": {
                    "buildType": "urn:eka:export:1",
                    "externalParameters": dict(parameters),
                    "resolvedDependencies": [_material(infos[path]) for path in sorted(infos)],
                },
                "runDetails": {"builder": {"id": f"urn:eka:tool:{tool}"}},
            },
            "predicateType": _PROVENANCE,
            "subject": subjects,
        }
    )


def _material(info: PathInfo) -> dict[str, Any]:
    facts: dict[str, Any] = {"narHash": NixHash("sha256", info.nar_hash).sri()}
    if info.deriver:
        facts["deriver"] = str(info.deriver)
    if info.signatures:
        facts["signatures"] = list(info.signatures)
    if info.ca:
        facts["ca"] = info.ca
    digest = {"sha256": info.nar_hash.hex()}
    return {"annotations": facts, "digest": digest, "name": info.path.base, "uri": str(info.path)}
