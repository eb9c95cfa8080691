"""Connections to RabbitMQ, and its errors as DataFlare's.

Always true: a connection does not reconnect by itself; a message contains no part of the connection except host, port
and vhost.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import aiormq
from aiormq import exceptions as said

from dataflare.connectors.rabbitmq.config import RabbitmqConfig
from dataflare.errors import DataFlareError, SystemError_
from dataflare.sdk.brokers.errors import no_answer, no_connection, no_tls, refused_login
from dataflare.sdk.context import ConnectorContext
from dataflare.security.redact import text_of

# Without this the client prints the tracebacks of connections that are lost.
logging.getLogger("aiormq").addHandler(logging.NullHandler())


def heartbeat_s(config: RabbitmqConfig) -> int:
    """After how long a silent side says that it is there."""
    return max(1, int(config.timeout // 2))


async def connect(config: RabbitmqConfig, context: ConnectorContext) -> Any:
    """A connection. Raises what `translated` gives."""
    parts = urlsplit(config.connection)
    more = f"heartbeat={heartbeat_s(config)}&name=dataflare-{context.step}"
    query = f"{parts.query}&{more}" if parts.query else more
    url = urlunsplit((parts.scheme, parts.netloc, parts.path, query, ""))
    tls = config.tls_context(context)
    with rabbitmq_errors(config.server):
        async with asyncio.timeout(config.timeout):
            return await aiormq.connect(url, context=tls)


async def close(connection: Any, wait_s: float = 2.0) -> None:
    """End a connection, also one that is broken."""
    try:
        async with asyncio.timeout(wait_s):
            await connection.close()
    except (said.AMQPError, OSError, RuntimeError):
        return  # it is broken, so there is nothing to say goodbye to


@contextmanager
def rabbitmq_errors(server: str) -> Iterator[None]:
    """Convert the client's exceptions inside into DataFlare's errors. It says by a RuntimeError that a connection is
    closed."""
    try:
        yield
    except DataFlareError:
        raise
    except (said.AMQPError, RuntimeError, OSError) as error:
        raise translated(error, server) from error


def translated(error: Exception, server: str) -> DataFlareError:
    """DataFlare's error for one of the client."""
    place = f"RabbitMQ at {server}"
    text = text_of(error)
    upper = text.upper()
    if isinstance(error, said.AuthenticationError | said.ProbableAuthenticationError):
        return refused_login(place)
    if "ACCESS_REFUSED" in upper or isinstance(
        error, said.ChannelAccessRefused | said.ConnectionNotAllowed
    ):
        return SystemError_(
            f"{place}: {text}",
            code="E0602",
            help="grant the user the right, and look at the vhost in 'connection'",
        )
    if isinstance(error, said.ChannelNotFoundEntity) or "NOT_FOUND" in upper:
        return SystemError_(
            f"{place}: {text}",
            code="E0604",
            help="look at the name; queues and exchanges are made with the tools of RabbitMQ",
        )
    if isinstance(error, ssl.SSLError) or "CERTIFICATE" in upper:
        return no_tls(place, text)
    if isinstance(error, TimeoutError):
        return no_answer(place)
    if isinstance(error, said.ChannelPreconditionFailed | said.ChannelLockedResource):
        return SystemError_(
            f"{place}: {text}", code="E0600", help="fix the cause that the server reports"
        )
    return no_connection(place, text)
