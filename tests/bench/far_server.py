"""A plain server that is some milliseconds away: `python -m tests.bench.far_server DIR MS`.

Prints its port. One process and one thread, so that it takes little of the processor from those who
are measured; it knows GET, HEAD, ranges and kept connections, and nothing else.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path


class Far(asyncio.Protocol):
    """One connection, with one request at a time."""

    def __init__(self, directory: Path, delay: float) -> None:
        self._directory = directory
        self._delay = delay
        self._data = b""
        self._transport: asyncio.Transport | None = None
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._data += data
        if self._task is None and b"\r\n\r\n" in self._data:
            self._task = asyncio.get_running_loop().create_task(self._answer())

    async def _answer(self) -> None:
        transport = self._transport
        assert transport is not None
        while b"\r\n\r\n" in self._data:
            head, _, self._data = self._data.partition(b"\r\n\r\n")
            await asyncio.sleep(self._delay)
            method, target, *_ = head.split(b" ", 2)
            place = self._directory / os.fsdecode(target).lstrip("/")
            if transport.is_closing():
                return
            if not place.is_file():
                transport.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
                continue
            with place.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
                if method == b"GET" and size < 1 << 16:
                    transport.write(file.read())
                elif method == b"GET":
                    try:
                        await asyncio.get_running_loop().sendfile(transport, file)
                    except ConnectionError:
                        return
        self._task = None


async def main(directory: Path, delay: float) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Far(directory, delay), "127.0.0.1", 0, backlog=512)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), float(sys.argv[2]) / 1000))
