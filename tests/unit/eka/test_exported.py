"""What `eka export` refuses: with a sentence, and without leaving anything behind."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from eka.cli import cli
from eka.context import Context
from eka.exporting import name_and_version
from eka.images import Reference
from eka_runtime.errors import UsageError
from eka_runtime.store.store import Store
from tests.registry import registry
from tests.stores import assert_clean

WRONG = (
    ((), "no place to write to"),
    (("-o", "taken"), "is a directory"),
    (("--format", "oci-dir", "-o", "taken"), "not an empty directory"),
    (("--format", "rootfs", "-o", "-"), "cannot go to stdout"),
    (("-o", "no/such/place"), "cannot write"),
    (("--tag", "Upper:case", "-o", "x"), "not a name for an image"),
    (("--user", "nobody", "-o", "x"), "not a user"),
    (("--label", "novalue", "-o", "x"), "not a label"),
    (("--platform", "plan9/mips", "-o", "x"), "not a platform"),
    (("--max-layers", "0", "-o", "x"), "fewer than 1"),
    (("--format", "docker-archive", "--compression", "zstd", "-o", "x"), "not compressed"),
    (("--format", "single-file", "--no-shell", "-o", "x"), "has no program"),
    (("--format", "bundle", "--no-shell", "-o", "x"), "has no program"),
    (("--format", "rootfs", "--sbom", "s", "-o", "x"), "belongs to images"),
    (("--attach", "-o", "x"), "belongs to `--push`"),
    (("--push", "-o", "x"), "no `-o` beside it"),
    (("--push",), "no name to push to"),
)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory to work in, beside a store with the path `words`, which nothing can start."""
    monkeypatch.setenv("EKA_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "words").write_text("words\n")
    (tmp_path / "work" / "taken" / "file").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work")
    yield tmp_path / "work"
    assert_clean(tmp_path / "store")


@pytest.fixture
def path(place: Path) -> str:
    with Store.open(place.parent / "store") as store:
        tree = place.parent / "tree-1.0"
        tree.mkdir()
        (tree / "text").write_text("text")
        return str(store.add_tree(tree).path)


@pytest.mark.parametrize(("words", "message"), WRONG)
def test_what_cannot_be_done_is_said_and_leaves_nothing(
    place: Path,
    path: str,
    words: tuple[str, ...],
    message: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["export", path, *words], obj=Context())
    assert ended.value.code == 2
    assert message in capfd.readouterr().err
    assert os.listdir(place) == ["taken"]


def run(*words: str) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["export", *words], obj=Context())
    assert ended.value.code == 0


def test_an_image_for_two_platforms_with_its_documents(place: Path, path: str) -> None:
    more = ("--platform", "linux/riscv64", "--platform", f"arm/v7={path}")
    run(path, "-o", "out", "--format=oci-dir", *more, "--sbom=s.json", "--provenance=p.json")
    [named] = json.loads((place / "out" / "index.json").read_bytes())["manifests"]
    index = json.loads((place / "out" / "blobs" / named["digest"].replace(":", "/")).read_bytes())
    platforms = [one["platform"] for one in index["manifests"]]
    assert [one["architecture"] for one in platforms] == ["riscv64", "arm"]
    assert platforms[1]["variant"] == "v7"
    sbom = json.loads((place / "s.json").read_bytes())
    assert [one["packageFileName"] for one in sbom["packages"]] == [path]
    provenance = json.loads((place / "p.json").read_bytes())
    digest = named["digest"].removeprefix("sha256:")
    assert provenance["subject"] == [{"digest": {"sha256": digest}, "name": "localhost/tree:1.0"}]


def test_a_push_says_what_was_sent(
    place: Path, path: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with registry() as made:
        words = (path, "--push", "--tag", f"{made.host}/some/tree:1", "--attach")
        run(*words)
        first = capfd.readouterr()
        run(*words)
        second = capfd.readouterr()
    assert first.out == second.out
    assert re.fullmatch(rf"{made.host}/some/tree@sha256:[0-9a-f]{{64}}\n", first.out)
    assert "; the registry had 0 B" in first.err
    assert "sent 0 B; the registry had" in second.err


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("jq-1.7.1", ("jq", "1.7.1")),
        ("python3-3.12-env", ("python3", "3.12-env")),
        ("Big_Name", ("big_name", "latest")),
        ("x-1.0+git?", ("x", "1.0-git-")),
        ("-__-", ("image", "latest")),
    ],
)
def test_a_name_is_split_as_nix_does_it(text: str, expected: tuple[str, str]) -> None:
    assert name_and_version(text) == expected
    assert str(Reference.parse(":".join(expected)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a", "localhost/a:latest"),
        ("a/b:c", "localhost/a/b:c"),
        ("host.example/a", "host.example/a:latest"),
        ("localhost:5000/a/b:C_1", "localhost:5000/a/b:C_1"),
        ("host:5000/a", "host:5000/a:latest"),
        ("127.0.0.1:80/a--b__c", "127.0.0.1:80/a--b__c:latest"),
    ],
)
def test_names_of_images(text: str, expected: str) -> None:
    assert str(Reference.parse(text)) == expected


@pytest.mark.parametrize("text", ["", "A", "a:", "a b", "/a", "a/", "a//b", "-a", "a:b:c", "a@b"])
def test_what_is_no_name_of_an_image(text: str) -> None:
    with pytest.raises(UsageError, match="not a name for an image"):
        Reference.parse(text)
