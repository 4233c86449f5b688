"""Pushing to a real registry: what is there is not sent, what is cut off shows nobody anything."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from eka_runtime.errors import ServiceError, StoreCorrupt
from eka_runtime.oci.image import INDEX, MANIFEST
from eka_runtime.oci.image_push import RegistrySink, attach
from eka_runtime.oci.image_write import Blob, Written, write_image
from eka_runtime.oci.registry import Credentials, Repository, find_credentials
from eka_runtime.store.store import Store
from tests.registry import PASSWORD, USER, Registry, registry
from tests.tokens import tokens
from tests.unit.oci.test_image import fill, image


@pytest.fixture(scope="module")
def open_registry() -> Iterator[Registry]:
    with registry() as made:
        yield made


@pytest.fixture(scope="module")
def closed_registry() -> Iterator[Registry]:
    with registry(auth=True) as made:
        yield made


@pytest.fixture
def filled(store: Store, tmp_path: Path) -> Store:
    fill(store, tmp_path / "trees")
    return store


class Push:
    """One push, and which layers it had to send."""

    def __init__(self, store: Store, repository: Repository, tag: str = "1") -> None:
        self.layers: list[tuple[Blob, bool]] = []
        sink = RegistrySink(repository, tag, lambda blob, new: self.layers.append((blob, new)))
        self.written: Written = write_image(store, image(store), sink, "zstd")
        self.top = sink.finish([self.written], "unused")

    @property
    def sent(self) -> list[bool]:
        return [new for _, new in self.layers]


def test_a_layer_is_sent_once(filled: Store, open_registry: Registry) -> None:
    repository = Repository(open_registry.host, "some/where")
    assert Push(filled, repository).sent == [True] * 3
    assert Push(filled, repository, "2").sent == [False] * 3
    for name in ("1", "2"):
        manifest = repository.get_manifest(name, MANIFEST)
        assert manifest is not None
        for layer in json.loads(manifest)["layers"]:
            assert repository.has_blob(layer["digest"])
    assert repository.get_manifest("3", MANIFEST) is None
    repository.close()


def test_damage_ends_a_push_before_there_is_a_tag(damaged: Store, open_registry: Registry) -> None:
    for file in damaged.layout.packs.rglob("*"):
        if file.is_file():
            file.chmod(0o644)
            file.write_bytes(file.read_bytes().replace(b"small", b"smell"))
    repository = Repository(open_registry.host, "damaged")
    with pytest.raises(StoreCorrupt):
        Push(damaged, repository)
    assert repository.get_manifest("1", MANIFEST) is None
    repository.close()


def test_credentials_are_needed_and_used(filled: Store, closed_registry: Registry) -> None:
    for credentials in (None, Credentials(USER, "wrong")):
        repository = Repository(closed_registry.host, "x", credentials)
        with pytest.raises(ServiceError, match="does not let us push") as caught:
            Push(filled, repository)
        assert caught.value.hint == f"log in with `podman login {closed_registry.host}`"
        repository.close()
    repository = Repository(closed_registry.host, "x", Credentials(USER, PASSWORD))
    assert Push(filled, repository).sent == [True] * 3
    repository.close()


def test_a_token_is_fetched_where_the_registry_says_so(filled: Store, tmp_path: Path) -> None:
    with tokens(tmp_path, USER, PASSWORD) as giver, registry(tokens=giver) as made:
        for credentials in (None, Credentials(USER, "wrong")):
            repository = Repository(made.host, "some/where", credentials)
            with pytest.raises(ServiceError, match="does not let us push"):
                Push(filled, repository)
            repository.close()
        assert giver.asked == []
        repository = Repository(made.host, "some/where", Credentials(USER, PASSWORD))
        top = Push(filled, repository).top
        assert repository.get_manifest("1", MANIFEST) is not None
        # One token serves a whole push.
        assert giver.asked == ["repository:some/where:pull,push"]
        attach(repository, top, "application/spdx+json", b"{}")
        repository.close()


def test_a_token_that_is_of_no_use_any_more_is_replaced(filled: Store, tmp_path: Path) -> None:
    with tokens(tmp_path, USER, PASSWORD) as giver, registry(tokens=giver) as made:
        repository = Repository(made.host, "x", Credentials(USER, PASSWORD))
        Push(filled, repository)
        repository._authorization = f"Bearer {giver.token('repository:y:pull')}"
        assert Push(filled, repository, "2").sent == [False] * 3
        assert len(giver.asked) == 2
        repository.close()


def test_credentials_are_not_sent_in_the_clear(filled: Store) -> None:
    class Elsewhere(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Bearer realm="http://example.invalid/token"')
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        repository = Repository(f"127.0.0.1:{server.server_address[1]}", "x", Credentials("a", "b"))
        with pytest.raises(ServiceError, match=r"sent to 'http://example\.invalid/token': refused"):
            Push(filled, repository)
        repository.close()
        server.shutdown()
        thread.join()


def test_nobody_there_is_said(filled: Store) -> None:
    with registry() as gone:
        pass
    repository = Repository(gone.host, "x")
    with pytest.raises(ServiceError, match="cannot be reached"):
        Push(filled, repository)


def test_documents_are_attached_and_replaced(filled: Store, open_registry: Registry) -> None:
    repository = Repository(open_registry.host, "attached")
    top = Push(filled, repository).top
    attach(repository, top, "application/spdx+json", b'{"old": true}')
    attach(repository, top, "application/vnd.in-toto+json", b"{}")
    kept = attach(repository, top, "application/spdx+json", b'{"new": true}')
    # Debian's registry has no referrers API, so a tag lists them.
    assert repository.referrers(top.digest) is None
    index = repository.get_manifest(top.digest.replace(":", "-"), INDEX)
    assert index is not None
    found = {one["artifactType"]: one["digest"] for one in json.loads(index)["manifests"]}
    assert found.keys() == {"application/spdx+json", "application/vnd.in-toto+json"}
    assert found["application/spdx+json"] == kept.digest
    manifest = json.loads(repository.get_manifest(kept.digest, MANIFEST) or b"{}")
    assert manifest["subject"]["digest"] == top.digest
    repository.close()


def test_credentials_come_from_the_files_of_podman_and_docker(tmp_path: Path) -> None:
    def login(file: Path, **auths: str) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        coded = {host: base64.b64encode(text.encode()).decode() for host, text in auths.items()}
        data = {"auths": {host: {"auth": text} for host, text in coded.items()}}
        file.write_text(json.dumps(data))

    environ = {"HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path / "run")}
    assert find_credentials("one", environ) is None
    login(tmp_path / ".docker" / "config.json", one="docker:1", two="docker:2:3")
    assert find_credentials("one", environ) == ("docker", "1")
    assert find_credentials("two", environ) == ("docker", "2:3")
    login(tmp_path / "run" / "containers" / "auth.json", one="podman:1")
    assert find_credentials("one", environ) == ("podman", "1")
    (tmp_path / "stated").write_text("{not json")
    assert find_credentials("one", environ | {"REGISTRY_AUTH_FILE": str(tmp_path / "stated")}) == (
        "podman",
        "1",
    )
