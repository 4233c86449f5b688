"""The gRPC library, which is an extra: everything here takes it from this module.

Its core is told not to write to stderr by itself, unless the user asked for that.
"""

from __future__ import annotations

import os

from eka_runtime.errors import MissingExtra

os.environ.setdefault("GRPC_VERBOSITY", "NONE")

try:
    import grpc
    from grpc.experimental import ChannelOptions
except ModuleNotFoundError as error:
    raise MissingExtra(
        "gRPC services need the library grpcio, which is not installed",
        hint="install it: `pip install 'eka[grpc]'`",
    ) from error

__all__ = ["MAX_MESSAGE", "ChannelOptions", "grpc"]

MAX_MESSAGE = 1 << 24
"""Bytes of one message taken in; gRPC's own default, which most others keep, is a quarter."""
