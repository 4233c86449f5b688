"""The FUSE protocol against a socket that plays the kernel, also one that asks what it may not."""

from __future__ import annotations

import errno
import os
import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from eka_runtime.linux.fuse import (
    BATCH_FORGET,
    FLUSH,
    FORGET,
    GETATTR,
    GETXATTR,
    INIT,
    LISTXATTR,
    LOOKUP,
    OPEN,
    OPENDIR,
    READ,
    READDIR,
    READDIRPLUS,
    READLINK,
    RELEASEDIR,
    STATFS,
    Session,
    Slow,
    pack_attributes,
    pack_entry,
)

HEADER, ANSWER = struct.Struct("=IIQQIIIHH"), struct.Struct("=IiQ")
OFFERED = 0xFFFFFFFF
ATTRIBUTES = pack_attributes(7, 0o100444, 5, time=1, uid=0, gid=0, blocks=8)


class Files:
    """One file `a` with contents b"hello", and a download that the test can hold up."""

    def __init__(self, live: bool = False) -> None:
        self.live = live
        self.forgotten: list[tuple[int, int]] = []
        self.gate = threading.Event()
        self.fetched = False
        self.failure = 0
        self.names = [b"a", b"b" * 255]

    def lookup(self, parent: int, name: bytes) -> bytes | None:
        return pack_entry(2, ATTRIBUTES) if name == b"a" else None

    def forget(self, node: int, count: int) -> None:
        self.forgotten.append((node, count))

    def attributes(self, node: int) -> bytes:
        if node > 2:
            raise OSError(errno.ESTALE, "no such inode")
        return ATTRIBUTES

    def read_link(self, node: int) -> bytes:
        raise OSError(errno.EINVAL, "not a link")

    def read(self, node: int, offset: int, size: int) -> bytes | memoryview:
        if node == 3 and not self.fetched:
            raise Slow("key", self._fetch)
        return b"hello"[offset : offset + size]

    def _fetch(self) -> None:
        self.gate.wait()
        if self.failure:
            raise OSError(self.failure, "no")
        self.fetched = True

    def listing(self, node: int) -> Sequence[tuple[bytes, object]]:
        return [(name, 0) for name in self.names]

    def describe(self, parent: int, name: bytes, item: object) -> tuple[int, int]:
        return 7, 8

    def enter(self, parent: int, name: bytes, item: object) -> bytes:
        return pack_entry(2, ATTRIBUTES)


class Kernel:
    """The other end of the connection."""

    def __init__(self, files: Files) -> None:
        self.files = files
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._theirs = theirs
        self._thread = threading.Thread(target=Session(theirs.fileno(), files).serve)
        self._thread.start()
        self._unique = 0

    def ask(self, opcode: int, body: bytes = b"", node: int = 1) -> int:
        self._unique += 2
        size = HEADER.size + len(body)
        self._ours.send(HEADER.pack(size, opcode, self._unique, node, 0, 0, 0, 0, 0) + body)
        return self._unique

    def answer(self) -> tuple[int, int, bytes]:
        """Request, errno, body."""
        data = self._ours.recv(1 << 21)
        size, error, unique = ANSWER.unpack_from(data)
        assert size == len(data)
        return unique, -error, data[ANSWER.size :]

    def call(self, opcode: int, body: bytes = b"", node: int = 1) -> tuple[int, bytes]:
        asked = self.ask(opcode, body, node)
        unique, error, data = self.answer()
        assert unique == asked
        return error, data

    def end(self) -> None:
        self._ours.shutdown(socket.SHUT_WR)
        self._thread.join()
        self._ours.close()
        self._theirs.close()


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    made = Kernel(Files())
    yield made
    made.files.gate.set()
    made.end()


@pytest.fixture
def live() -> Iterator[Kernel]:
    made = Kernel(Files(live=True))
    yield made
    made.end()


def read_in(offset: int, size: int, handle: int = 0) -> bytes:
    return struct.pack("=QQIIQII", handle, offset, size, 0, 0, 0, 0)


def init(kernel: Kernel, major: int, minor: int) -> tuple[int, bytes]:
    return kernel.call(INIT, struct.pack("=IIII", major, minor, 131072, OFFERED))


def test_the_first_request_settles_what_is_never_asked_again(kernel: Kernel) -> None:
    error, data = init(kernel, 7, 45)
    major, minor, readahead, flags = struct.unpack_from("=IIII", data)
    assert (error, len(data), major, minor) == (0, 64, 7, 38)
    assert readahead >= 131072
    for bit in (17, 18, 22, 23, 24):  # no open, parallel lookups, max_pages, symlinks, no opendir
        assert flags & 1 << bit
    assert struct.unpack_from("=H", data, 28) == (256,)


@pytest.mark.parametrize(("major", "minor", "error"), [(6, 99, 71), (7, 27, 71), (8, 0, 0)])
def test_other_protocols(kernel: Kernel, major: int, minor: int, error: int) -> None:
    assert init(kernel, major, minor)[0] == error


@pytest.mark.parametrize(
    "opcode", [OPEN, OPENDIR, FLUSH, 0, 4, 7, 16, 36, 52, 77, 4096, 0xFFFFFFFF]
)
def test_what_is_not_known_is_not_there(kernel: Kernel, opcode: int) -> None:
    assert kernel.call(opcode, b"\0" * 64) == (errno.ENOSYS, b"")
    assert kernel.call(GETATTR)[0] == 0


