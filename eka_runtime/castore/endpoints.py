"""Which service of S3's kind is meant, when a URL and variables may both name one."""

from __future__ import annotations

from collections.abc import Mapping

from eka_runtime.errors import ConfigError

_FIRST = "AWS_ENDPOINT_URL_S3"
_VARIABLES = (_FIRST, "AWS_ENDPOINT_URL", "AWS_ENDPOINT")


def named_endpoint(stated: str | None, environ: Mapping[str, str]) -> str | None:
    """What a URL states, before the variables. To be given to obstore, which knows another order.

    Raises ConfigError where it could not be told to go there: obstore takes AWS_ENDPOINT_URL_S3
    before everything else, and what is meant for one service would go to another.
    """
    first = environ.get(_FIRST)
    if stated and first and stated.rstrip("/") != first.rstrip("/"):
        raise ConfigError(
            f"the endpoint `{stated}` was named, and {_FIRST} is another, `{first}`",
            hint=f"unset {_FIRST}, or leave out the other",
        )
    return stated or next(filter(None, map(environ.get, _VARIABLES)), None)
