"""A link to a server of this machine, as if it were far: `python -m tests.bench.slow_link PORT`.

Prints its own port. Requests take 20 ms; answers come at 12.5 MB/s, all connections together, which
is what a line of 100 Mbit/s has.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable

DELAY, RATE = 0.02, 12_500_000
_PIECE = 1 << 16

Wait = Callable[[int], Awaitable[None]]
"""Until so many bytes have been passed on."""


class Link:
    """`free` is when the line has sent all that it was given, by the clock of the loop."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._free = 0.0

    async def connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._port)
        await asyncio.gather(
            self._pass_on(reader, back, self._wait), self._pass_on(there, writer, self._send)
        )

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, wait: Wait
    ) -> None:
        try:
            while data := await reader.read(_PIECE):
                await wait(len(data))
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        writer.close()

    async def _wait(self, size: int) -> None:
        await asyncio.sleep(DELAY)

    async def _send(self, size: int) -> None:
        now = asyncio.get_running_loop().time()
        self._free = max(self._free, now) + size / RATE
        await asyncio.sleep(self._free - now)


async def main(port: int) -> None:
    server = await asyncio.start_server(Link(port).connect, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