@pytest.mark.parametrize("opcode", [READ, READDIR, READDIRPLUS, INIT, LISTXATTR])
def test_requests_that_are_cut_off(kernel: Kernel, opcode: int) -> None:
    assert kernel.call(opcode, b"\0\0\0") == (errno.EINVAL, b"")
    kernel.ask(FORGET, b"\0")  # has no answer, by the protocol, but an error is ignored
    kernel.answer()
    assert kernel.call(GETATTR)[0] == 0


def test_names_are_for_ever_and_so_are_those_that_are_not_there(kernel: Kernel) -> None:
    error, data = kernel.call(LOOKUP, b"a\0")
    assert (error, struct.unpack_from("=QQQQ", data)) == (0, (2, 0, 0xFFFFFFFF, 0xFFFFFFFF))
    error, data = kernel.call(LOOKUP, b"nothing\0")
    assert (error, struct.unpack_from("=QQQ", data)) == (0, (0, 0, 0xFFFFFFFF))


def test_a_root_that_changes(live: Kernel) -> None:
    assert live.call(LOOKUP, b"nothing\0") == (errno.ENOENT, b"")
    error, data = live.call(OPENDIR)
    handle, flags = struct.unpack_from("=QI", data)
    assert (error, flags) == (0, 0)
    live.files.names = [b"new"]
    # A handle keeps its names; another one has the new ones.
    assert b"bbb" in live.call(READDIR, read_in(0, 4096, handle))[1]
    assert b"new" in live.call(READDIR, read_in(0, 4096))[1]
    assert live.call(RELEASEDIR, read_in(0, 0, handle)) == (0, b"")
    assert b"new" in live.call(READDIR, read_in(0, 4096, handle))[1]
    assert struct.unpack_from("=QI", live.call(OPENDIR, node=2)[1]) == (0, 10)


@pytest.mark.parametrize(("opcode", "head"), [(READDIR, 0), (READDIRPLUS, 128)])
def test_listings_come_in_pieces_of_any_size(kernel: Kernel, opcode: int, head: int) -> None:
    found, offset = [], 0
    while data := kernel.call(opcode, read_in(offset, 440))[1]:
        while data:
            _inode, offset, length, _kind = struct.unpack_from("=QQII", data, head)
            found.append(data[head + 24 : head + 24 + length])
            data = data[head + (24 + length + 7 & ~7) :]
    assert found == [b".", b"..", b"a", b"b" * 255]
    assert kernel.call(opcode, read_in(1 << 63, 4096)) == (0, b"")


def test_forgetting(kernel: Kernel) -> None:
    kernel.ask(FORGET, struct.pack("=Q", 3), node=2)
    kernel.ask(BATCH_FORGET, struct.pack("=IIQQQQ", 2, 0, 5, 1, 6, 2))
    kernel.ask(BATCH_FORGET, struct.pack("=IIQQ", 1 << 30, 0, 7, 1))
    assert kernel.call(GETATTR)[0] == 0
    assert kernel.files.forgotten == [(2, 3), (5, 1), (6, 2), (7, 1)]


def test_attributes_and_failures(kernel: Kernel) -> None:
    error, data = kernel.call(GETATTR)
    assert (error, len(data), data[16:]) == (0, 104, ATTRIBUTES)
    assert kernel.call(GETATTR, node=99) == (errno.ESTALE, b"")
    assert kernel.call(READLINK) == (errno.EINVAL, b"")
    assert kernel.call(GETXATTR, struct.pack("=II", 0, 0) + b"user.x\0") == (errno.ENODATA, b"")
    assert kernel.call(LISTXATTR, struct.pack("=II", 0, 0)) == (0, bytes(8))
    assert kernel.call(LISTXATTR, struct.pack("=II", 64, 0)) == (0, b"")
    assert len(kernel.call(STATFS)[1]) == 80


def test_reading(kernel: Kernel) -> None:
    assert kernel.call(READ, read_in(1, 3), node=2) == (0, b"ell")
    assert kernel.call(READ, read_in(5, 3), node=2) == (0, b"")


def test_what_takes_time_keeps_nobody_else_waiting(kernel: Kernel) -> None:
    waiting = {kernel.ask(READ, read_in(0, 5), node=3) for _ in range(3)}
    assert kernel.call(GETATTR)[0] == 0
    kernel.files.gate.set()
    answers = [kernel.answer() for _ in waiting]
    assert {unique for unique, *_ in answers} == waiting
    assert {rest for _, *pair in answers for rest in [tuple(pair)]} == {(0, b"hello")}


def test_what_takes_time_may_fail_and_be_tried_again(kernel: Kernel) -> None:
    kernel.files.failure = errno.EIO
    kernel.files.gate.set()
    assert kernel.call(READ, read_in(0, 5), node=3) == (errno.EIO, b"")
    kernel.files.failure = 0
    assert kernel.call(READ, read_in(0, 5), node=3) == (0, b"hello")


def test_a_device_that_is_none(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(OSError, match="directory"):
            Session(fd, Files()).serve()
    finally:
        os.close(fd)
