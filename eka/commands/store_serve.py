"""`eka store serve`: the store for others, until a signal ends it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from eka.context import Context
from eka.serving import announce, until_signal

if TYPE_CHECKING:
    from eka_runtime.rpc.address import Host, Socket
    from eka_runtime.store.store import Store

_CACHE_ADDRESS = "127.0.0.1:5000"
_TOKEN_MIN = 16


@click.command()
@click.option("--grpc", is_flag=True, help="Speak the gRPC protocol of snix instead.")
@click.option(
    "--listen",
    metavar="ADDRESS",
    help="HOST:PORT, by default 127.0.0.1:5000. With --grpc also unix:PATH, by default a socket in"
    " $XDG_RUNTIME_DIR.",
)
@click.option("--read-only", is_flag=True, help="Take nothing in.")
@click.option(
    "--key-file",
    "key_files",
    metavar="FILE",
    multiple=True,
    help="Sign what goes out with this secret key; repeatable.",
)
@click.option(
    "--compression",
    metavar="NAME",
    default="zstd",
    help="Of NARs: zstd (default), xz, bzip2, gzip, br, or none, which allows ranges.",
)
@click.option("--priority", type=int, default=40, help="Lower is asked earlier by clients.")
@click.option(
    "--upload-token-file",
    "token_file",
    metavar="FILE",
    help="Who sends this token, as a bearer or as a password, may add to the store.",
)
@click.pass_obj
def serve(
    context: Context,
    grpc: bool,
    listen: str | None,
    read_only: bool,
    key_files: tuple[str, ...],
    compression: str,
    priority: int,
    token_file: str | None,
) -> None:
    """Serve the store until Ctrl-C, as a binary cache for Nix and eka; its URL is printed.

    Whoever reaches the address may read the store. With --upload-token-file whoever has the token
    may add to it. With --grpc whoever reaches it may add to it; a socket is yours alone.
    """
    from eka_runtime.errors import UsageError

    if grpc:
        if key_files or token_file:
            raise UsageError(
                "`--key-file` and `--upload-token-file` are not for `--grpc`",
                hint="drop them, or serve a binary cache without `--grpc`",
            )
        _serve_grpc(context, listen, read_only)
        return
    from eka_runtime.cache.decompress import check_compression
    from eka_runtime.cache.keys import read_secret_key
    from eka_runtime.cache.server import Address, serving
    from eka_runtime.cache.serving import Cache, Policy

    check_compression(compression, None)
    address = Address.parse(listen or _CACHE_ADDRESS)
    token = None if read_only or token_file is None else _token(token_file)
    keys = tuple(read_secret_key(file) for file in key_files)
    policy = Policy(compression, priority, keys, token)
    with context.open_store(create=token is not None) as store, until_signal() as ended:
        if token is not None:
            store.require_writable()
        cache = Cache(store, policy, find_log=lambda name: _log(store, name))
        with serving(cache, address, context.output.warning) as url:
            announce(context, url, **{f"key{n}": str(key.public) for n, key in enumerate(keys)})
            ended.wait()


def _log(store: Store, name: str) -> bytes | None:
    from eka_runtime.build.log import write_log
    from eka_runtime.errors import FormatError, PathNotFound
    from eka_runtime.nix.path import StorePath

    parts: list[bytes] = []
    try:
        write_log(store, StorePath.from_base(name), parts.append)
    except (PathNotFound, FormatError):
        return None
    return b"".join(parts)


def _token(file: str) -> str:
    from eka_runtime.errors import UsageError

    try:
        with open(os.path.expanduser(file), encoding="utf-8") as stream:
            token = stream.read(4096).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the token in `{file}`: {error}") from error
    if len(token) < _TOKEN_MIN:
        raise UsageError(
            f"the token in `{file}` has {len(token)} characters, at least {_TOKEN_MIN} are needed",
            hint="make one: `head -c 24 /dev/urandom | base64 > FILE`",
        )
    return token


def _serve_grpc(context: Context, listen: str | None, read_only: bool) -> None:
    from eka_runtime.rpc.address import parse_listen
    from eka_runtime.store.local_services import LocalServices
    from eka_runtime.store.served import serve as served

    address = listen or _default_address()
    with context.open_store(create=not read_only) as store, until_signal() as ended:
        if not read_only:
            _warn(context, parse_listen(address))
        with served(LocalServices.of(store), address, read_only=read_only) as url:
            announce(context, url)
            ended.wait()


def _default_address() -> str:
    from eka_runtime.errors import UsageError

    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if not runtime:
        raise UsageError(
            "there is no place for a socket: XDG_RUNTIME_DIR is not set",
            hint="name one with `--listen unix:PATH`",
        )
    return f"unix:{runtime}/eka-store.sock"


def _warn(context: Context, address: Socket | Host) -> None:
    from eka_runtime.rpc.address import Host

    if isinstance(address, Host):
        who = "every user of this machine" if address.local else "everyone who reaches this machine"
        context.output.warning(f"{who} may add to the store; `--read-only` forbids it")
