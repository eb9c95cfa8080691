"""Convert errors of Redis and its client into DataFlare's errors.

Always true: a message contains no part of the connection except host, port and database.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import redis.exceptions as said

from dataflare.errors import DataError, DataFlareError, Retry, SystemError_
from dataflare.security.redact import text_of


def translated(error: Exception, server: str) -> DataFlareError:
    """DataFlare's error for another exception. server: host, port and database."""
    text = text_of(error)
    if isinstance(error, said.AuthenticationError | said.AuthorizationError):
        return SystemError_(
            f"{server} refuses the login: {text}",
            code="E0606",
            help="look at user and password in 'connection'",
        )
    if isinstance(error, said.NoPermissionError):
        return SystemError_(f"{server}: {text}", code="E0602", help="grant the user the right")
    if isinstance(error, said.TimeoutError | TimeoutError):
        return SystemError_(
            f"{server} did not answer in time",
            code="E0608",
            retry=Retry.LATER,
            help="check whether the server works, or raise 'timeout'",
        )
    if isinstance(error, said.BusyLoadingError | said.TryAgainError | said.MaxConnectionsError):
        return SystemError_(
            f"{server} is not ready: {text}",
            code="E0607",
            retry=Retry.LATER,
            help="run again when the server has loaded its data",
        )
    if isinstance(error, said.ConnectionError | OSError):
        if "CERTIFICATE" in text or "SSL" in text:
            return SystemError_(
                f"no TLS connection to {server}: {text}",
                code="E0609",
                help="name the file of the certificates to trust: "
                "rediss://host:6379/0?ssl_ca_certs=/path/to/ca.pem",
            )
        return SystemError_(
            f"no connection to {server}: {text}",
            code="E0607",
            retry=Retry.LATER,
            help="see whether the server runs and the address is right; with TLS it is rediss://",
        )
    if text.startswith("WRONGTYPE") or "WRONGTYPE" in text:
        return DataError(
            f"{server}: a key holds another structure than is expected",
            code="E0508",
            notes=[f"it says: {text}"],
            help="look at 'structure' and 'key_prefix'",
        )
    if "NOAUTH" in text or "WRONGPASS" in text:
        return SystemError_(
            f"{server} refuses the login: {text}",
            code="E0606",
            help="put user and password into 'connection'",
        )
    return SystemError_(
        f"{server}: {text}",
        code="E0600",
        help="fix the cause that the server reports, and run again",
    )


@contextmanager
def redis_errors(server: str) -> Iterator[None]:
    """Convert the client's exceptions inside into DataFlare's errors."""
    try:
        yield
    except (said.RedisError, OSError) as error:
        raise translated(error, server) from error
