"""The server's end of gRPC: methods over bytes, threads, sockets, health, and a clean end.

A method that raises an EkaError answers with a status; anything else it raises is a bug, which gRPC
reports on stderr and to the client as UNKNOWN. Memory is bounded: a fixed number of threads, each
with one message at a time. There is no encryption and nobody is asked who he is, so a socket is the
owner's alone (0600), and a port is for those who may reach it. Out of scope: what the bytes mean.
"""

from __future__ import annotations

import os
import socket
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple

from eka_runtime.errors import EkaError, ServiceError, StoreCorrupt, UsageError
from eka_runtime.rpc.address import Host, Socket, parse_listen
from eka_runtime.rpc.library import MAX_MESSAGE, grpc

Status = grpc.StatusCode

THREADS = 32
"""Calls answered at the same time; eight times as many may wait, and more are refused."""

_WAITING = 8
_DETAILS_MAX = 500
_OPTIONS = [
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.max_send_message_length", -1),
    # Two servers would share a port, and each client would meet either.
    ("grpc.so_reuseport", 0),
    # What may be under way to each call. The library's own estimate grows to many MiB.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 1 << 19),
    # A client that has vanished must not keep a thread.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
]
_HEALTH = "grpc.health.v1.Health"
_SERVING = b"\x08\x01"  # HealthCheckResponse: status (1) is SERVING


