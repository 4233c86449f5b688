"""Key files, as `nix key generate-secret` and `eka store key generate` make them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from eka_runtime.errors import FormatError, UsageError

if TYPE_CHECKING:
    from eka_runtime.nix.signing import SecretKey

_FILE_MAX = 4096
_MAKE_ONE = "make one: `eka store key generate NAME -o FILE`"


def read_secret_key(file: str) -> SecretKey:
    """Raises UsageError, which never quotes the file."""
    from eka_runtime.nix.signing import SecretKey

    try:
        with open(os.path.expanduser(file), encoding="ascii") as stream:
            text = stream.read(_FILE_MAX)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise UsageError(
            f"cannot read the secret key `{file}`: {reason}",
            hint=_MAKE_ONE,
        ) from error
    try:
        return SecretKey.parse(text)
    except FormatError as error:
        raise UsageError(f"`{file}`: {error}", hint=_MAKE_ONE) from error


def write_new(place: Path, text: str, mode: int) -> None:
    """Never over a file that is there. Raises UsageError."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        with open(os.open(place, flags, mode), "w", encoding="ascii") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
    except FileExistsError as error:
        raise UsageError(f"`{place}` exists already", hint="name another file") from error
    except OSError as error:
        raise UsageError(f"cannot write `{place}`: {error.strerror}") from error
