"""Images in all their containers: the same digests everywhere, valid, streamed, never half."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import zstandard

from eka_runtime.errors import StoreCorrupt, UsageError
from eka_runtime.oci.bundle import ShellFiles, ShellSource
from eka_runtime.oci.image import Compression, File, ImageSpec
from eka_runtime.oci.image_layers import plan_layers
from eka_runtime.oci.image_root import RootUser, image_rootfs
from eka_runtime.oci.image_write import ArchiveSink, DockerSink, LayoutSink, Written, write_image
from eka_runtime.oci.profile import load_profile
from eka_runtime.store.store import Store

PLATFORM = {"architecture": "amd64", "os": "linux"}


def fill(store: Store, place: Path) -> None:
    for name in ("one", "two"):
        tree = place / name
        (tree / "bin").mkdir(parents=True)
        (tree / "bin" / name).write_bytes(name.encode() * 40_000)
        (tree / "bin" / name).chmod(0o755)
        (tree / "text").write_text(name)
        store.add_tree(tree)


def image(store: Store, **changes: Any) -> ImageSpec:
    infos = {info.path: info for info in store.paths.all()}
    shell = ShellFiles(ShellSource("store", "/nix/store/x"), None)
    made = ImageSpec(
        infos=infos,
        layers=tuple(plan_layers(infos)),
        entrypoint=("/bin/sh", "/app/script"),
        arguments=("word",),
        env=("PATH=/bin",),
        labels={"dev.eka.x": "y"},
        platform=PLATFORM,
        rootfs=image_rootfs(load_profile("run"), shell, RootUser(0, 0)),
        files=(File("/app/script", b"echo hello\n", True),),
    )
    return made._replace(**changes)


@pytest.fixture
def filled(store: Store, tmp_path: Path) -> Store:
    fill(store, tmp_path / "trees")
    return store


def archive(store: Store, compression: Compression = "none", **changes: Any) -> bytes:
    out = io.BytesIO()
    sink = ArchiveSink(out)  # type: ignore[arg-type]
    written = write_image(store, image(store, **changes), sink, compression)
    sink.finish([written], "localhost/test:1")
    return out.getvalue()


class Pipe(io.RawIOBase):
    """Takes bytes, a few at a time, and cannot go back."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []

    def write(self, data: Any) -> int:
        self.parts.append(bytes(data[:100_000]))
        return len(self.parts[-1])

    def writable(self) -> bool:
        return True


