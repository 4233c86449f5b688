"""Every kind of object store against the same contract; S3 itself is not among them."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from eka_runtime.castore import objects as module
from eka_runtime.castore.objects import (
    FileObjects,
    MemoryObjects,
    Objects,
    RemoteObjects,
    from_url,
    read_object,
)
from eka_runtime.errors import (
    MissingExtra,
    ServiceError,
    StoreAccessError,
    StoreCorrupt,
    UsageError,
)
from tests.requirements import lacking
from tests.stores import unprivileged
from tests.unit.castore.local import file_limit

KEY = "blobs/b3/0123/0123abc"


def _file(path: Path) -> Objects:
    return FileObjects(path / "not" / "yet")


def _memory(_: Path) -> Objects:
    return MemoryObjects()


def _remote_memory(_: Path) -> Objects:
    _obstore()
    from obstore.store import MemoryStore

    return RemoteObjects(MemoryStore())


def _remote_local(path: Path) -> Objects:
    _obstore()
    from obstore.store import LocalStore

    return RemoteObjects(LocalStore(path))


def _obstore() -> None:
    try:
        import obstore  # noqa: F401
    except ImportError:
        lacking("the library obstore is not installed")


KINDS = {"file": _file, "memory": _memory, "obstore": _remote_memory, "obstore-file": _remote_local}


@pytest.fixture(params=KINDS.values(), ids=list(KINDS))
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> Objects:
    make: Callable[[Path], Objects] = request.param
    return make(tmp_path)


@pytest.mark.parametrize("data", [b"", b"contents", os.urandom(3_000_000)], ids=len)
@pytest.mark.parametrize("wrap", [bytes, io.BytesIO])
def test_what_was_put_is_got(objects: Objects, data: bytes, wrap: type) -> None:
    objects.put(KEY, wrap(data))
    assert objects.head(KEY) == len(data)
    assert read_object(objects, KEY, len(data)) == data
    assert list(objects.list("blobs/b3")) == [KEY]


def test_what_is_not_there_is_none(objects: Objects) -> None:
    for _ in range(2):
        assert objects.head("blobs/other") is None
        assert objects.get("blobs/other") is None
        assert read_object(objects, "blobs/other", 1) is None
        assert list(objects.list("other")) == []
        objects.put(KEY, b"")


def test_what_is_there_stays_unless_it_is_replaced(objects: Objects) -> None:
    objects.put(KEY, b"first")
    objects.put(KEY, b"second")
    assert read_object(objects, KEY, 100) == b"first"
    objects.put(KEY, b"third", replace=True)
    assert read_object(objects, KEY, 100) == b"third"


def test_a_listing_has_what_is_below_a_prefix_of_whole_components(objects: Objects) -> None:
    for key in ("a/b/1", "a/b/c/2", "a/bc/3", "d"):
        objects.put(key, b"")
    assert sorted(objects.list("a/b")) == ["a/b/1", "a/b/c/2"]


def test_no_more_is_read_than_asked_for(objects: Objects) -> None:
    objects.put(KEY, bytes(101))
    assert read_object(objects, KEY, 101) == bytes(101)
    with pytest.raises(StoreCorrupt, match=f"{KEY} has more than 100 bytes"):
        read_object(objects, KEY, 100)


def test_a_reader_may_be_left_early(objects: Objects) -> None:
    objects.put(KEY, bytes(3_000_000))
    reader = objects.get(KEY)
    assert reader is not None
    with reader:
        assert set(reader.read(10)) == {0}


def test_files_are_where_the_url_says(tmp_path: Path) -> None:
    place = tmp_path / "with space"
    for url in (f"objectstore+file://{tmp_path}/with%20space", f"objectstore+file:{place}"):
        from_url(url).put("a/b", b"x", replace=True)
        assert (place / "a" / "b").read_bytes() == b"x"


def test_files_in_the_making_are_no_objects_and_leave_nothing_behind(tmp_path: Path) -> None:
    objects = FileObjects(tmp_path)
    objects.put("a/b", b"x")
    (tmp_path / "a" / "c#123").write_bytes(b"by another process")
    assert list(objects.list("a")) == ["a/b"]

    class Broken(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        objects.put("a/d", Broken())
    assert sorted(os.listdir(tmp_path / "a")) == ["b", "c#123"]


def test_a_full_disk_is_an_error_with_the_path(tmp_path: Path) -> None:
    with file_limit(10), pytest.raises(StoreAccessError, match=f"cannot write {tmp_path}/a/b: "):
        FileObjects(tmp_path).put("a/b", bytes(100))
    assert os.listdir(tmp_path / "a") == []


def test_what_may_not_be_read_is_an_error_not_missing(tmp_path: Path) -> None:
    objects = FileObjects(tmp_path)
    objects.put("a/b", b"x")
    (tmp_path / "a").chmod(0)
    try:
        with unprivileged():
            for work in (objects.head, objects.get, partial(objects.put, content=b"")):
                with pytest.raises(StoreAccessError, match=r"cannot read .*/a/b: Perm"):
                    work("a/b")
            with pytest.raises(StoreAccessError, match="cannot list"):
                list(objects.list("a"))
    finally:
        (tmp_path / "a").chmod(0o755)


@contextmanager
def served(directory: Path, *, shorter: int = 0) -> Iterator[str]:
    """The URL of a plain web server, which cannot be written to."""

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def copyfile(self, source: io.BufferedIOBase, outputfile: io.BufferedIOBase) -> None:  # type: ignore[override]
            data = source.read()
            outputfile.write(data[: len(data) - shorter])

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=directory)) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"objectstore+http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What fails is not tried again, which takes a second."""
    _obstore()
    monkeypatch.setattr(module, "_RETRIES", 0)


