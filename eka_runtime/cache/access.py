"""Who we are and whom we believe on the network: netrc files and certificates.

netrc: the file of the settings (`settings.py`), else `~/.netrc`. Certificates: the file of the
settings, else what OpenSSL uses (SSL_CERT_FILE, the system's). Nothing is read before the first
request that needs it, and nothing of it is ever in a message.
"""

from __future__ import annotations

import base64
import netrc
import os
import ssl
from collections.abc import Mapping
from functools import cached_property

from eka_runtime.errors import ConfigError


class Access:
    """Read once; for one run of a program."""

    def __init__(
        self,
        environ: Mapping[str, str],
        netrc_file: str | None = None,
        certificates: str | None = None,
    ) -> None:
        self._environ = environ
        self._netrc_file = netrc_file
        self._certificates = certificates

    def authorization(self, host: str) -> str | None:
        """The value of the header for a host; raises ConfigError for a file that is not netrc."""
        found = self._entries.authenticators(host) if self._entries else None
        if found is None:
            return None
        login, _, password = found
        return "Basic " + base64.b64encode(f"{login or ''}:{password or ''}".encode()).decode()

    @cached_property
    def _entries(self) -> netrc.netrc | None:
        home = self._environ.get("HOME")
        candidates = (self._netrc_file, f"{home}/.netrc" if home else None)
        for file in candidates:
            if file and os.path.isfile(file):
                return _read(file)
        return None

    def tls(self) -> ssl.SSLContext:
        try:
            return ssl.create_default_context(cafile=self._certificates)
        except OSError as error:
            raise ConfigError(
                f"cannot read the certificates in `{self._certificates}`: {error}",
                hint="see `ssl-cert-file` and NIX_SSL_CERT_FILE",
            ) from error


def _read(file: str) -> netrc.netrc | None:
    try:
        return netrc.netrc(file)
    except OSError:
        # Nix's own, /etc/nix/netrc, may be for its daemon only.
        return None
    except (netrc.NetrcParseError, UnicodeDecodeError) as error:
        # Not what the module says: its messages quote the file.
        raise ConfigError(f"`{file}` is not a netrc file") from error