def blobs(data: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        files = {m.name: tar.extractfile(m) for m in tar.getmembers() if m.isfile()}
        return {name: file.read() for name, file in files.items() if file}


def by_digest(found: dict[str, bytes], descriptor: dict[str, Any]) -> bytes:
    data = found[f"blobs/{descriptor['digest'].replace(':', '/')}"]
    assert len(data) == descriptor["size"]
    return data


def test_an_archive_holds_what_its_digests_say(filled: Store) -> None:
    found = blobs(archive(filled))
    assert json.loads(found["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
    for name, data in found.items():
        if name.startswith("blobs/"):
            assert name == f"blobs/sha256/{hashlib.sha256(data).hexdigest()}"
    [top] = json.loads(found["index.json"])["manifests"]
    assert top["annotations"] == {"org.opencontainers.image.ref.name": "localhost/test:1"}
    assert top["platform"] == PLATFORM
    manifest = json.loads(by_digest(found, top))
    config = json.loads(by_digest(found, manifest["config"]))
    assert config["rootfs"]["diff_ids"] == [layer["digest"] for layer in manifest["layers"]]
    assert len(config["history"]) == len(manifest["layers"]) == 3
    assert config["config"]["Entrypoint"] == ["/bin/sh", "/app/script"]
    assert config["config"]["Cmd"] == ["word"]
    last = by_digest(found, manifest["layers"][-1])
    with tarfile.open(fileobj=io.BytesIO(last)) as tar:
        assert tar.getmember("tmp").mode == 0o1777
        assert tar.getmember("bin/sh").linkname == "/nix/store/x"
        assert tar.getmember("app/script").mode == 0o555


def test_another_store_elsewhere_gives_the_same_bytes(filled: Store, tmp_path: Path) -> None:
    with Store.open(tmp_path / "other" / "store") as other:
        fill(other, tmp_path / "elsewhere")
        assert archive(other) == archive(filled)
        assert archive(other, "zstd") == archive(filled, "zstd")


def test_a_pipe_and_a_directory_get_what_a_file_gets(filled: Store, tmp_path: Path) -> None:
    pipe = Pipe()
    sink = ArchiveSink(pipe)  # type: ignore[arg-type]
    sink.finish([write_image(filled, image(filled), sink, "none")], "localhost/test:1")
    assert b"".join(pipe.parts) == archive(filled)
    layout = LayoutSink(tmp_path / "layout")
    layout.finish([write_image(filled, image(filled), layout, "none")], "localhost/test:1")
    files = [file for file in (tmp_path / "layout").rglob("*") if file.is_file()]
    assert {str(file.relative_to(tmp_path / "layout")): file.read_bytes() for file in files} == (
        blobs(archive(filled))
    )


def test_what_is_appended_to_a_file_is_not_rewound(filled: Store, tmp_path: Path) -> None:
    file = tmp_path / "log"
    file.write_bytes(b"before")
    with open(file, "ab", buffering=0) as stream:
        sink = ArchiveSink(stream)  # type: ignore[arg-type]
        sink.finish([write_image(filled, image(filled), sink, "none")], "localhost/test:1")
    assert file.read_bytes() == b"before" + archive(filled)


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_compressed_layers_are_the_same_layers(filled: Store, compression: Compression) -> None:
    plain, packed = blobs(archive(filled)), blobs(archive(filled, compression))
    manifest = top_manifest(packed)
    config = json.loads(by_digest(packed, manifest["config"]))
    assert config == json.loads(by_digest(plain, top_manifest(plain)["config"]))
    for layer, diff_id in zip(manifest["layers"], config["rootfs"]["diff_ids"], strict=True):
        assert layer["mediaType"].endswith(f"tar+{compression}")
        data = by_digest(packed, layer)
        if compression == "zstd":
            with zstandard.ZstdDecompressor().stream_reader(data) as reader:
                data = reader.read()
        else:
            import gzip

            data = gzip.decompress(data)
        assert f"sha256:{hashlib.sha256(data).hexdigest()}" == diff_id


def top_manifest(found: dict[str, bytes]) -> dict[str, Any]:
    [top] = json.loads(found["index.json"])["manifests"]
    manifest: dict[str, Any] = json.loads(by_digest(found, top))
    return manifest


def docker(store: Store, images: int = 1) -> bytes:
    out = io.BytesIO()
    sink = DockerSink(out)  # type: ignore[arg-type]
    written: list[Written] = [write_image(store, image(store), sink, "none")] * images
    sink.finish(written, "localhost/test:1")
    return out.getvalue()


def test_a_docker_archive_names_config_and_layers(filled: Store) -> None:
    found = blobs(docker(filled))
    [entry] = json.loads(found["manifest.json"])
    # podman makes localhost/test of it, and docker leaves it as it is.
    assert entry["RepoTags"] == ["test:1"]
    config = json.loads(found[entry["Config"]])
    digests = [hashlib.sha256(found[layer]).hexdigest() for layer in entry["Layers"]]
    assert config["rootfs"]["diff_ids"] == [f"sha256:{digest}" for digest in digests]


def test_a_docker_archive_has_one_platform(filled: Store) -> None:
    with pytest.raises(UsageError, match="one platform"):
        docker(filled, images=2)


def test_several_platforms_are_an_index(filled: Store) -> None:
    out = io.BytesIO()
    sink = ArchiveSink(out)  # type: ignore[arg-type]
    arm = {"architecture": "arm64", "os": "linux"}
    images = [
        write_image(filled, image(filled, platform=platform), sink, "none")
        for platform in (PLATFORM, arm)
    ]
    top = sink.finish(images, "localhost/test:1")
    found = blobs(out.getvalue())
    [named] = json.loads(found["index.json"])["manifests"]
    assert named["digest"] == top.digest
    index = json.loads(by_digest(found, named))
    assert [one["platform"] for one in index["manifests"]] == [PLATFORM, arm]
    # What both have is there once: two layers of paths, and the last one.
    assert len([name for name in found if name.startswith("blobs/")]) == 3 + 2 * 2 + 1
    with pytest.raises(UsageError, match="same platform"):
        sink.finish([images[0], images[0]], "localhost/test:1")


def test_damage_is_noticed_before_an_archive_is_complete(damaged: Store) -> None:
    for file in damaged.layout.packs.rglob("*"):
        if file.is_file():
            file.chmod(0o644)
            file.write_bytes(file.read_bytes().replace(b"small", b"smell"))
    with pytest.raises(StoreCorrupt):
        archive(damaged)


def test_memory_does_not_grow_with_the_image(store: Store, tmp_path: Path) -> None:
    big = tmp_path / "big"
    with open(big, "wb") as stream:
        for number in range(64):
            stream.write(number.to_bytes(8, "little") * (1 << 17))
    store.add_tree(big)
    layout = LayoutSink(tmp_path / "layout")
    tracemalloc.start()
    try:
        write_image(store, image(store), layout, "none")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 24 << 20