@pytest.mark.usefixtures("impatient")
def test_a_web_server_is_read(tmp_path: Path) -> None:
    FileObjects(tmp_path).put(f"base/{KEY}", b"contents" * 100_000)
    with served(tmp_path) as url:
        objects = from_url(f"{url}/base")
        assert objects.head(KEY) == 800_000
        assert read_object(objects, KEY, 800_000) == b"contents" * 100_000
        assert objects.head("other") is None
        assert objects.get("other") is None
        with pytest.raises(ServiceError, match=r"PUT .*501 Not Implemented") as caught:
            objects.put("other", b"x")
    assert "\n" not in str(caught.value)
    assert caught.value.hint


@pytest.mark.usefixtures("impatient")
def test_a_web_server_that_stops_early_is_an_error(tmp_path: Path) -> None:
    FileObjects(tmp_path).put(KEY, bytes(100_000))
    with served(tmp_path, shorter=1) as url, pytest.raises(ServiceError):
        read_object(from_url(url), KEY, 100_000)


@pytest.mark.usefixtures("impatient")
def test_a_server_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with served(tmp_path) as url:
        objects = from_url(url)
    work: list[Callable[[], object]] = [
        partial(objects.head, KEY),
        partial(objects.get, KEY),
        partial(objects.put, KEY, b"x"),
    ]
    for one in work:
        with pytest.raises(ServiceError, match=url.removeprefix("objectstore+")):
            one()


@pytest.mark.usefixtures("impatient")
def test_options_come_from_the_query_and_beside_it(tmp_path: Path) -> None:
    query = "aws_allow_http=true&Region=here&timeout=10s&skip_signature=true"
    with served(tmp_path) as url:
        endpoint = {"aws_endpoint": url.removeprefix("objectstore+"), "region": "there"}
        objects = from_url(f"objectstore+s3://bucket/prefix?{query}", endpoint)
        # That a request arrives is all that can be told without an S3: it is asked for this path.
        FileObjects(tmp_path).put(f"bucket/prefix/{KEY}", b"x")
        assert objects.head(KEY) == 1


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"])
def test_an_endpoint_of_a_variable_needs_no_leave_for_http(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    FileObjects(tmp_path).put(f"bucket/{KEY}", b"x")
    with served(tmp_path) as url:
        # The later ones are passed over.
        monkeypatch.setenv("AWS_ENDPOINT", "https://127.0.0.1:1")
        monkeypatch.setenv(name, url.removeprefix("objectstore+"))
        objects = from_url("objectstore+s3://bucket?skip_signature=true&region=here")
        assert objects.head(KEY) == 1


@pytest.mark.usefixtures("impatient")
def test_an_endpoint_of_s3_lets_no_other_service_do_without_tls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FileObjects(tmp_path).put(f"bucket/{KEY}", b"x")
    with served(tmp_path) as url:
        place = url.removeprefix("objectstore+")
        monkeypatch.setenv("AWS_ENDPOINT", place)
        query = f"google_base_url={place}&google_skip_signature=true"
        # Nothing is sent.
        with pytest.raises(ServiceError, match="builder error"):
            from_url(f"objectstore+gs://bucket?{query}").head(KEY)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("file:///directory", "not the URL of an object store"),
        ("objectstore+ftp://host/x", "not the URL of an object store"),
        ("objectstore+", "not the URL of an object store"),
        ("objectstore+file:relative", "does not name a directory by an absolute path"),
        ("objectstore+file://host/x", "takes no host: 'host'"),
        ("objectstore+file:///x?secret=1", "takes no options: secret"),
        ("objectstore+memory:///?secret=1", "takes no options: secret"),
        ("objectstore+http://[::1/x", "not a URL"),
        ("objectstore+memory:///?secret", "options behind it are malformed"),
    ],
)
def test_urls_that_are_not_taken(url: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        from_url(url)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("objectstore+s3://", "Unable to recognise URL"),
        ("objectstore+s3://bucket?wrong=secret", "'wrong' is not valid"),
        ("objectstore+https://host/x?wrong=secret", "unknown options: wrong"),
        ("objectstore+https://host/x?connect_timeout=never", "failed to parse"),
    ],
)
def test_urls_that_obstore_does_not_take(url: str, message: str) -> None:
    _obstore()
    with pytest.raises(UsageError, match=message) as caught:
        from_url(url)
    assert "secret" not in str(caught.value)


def test_without_obstore_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    with pytest.raises(MissingExtra, match="needs the library obstore") as caught:
        from_url("objectstore+s3://bucket")
    assert caught.value.hint == "run `pip install 'eka[s3]'`"
