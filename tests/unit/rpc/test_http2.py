"""What a peer that is not of our library sees on the wire."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

from eka_runtime.errors import ServiceError
from eka_runtime.rpc.channel import Channel

_HEADER = 9
_SETTINGS = b"\0\0\0\4\0\0\0\0\0"
_HEADERS = 1


def _first_headers(peer: socket.socket, found: list[bytes]) -> None:
    """The payload of the first HEADERS frame (RFC 9113 section 6.2), then hangs up."""
    connection, _ = peer.accept()
    with connection, connection.makefile("rb") as stream:
        connection.sendall(_SETTINGS)
        stream.read(len(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))
        while header := stream.read(_HEADER):
            payload = stream.read(int.from_bytes(header[:3], "big"))
            if header[3] == _HEADERS:
                found.append(payload)
                return


def test_the_authority_of_a_socket_is_one(place: Path) -> None:
    """Servers of hyper's, which snix's is, refuse a request whose `:authority` is a path."""
    found: list[bytes] = []
    with socket.socket(socket.AF_UNIX) as peer:
        peer.bind(f"{place}/s")
        peer.listen()
        thread = threading.Thread(target=_first_headers, args=(peer, found))
        thread.start()
        channel = Channel(f"grpc+unix:{place}/s")
        try:
            channel.call("/test/Echo", b"")
        except ServiceError:
            pass
        finally:
            thread.join()
            channel.close()
    assert b"localhost" in found[0]
    assert b"%2F" not in found[0]
