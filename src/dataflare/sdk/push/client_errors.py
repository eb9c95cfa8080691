"""What a server answers to a connection, and what breaks one, as DataFlare's errors."""

from __future__ import annotations

import ssl
from urllib.parse import urlsplit

import aiohttp

from dataflare.errors import Retry, SystemError_
from dataflare.sdk.context import ConnectorContext
from dataflare.sdk.push.client_config import ClientConfig


class ClientErrors:
    """Of one server. url: where it is."""

    config: ClientConfig
    context: ConnectorContext
    url: str

    @property
    def place(self) -> str:
        """The address without its query, which may have secrets."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}{parts.path}"

    def refused(self, status: int, reason: str) -> SystemError_:
        """The error for the answer to a request."""
        said = f"{self.place} answered {status} {reason}".rstrip()
        if status == 401:
            return self._error(
                f"{said}: it does not accept the credentials",
                "E0606",
                "look at 'auth' and 'headers'",
            )
        if status == 403:
            return self._error(
                f"{said}: the credentials may not do this", "E0602", "look at 'auth'"
            )
        if status in (404, 410):
            return self._error(said, "E0604", "look at 'url'")
        later = status >= 500 or status in (408, 425, 429)
        return self._error(said, "E0611", "look at 'url' and 'headers'", later=later)

    def translated(self, error: Exception) -> SystemError_:
        if isinstance(error, aiohttp.WSServerHandshakeError | aiohttp.ClientResponseError):
            return self.refused(error.status, error.message)
        why = str(error) or type(error).__name__
        if isinstance(
            error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientSSLError | ssl.SSLError
        ):
            return self._error(
                f"no TLS connection to {self.place}: {why}",
                "E0609",
                "name the certificates to trust: tls: {ca: /path/to/ca.pem}",
            )
        if isinstance(error, TimeoutError):
            return self._error(
                f"{self.place} did not answer within {self.config.timeout:g} s",
                "E0608",
                "see whether the server works, or raise 'timeout'",
                later=True,
            )
        return self._error(
            f"no connection to {self.place}: {why}",
            "E0607",
            "see whether the server runs and the address is right",
            later=True,
        )

    def _error(self, message: str, code: str, help: str, *, later: bool = False) -> SystemError_:
        return SystemError_(
            message,
            code=code,
            step=self.context.step,
            help=help,
            retry=Retry.LATER if later else Retry.NEVER,
        )
