"""Connections to NATS, and its errors as DataFlare's.

Always true: a connection does not reconnect by itself; what used it is opened again at its position.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import nats
from nats import errors as said
from nats.js import errors as jetstream

from dataflare.connectors.nats.config import NatsConfig
from dataflare.errors import DataFlareError, Retry, SystemError_
from dataflare.sdk.brokers.errors import no_answer, no_connection, no_tls, refused_login
from dataflare.sdk.context import ConnectorContext
from dataflare.sdk.tls import Tls, file_of
from dataflare.security.redact import text_of


async def connect(config: NatsConfig, context: ConnectorContext) -> Any:
    """A connection. Raises what `translated` gives."""
    problems: list[Exception] = []

    async def noted(error: Exception) -> None:
        problems.append(error)

    settings: dict[str, Any] = {}
    if config.token is not None:
        settings["token"] = config.token
    if config.credentials is not None:
        settings["user_credentials"] = str(file_of(config.credentials, "credentials", context))
    if isinstance(config.tls, Tls):
        settings["tls"] = config.tls.context(context)
    elif config.tls or any(url.startswith("tls://") for url in config.urls):
        settings["tls"] = ssl.create_default_context()
    with nats_errors(config.server, problems=problems):
        return await nats.connect(
            config.urls,
            name=f"dataflare-{context.step}",
            allow_reconnect=False,
            max_reconnect_attempts=1,
            reconnect_time_wait=0.05,
            connect_timeout=max(1, int(config.timeout)),
            ping_interval=max(1, int(config.timeout // 2)),
            max_outstanding_pings=1,
            error_cb=noted,
            **settings,
        )


async def close(connection: Any) -> None:
    """End a connection, also one that is broken."""
    if not connection.is_closed:
        await connection.close()


@contextmanager
def nats_errors(
    server: str, connection: Any = None, problems: list[Exception] | None = None
) -> Iterator[None]:
    """Convert the client's exceptions inside into DataFlare's errors. problems: what was said beside them."""
    try:
        yield
    except DataFlareError:
        raise
    except (said.Error, OSError, ssl.SSLError) as error:
        earlier = problems[-1] if problems else None
        if connection is not None:
            # The server does not answer what is not allowed; it says so beside it.
            earlier = connection.last_error
        raise translated(error, server, earlier) from error


def translated(error: Exception, server: str, earlier: Exception | None = None) -> DataFlareError:
    """DataFlare's error for one of the client."""
    place = f"NATS at {server}"
    if isinstance(error, said.NoServersError) and earlier is not None:
        error = earlier
    if isinstance(error, TimeoutError) and "permissions violation" in str(earlier).lower():
        error = earlier or error
    text = text_of(error)
    lower = text.lower()
    if isinstance(error, said.AuthorizationError) or "authorization violation" in lower:
        return refused_login(place, "'connection', at 'token' and 'credentials'")
    if "permissions violation" in lower:
        return SystemError_(f"{place}: {text}", code="E0602", help="grant the user the right")
    if isinstance(error, ssl.SSLError) or "certificate" in lower:
        return no_tls(place, text)
    if isinstance(error, jetstream.NotFoundError):
        return SystemError_(
            f"{place}: {error.description or text}",
            code="E0604",
            help="look at 'stream' and 'subject'; streams are made with the tools of NATS",
        )
    if isinstance(error, jetstream.ServiceUnavailableError | said.NoRespondersError):
        return SystemError_(
            f"{place}: JetStream does not answer: {text}",
            code="E0607",
            retry=Retry.LATER,
            help="see whether the server has JetStream",
        )
    if isinstance(error, jetstream.NoStreamResponseError):
        return SystemError_(
            f"{place}: no stream has the subject",
            code="E0604",
            help="make a stream with this subject",
        )
    if isinstance(error, jetstream.APIError):
        return SystemError_(
            f"{place}: {error.description or text}",
            code="E0600",
            help="fix the cause that the server reports, and run again",
        )
    if isinstance(error, said.TimeoutError | TimeoutError):
        return no_answer(place)
    return no_connection(place, text)