class Refused(ServiceError):
    """Raised by a method to answer with this status."""

    def __init__(self, status: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.status = status


class Method(NamedTuple):
    """Made by `unary`, `answering` and `collecting`; `failure` is the status of most errors."""

    kind: Callable[..., grpc.RpcMethodHandler[Any, Any]]
    run: Callable[..., Any]
    failure: grpc.StatusCode


Methods = Mapping[str, Method]


def unary(run: Callable[[bytes], bytes], failure: grpc.StatusCode = Status.UNKNOWN) -> Method:
    return Method(grpc.unary_unary_rpc_method_handler, partial(_one, run), failure)


def answering(
    run: Callable[[bytes], Iterator[bytes]], failure: grpc.StatusCode = Status.UNKNOWN
) -> Method:
    """One message in, many out."""
    return Method(grpc.unary_stream_rpc_method_handler, partial(_many, run), failure)


def collecting(
    run: Callable[[Iterator[bytes]], bytes], failure: grpc.StatusCode = Status.UNKNOWN
) -> Method:
    """Many messages in, one out. The iterator raises when the client gives up."""
    return Method(grpc.stream_unary_rpc_method_handler, partial(_all, run), failure)


def _one(
    run: Callable[[bytes], bytes],
    failure: grpc.StatusCode,
    request: bytes,
    context: grpc.ServicerContext,
) -> bytes:
    try:
        return run(request)
    except EkaError as error:
        context.abort(*_status(error, failure))


def _many(
    run: Callable[[bytes], Iterator[bytes]],
    failure: grpc.StatusCode,
    request: bytes,
    context: grpc.ServicerContext,
) -> Iterator[bytes]:
    try:
        yield from run(request)
    except EkaError as error:
        context.abort(*_status(error, failure))


def _all(
    run: Callable[[Iterator[bytes]], bytes],
    failure: grpc.StatusCode,
    requests: Iterator[bytes],
    context: grpc.ServicerContext,
) -> bytes:
    try:
        return run(_complete(requests, context))
    except EkaError as error:
        context.abort(*_status(error, failure))


def _complete(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
    yield from requests
    # The library ends the iteration also when the client hung up in the middle.
    if not context.is_active():
        raise Refused(Status.CANCELLED, "the client has gone")


def _status(error: EkaError, failure: grpc.StatusCode) -> tuple[grpc.StatusCode, str]:
    if isinstance(error, Refused):
        code = error.status
    else:
        code = Status.DATA_LOSS if isinstance(error, StoreCorrupt) else failure
    return code, str(error)[:_DETAILS_MAX]


@contextmanager
def serving(
    listen: str,
    services: Mapping[str, Methods],
    *,
    threads: int = THREADS,
    grace: float = 5.0,
) -> Iterator[str]:
    """Yields the URL of the services, by name, once they answer on `unix:PATH` or `HOST:PORT`.

    At the end no new calls are taken, and those under way have `grace` seconds to complete.
    Raises UsageError when it is not possible to listen there.
    """
    address = parse_listen(listen)
    with ExitStack() as stack:
        pool = ThreadPoolExecutor(threads, thread_name_prefix="grpc")
        stack.callback(pool.shutdown, wait=False, cancel_futures=True)
        server = grpc.server(
            pool,
            [_handlers(name, methods) for name, methods in _with_health(services).items()],
            options=_OPTIONS,
            maximum_concurrent_rpcs=threads * (1 + _WAITING),
        )
        # Only `stop` ends a server, also one that was never started.
        stack.callback(lambda: server.stop(grace).wait())
        if isinstance(address, Host):
            bound: Socket | Host = _listen_host(server, address)
        else:
            bound = stack.enter_context(_listening_socket(server, address))
        yield str(bound)


def _handlers(name: str, methods: Methods) -> grpc.GenericRpcHandler[Any, Any]:
    handlers = {
        label: method.kind(partial(method.run, method.failure)) for label, method in methods.items()
    }
    return grpc.method_handlers_generic_handler(name, handlers)


def _with_health(services: Mapping[str, Methods]) -> dict[str, Methods]:
    # A HealthCheckRequest has one field, service (1): these are all that have an answer.
    known = {b""} | {b"\x0a" + bytes([len(name)]) + name.encode() for name in services}

    def check(request: bytes) -> bytes:
        if request not in known:
            raise Refused(Status.NOT_FOUND, "no such service")
        return _SERVING

    return {**services, _HEALTH: {"Check": unary(check)}}


def _listen_host(server: grpc.Server, address: Host) -> Host:
    problem = "it is in use, or not an address of this machine"
    try:
        port = server.add_insecure_port(address.authority)
    except RuntimeError as error:
        raise _cannot_listen(address.authority, problem) from error
    if not port:
        raise _cannot_listen(address.authority, problem)
    server.start()
    return address._replace(port=port)


@contextmanager
def _listening_socket(server: grpc.Server, address: Socket) -> Iterator[Socket]:
    """Made in a directory nobody else can enter, and moved when it has its mode and answers."""
    _check_free(address)
    directory, _ = os.path.split(address.path)
    try:
        with tempfile.TemporaryDirectory(prefix=".eka-", dir=directory) as private:
            fresh = Socket(os.path.join(private, "s"))
            server.add_insecure_port(fresh.target)
            os.chmod(fresh.path, 0o600)
            made = os.lstat(fresh.path)
            server.start()
            os.rename(fresh.path, address.path)
    except (OSError, RuntimeError) as error:
        problem = error.strerror if isinstance(error, OSError) else None
        raise _cannot_listen(
            address.path, problem or "its directory cannot hold a socket, or has too long a name"
        ) from error
    try:
        yield address
    finally:
        _remove(address.path, made)


def _check_free(address: Socket) -> None:
    """A socket that nobody listens on is what a killed server left."""
    try:
        kind = os.lstat(address.path).st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise _cannot_listen(address.path, error.strerror or "unknown error") from error
    if not stat.S_ISSOCK(kind):
        raise _cannot_listen(address.path, "it exists, and is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(address.path)
        except ConnectionRefusedError:
            return
        except OSError as error:
            raise _cannot_listen(address.path, error.strerror or "unknown error") from error
    raise _cannot_listen(address.path, "another server listens there")


def _remove(path: str, made: os.stat_result) -> None:
    """Unless another server has taken the place."""
    try:
        if os.path.samestat(os.lstat(path), made):
            os.unlink(path)
    except FileNotFoundError:
        return


def _cannot_listen(where: str, problem: str) -> UsageError:
    return UsageError(
        f"cannot listen on {where}: {problem}",
        hint="choose another place with `--listen unix:PATH` or `--listen HOST:PORT`",
    )
