"""The client's end of gRPC: bytes there and back, and every failure as an error of eka.

Connections are made when they are needed and again when they are lost. There are no deadlines, as
nobody can say how long a blob takes: a peer that has vanished is noticed by pings. Out of scope:
what the bytes mean.
"""

from __future__ import annotations

import queue
import ssl
import threading
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Protocol, TypeVar

from eka_runtime.closing import Closing
from eka_runtime.errors import EkaError, FormatError, ServiceError, StoreCorrupt, UsageError
from eka_runtime.printable import in_one_line
from eka_runtime.rpc.address import ServiceUrl, Socket
from eka_runtime.rpc.library import MAX_MESSAGE, ChannelOptions, grpc

T = TypeVar("T")

_OPTIONS = [
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.max_send_message_length", -1),
    # Not more often: many servers take that for an attack, and hang up.
    ("grpc.keepalive_time_ms", 310_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.max_pings_without_data", 0),
    # Small answers are waited for without a thread in between: four times as many in a second.
    (ChannelOptions.SingleThreadedUnaryStream, 1),
]
_DETAILS_MAX = 500
_LARGE = "most services take at most 4 MiB at once: a directory of some 60 000 entries"


class NotFound(ServiceError):
    """The service answered that it does not have what was asked for."""


class Channel:
    """To all services behind one URL; may be used from several threads."""

    def __init__(self, url: str) -> None:
        """Raises UsageError for a bad URL; ServiceError when it says `wait-connect=1` in vain."""
        self.url = url
        parsed = ServiceUrl.parse(url)
        target = parsed.address.target
        options: list[tuple[str, int | str]] = list(_OPTIONS)
        if parsed.address.local:
            options.append(("grpc.enable_http_proxy", 0))
        if isinstance(parsed.address, Socket):
            # It would be the path, which servers of hyper's, such as snix's, refuse.
            options.append(("grpc.default_authority", "localhost"))
        if parsed.secure:
            self._channel = grpc.secure_channel(target, _credentials(parsed), options)
        else:
            self._channel = grpc.insecure_channel(target, options)
        if parsed.wait_connect:
            self._connect()

    def call(self, method: str, request: bytes) -> bytes:
        """One message each way. Raises NotFound, and otherwise as `receive`."""
        try:
            answer: bytes = self._channel.unary_unary(method, None, None)(request)
        except grpc.RpcError as error:
            raise self._failure(method, error) from error
        return answer

    def receive(self, method: str, request: bytes) -> Incoming:
        """One message there, many back, which raise when they are waited for.

        ServiceError when the service cannot be reached or refuses, NotFound (one of those) when
        that is what it says, StoreCorrupt when it says that it has lost data.
        """
        stream = self._channel.unary_stream(method, None, None)(request)
        return Incoming(stream, lambda error: self._failure(method, error))

    def send(self, method: str, messages: Generator[bytes, None, None]) -> bytes:
        """Many messages there, made by another thread, and one back.

        What `messages` raises is raised here, and the service is told that they are not complete.
        They are closed when this returns. Otherwise raises as `receive`.
        """
        outgoing = _Outgoing(messages)
        call = self._channel.stream_unary(method, None, None).future(outgoing)
        try:
            outgoing.begin(call)
            answer: bytes = call.result()
        except (grpc.RpcError, grpc.FutureCancelledError) as error:
            outgoing.end(call)
            if outgoing.error is not None:
                raise outgoing.error from None
            raise self._failure(method, error) from error
        finally:
            outgoing.end(call)
        return answer

    def understood(self, decode: Callable[[], T]) -> T:
        """What `decode` returns; a FormatError is the service's fault."""
        try:
            return decode()
        except FormatError as error:
            raise ServiceError(f"{self.url} answered what makes no sense: {error}") from error

    def close(self) -> None:
        """Ends all calls."""
        self._channel.close()

    def _connect(self) -> None:
        states: queue.SimpleQueue[grpc.ChannelConnectivity] = queue.SimpleQueue()
        self._channel.subscribe(states.put, try_to_connect=True)
        failures = (grpc.ChannelConnectivity.TRANSIENT_FAILURE, grpc.ChannelConnectivity.SHUTDOWN)
        while (state := states.get()) is not grpc.ChannelConnectivity.READY:
            if state in failures:
                self._channel.close()
                raise self._unreachable("no connection")
        self._channel.unsubscribe(states.put)

    def _failure(self, method: str, error: Exception) -> EkaError:
        if not isinstance(error, grpc.RpcError):
            return ServiceError(f"{self.url}: {method} was cancelled")
        code, details = error.code(), in_one_line(error.details() or "no details", _DETAILS_MAX)
        if code is grpc.StatusCode.NOT_FOUND:
            return NotFound(f"{self.url}: {method}: not found: {details}")
        if code is grpc.StatusCode.UNAVAILABLE:
            return self._unreachable(details)
        if code is grpc.StatusCode.DATA_LOSS:
            return StoreCorrupt(f"{self.url}: {details}", hint="verify the store behind it")
        large = (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.OUT_OF_RANGE)
        return ServiceError(
            f"{self.url}: {method}: {code.name}: {details}", hint=_LARGE if code in large else None
        )

    def _unreachable(self, details: str) -> ServiceError:
        return ServiceError(
            f"cannot reach {self.url}: {details}", hint="check the URL and that the service runs"
        )


def _credentials(url: ServiceUrl) -> grpc.ChannelCredentials:
    # The system's own certificates: those that come with the library know no company's.
    roots = url.ca_cert or ssl.get_default_verify_paths().cafile
    return grpc.ssl_channel_credentials(
        _pem(roots) if roots else None,
        _pem(url.client_key) if url.client_key else None,
        _pem(url.client_cert) if url.client_cert else None,
    )


def _pem(file: str) -> bytes:
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read `{file}`: {error.strerror}") from error


class Incoming(Closing):
    """The messages of an answer: an iterator to be closed, which ends the call."""

    def __init__(
        self, stream: grpc.CallIterator[bytes], failure: Callable[[Exception], EkaError]
    ) -> None:
        self._stream = stream
        self._messages = iter(stream)
        self._failure = failure

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            return next(self._messages)
        except grpc.RpcError as error:
            raise self._failure(error) from error

    def close(self) -> None:
        self._stream.cancel()  # type: ignore[no-untyped-call]


class _Call(Protocol):
    def cancel(self) -> object: ...


class _Outgoing:
    """Messages on their way to the thread that sends them.

    To end, for that thread, is to say that they are complete. So after an error the call is
    cancelled first. The lock keeps the source from being used when the caller has gone on.
    """

    def __init__(self, messages: Generator[bytes, None, None]) -> None:
        self.error: BaseException | None = None
        self._messages = messages
        self._lock = threading.Lock()
        self._ended = False
        self._calls: queue.SimpleQueue[_Call] = queue.SimpleQueue()

    def begin(self, call: _Call) -> None:
        """Tells what is to be cancelled: the thread may be faster than whoever started it."""
        self._calls.put(call)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        with self._lock:
            if self._ended:
                raise StopIteration
            try:
                return next(self._messages)
            except StopIteration:
                self._ended = True
                raise
            except BaseException as error:
                self.error, self._ended = error, True
                self._calls.get().cancel()
                raise StopIteration from None

    def end(self, call: _Call) -> None:
        """Waits for a message in the making; none is made from then on."""
        call.cancel()
        with self._lock:
            self._ended = True
            self._messages.close()
