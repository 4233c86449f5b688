"""podman's API socket for testcontainers, and an image that is made here and pulled from nowhere.

The image has only directories and links: programs are those of the host, whose /usr is mounted into
each container, and eka comes in its venv. So what is tested is eka in a container, with this host's
runtimes, and nothing has to be downloaded.
"""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from tests.podman import Podman, podman_of
from tests.requirements import lacking
from tests.users import User

IMAGE = "localhost/eka-test/host:1"
WAIT = 90

# Containers are found by the socket, and nothing but this process watches over them.
SETTINGS = {
    "TESTCONTAINERS_RYUK_DISABLED": "true",
    "TESTCONTAINERS_CONNECTION_MODE": "docker_host",
    "TESTCONTAINERS_HOST_OVERRIDE": "127.0.0.1",
}


class Ended(NamedTuple):
    status: int
    out: str
    err: str


class Engine(NamedTuple):
    """A podman service of one user's."""

    podman: Podman
    url: str

    @property
    def user(self) -> User:
        return self.podman.user

    def run(
        self,
        image: str,
        *command: str,
        mounts: tuple[Path, ...] = (),
        env: Mapping[str, str] | None = None,
        **options: Any,
    ) -> Ended:
        """Starts a container by testcontainers and waits for its end; `options` are docker's."""
        os.environ.update(SETTINGS)
        from testcontainers.core.container import DockerContainer

        client = {"environment": {"DOCKER_HOST": self.url}}
        container = DockerContainer(image, docker_client_kw=client)
        container.with_command(list(command)).with_kwargs(network_mode="none", **options)
        for place in mounts:
            container.with_volume_mapping(os.fspath(place), os.fspath(place), "ro")
        for name, value in (env or {}).items():
            container.with_env(name, value)
        try:
            with container:
                wrapped = container.get_wrapped_container()
                assert wrapped is not None
                status = wrapped.wait(timeout=WAIT)["StatusCode"]
                out, err = container.get_logs()
        finally:
            container.get_docker_client().client.close()
        return Ended(status, out.decode(), err.decode())

    def load(self, archive: Path) -> str:
        """The name of the image that is in it."""
        import docker

        client = docker.DockerClient(base_url=self.url)
        try:
            with archive.open("rb") as stream:
                [image] = client.images.load(stream)
            return str(image.tags[0])
        finally:
            client.close()


@contextmanager
def engine_of(user: User) -> Iterator[Engine]:
    with podman_of(user) as podman:
        done = podman("import", "-", IMAGE, stdin=None, input=host_image())
        assert done.returncode == 0, done.stderr.decode()
        socket = podman.place / "runtime" / "podman.sock"
        service = ("--log-level=info", "system", "service", "--time=0", f"unix://{socket}")
        process = user.popen(
            podman.command(*service), env=podman.environment(), stderr=subprocess.PIPE
        )
        try:
            reader = _await(process)
            yield Engine(podman, f"unix://{socket}")
        finally:
            process.terminate()
            process.wait()
        reader.join()
        if process.stderr:
            process.stderr.close()


def _await(process: subprocess.Popen[bytes]) -> threading.Thread:
    """Returns when it listens; a thread goes on reading what it says."""
    assert process.stderr is not None
    said = b""
    for line in process.stderr:
        said += line
        if b"API service listening" in line:
            reader = threading.Thread(target=process.stderr.read)
            reader.start()
            return reader
    lacking(f"podman's service does not start: {said.decode(errors='replace')}")


def host_image() -> bytes:
    """For `podman import`: the places that a merged /usr leaves to the root directory."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name in ("dev", "etc", "home", "proc", "root", "run", "sys", "usr", "var"):
            tar.addfile(_entry(name, tarfile.DIRTYPE, 0o755))
        for name in ("tmp", "var/tmp"):
            tar.addfile(_entry(name, tarfile.DIRTYPE, 0o1777))
        for name in ("bin", "lib", "lib64", "sbin"):
            link = _entry(name, tarfile.SYMTYPE, 0o777)
            link.linkname = f"usr/{name}"
            tar.addfile(link)
        passwd = b"root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/home/user:/bin/sh\n"
        for name, data in (("etc/passwd", passwd), ("etc/group", b"root:x:0:\nuser:x:1000:\n")):
            file = _entry(name, tarfile.REGTYPE, 0o644)
            file.size = len(data)
            tar.addfile(file, io.BytesIO(data))
    return out.getvalue()


def _entry(name: str, kind: bytes, mode: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode = kind, mode
    return entry
