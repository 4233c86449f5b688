"""How to reach a bucket of S3, and who we are there: parameters of Nix, variables and files of AWS.

    region      parameter, AWS_REGION, AWS_DEFAULT_REGION, the profile's; us-east-1
    endpoint    parameter with `scheme` (https), AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, AWS_ENDPOINT
                (`castore/endpoints.py`)
    who         parameter `profile`; AWS_ACCESS_KEY_ID and its like; AWS_PROFILE or `default`

A profile is a section of ~/.aws/credentials (AWS_SHARED_CREDENTIALS_FILE) and of ~/.aws/config
(AWS_CONFIG_FILE); the library does not read these files. Of the kinds of profiles there are, those
with keys are known. Without any credentials the library asks the machine for its role, unless an
endpoint was named or AWS_EC2_METADATA_DISABLED says that there is none: then nothing is signed.
"""

from __future__ import annotations

import configparser
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from eka_runtime.castore.endpoints import named_endpoint
from eka_runtime.errors import ConfigError

_KEY, _SECRET, _TOKEN = "aws_access_key_id", "aws_secret_access_key", "aws_session_token"
# Any of these leads the library to credentials.
_OTHER_WAYS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)
# As the library reads them.
_TRUE = ("1", "true", "on", "yes", "y")
_REGIONS = ("AWS_REGION", "AWS_DEFAULT_REGION")
_HINT = "other kinds of credentials become variables by `aws configure export-credentials`"


def bucket_options(parameters: Mapping[str, str], environ: Mapping[str, str]) -> dict[str, Any]:
    """Arguments for obstore's S3Store. Raises ConfigError for a profile that has no keys."""
    profile = _profile(parameters, environ)
    endpoint = _endpoint(parameters, environ)
    options: dict[str, Any] = {"region": _region(parameters, environ, profile)}
    if endpoint:
        options["endpoint"] = endpoint
        # Services of one's own have no name in the DNS for each bucket.
        options["virtual_hosted_style_request"] = False
        options["client_options"] = {"allow_http": endpoint.startswith("http:")}
    if profile.keys:
        keys = profile.keys
        options["credential_provider"] = lambda: keys
    elif _nobody(environ, endpoint):
        options["skip_signature"] = True
    return options


class _Profile(NamedTuple):
    """`keys` are as obstore takes them from a provider."""

    keys: dict[str, Any] | None = None
    region: str | None = None


def _profile(parameters: Mapping[str, str], environ: Mapping[str, str]) -> _Profile:
    stated = parameters.get("profile")
    name = stated or environ.get("AWS_PROFILE") or ""
    if not stated and _has_other_ways(environ):
        # What it would only repeat need not be there, nor be legible.
        known = _stated_region(parameters, environ)
        return _Profile(region=known or _read_profile(name or "default", environ).region)
    found = _read_profile(name or "default", environ)
    if name and not found.keys:
        raise ConfigError(
            f"the AWS profile `{name}` has no {_KEY} and {_SECRET}, in ~/.aws/credentials or"
            " ~/.aws/config",
            hint=_HINT,
        )
    return found


def _read_profile(name: str, environ: Mapping[str, str]) -> _Profile:
    home = environ.get("HOME", "")
    credentials = environ.get("AWS_SHARED_CREDENTIALS_FILE") or f"{home}/.aws/credentials"
    config = environ.get("AWS_CONFIG_FILE") or f"{home}/.aws/config"
    in_config = name if name == "default" else f"profile {name}"
    fields = {**_section(config, in_config), **_section(credentials, name)}
    keys: dict[str, Any] | None = None
    if fields.get(_KEY) and fields.get(_SECRET):
        keys = {
            "access_key_id": fields[_KEY],
            "secret_access_key": fields[_SECRET],
            "token": fields.get(_TOKEN),
            "expires_at": None,
        }
    return _Profile(keys, fields.get("region"))


def _section(file: str, name: str) -> dict[str, str]:
    parser = configparser.RawConfigParser(strict=False, default_section="")
    try:
        with open(os.path.expanduser(file), encoding="utf-8") as stream:
            parser.read_file(stream)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise ConfigError(f"cannot read `{file}`: {error.strerror}") from error
    except (configparser.Error, UnicodeDecodeError) as error:
        # Not what the module says: its messages quote the file.
        raise ConfigError(f"`{file}` is not a file of AWS profiles") from error
    return dict(parser[name]) if parser.has_section(name) else {}


def _region(parameters: Mapping[str, str], environ: Mapping[str, str], profile: _Profile) -> str:
    return _stated_region(parameters, environ) or profile.region or "us-east-1"


def _stated_region(parameters: Mapping[str, str], environ: Mapping[str, str]) -> str | None:
    return next(filter(None, [parameters.get("region"), *map(environ.get, _REGIONS)]), None)


def _endpoint(parameters: Mapping[str, str], environ: Mapping[str, str]) -> str | None:
    stated = parameters.get("endpoint")
    if stated and "://" not in stated:
        stated = f"{parameters.get('scheme', 'https')}://{stated}"
    return named_endpoint(stated, environ)


def _has_other_ways(environ: Mapping[str, str]) -> bool:
    """To credentials, or to do without any."""
    unsigned = environ.get("AWS_SKIP_SIGNATURE", "").lower() in _TRUE
    return unsigned or any(environ.get(name) for name in _OTHER_WAYS)


def _nobody(environ: Mapping[str, str], endpoint: str | None) -> bool:
    if _has_other_ways(environ):
        return False
    return bool(endpoint) or environ.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true"
