"""Clients of Pulsar, and their errors as DataFlare's.

Always true: a broker that cannot be used is found by `hello` before a client is made, because the client does not say why.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pulsar

from dataflare.connectors.pulsar.config import PulsarConfig
from dataflare.connectors.pulsar.hello import Hello, hello
from dataflare.errors import DataFlareError, Retry, SystemError_
from dataflare.sdk.brokers.errors import no_answer, no_connection, refused_login
from dataflare.sdk.context import ConnectorContext
from dataflare.sdk.threads import in_thread
from dataflare.sdk.tls import file_of
from dataflare.security.redact import text_of

_BUSY = (pulsar.ConsumerBusy, pulsar.ProducerBusy)
_REFUSED_NAMES = (pulsar.TopicNotFound, pulsar.SubscriptionNotFound, pulsar.InvalidTopicName)
_FULL = (pulsar.ProducerBlockedQuotaExceededError, pulsar.ProducerBlockedQuotaExceededException)


async def connect(config: PulsarConfig, context: ConnectorContext) -> tuple[Any, Hello]:
    """A client, and what the broker says of itself. Raises what `hello` raises."""
    told = await hello(config, context)
    return await in_thread(_client, config, context), told


def _client(config: PulsarConfig, context: ConnectorContext) -> Any:
    settings: dict[str, Any] = {}
    if config.tls is not None:
        names = {"ca": "trust_certs", "certificate": "certificate", "key": "private_key"}
        for option, name in names.items():
            path = getattr(config.tls, option)
            if path is not None:
                settings[f"tls_{name}_file_path"] = str(file_of(path, "tls", context))
    system = ssl.get_default_verify_paths().cafile
    if system is not None:
        settings.setdefault("tls_trust_certs_file_path", system)
    if config.token is not None:
        settings["authentication"] = pulsar.AuthenticationToken(config.token)
    elif config.tls is not None and config.tls.certificate is not None:
        files = [settings[f"tls_{n}_file_path"] for n in ("certificate", "private_key")]
        settings["authentication"] = pulsar.AuthenticationTLS(*files)
    with pulsar_errors(config.server):
        return pulsar.Client(
            config.connection,
            operation_timeout_seconds=max(1, int(config.timeout)),
            connection_timeout_ms=max(1, int(config.timeout * 1_000)),
            tls_validate_hostname=True,
            # Without this the client prints what it does.
            logger=pulsar.FileLogger(pulsar.LoggerLevel.Error, os.devnull),
            **settings,
        )


async def close(client: Any) -> None:
    """End a client, also one whose broker is gone."""
    await in_thread(_close, client)


def _close(client: Any) -> None:
    try:
        client.close()
    except pulsar.PulsarException:
        client.shutdown()  # what it still had to say is not heard


@contextmanager
def pulsar_errors(server: str) -> Iterator[None]:
    """Convert the client's exceptions inside into DataFlare's errors."""
    try:
        yield
    except DataFlareError:
        raise
    except (pulsar.PulsarException, OSError) as error:
        raise translated(error, server) from error


def translated(error: Exception, server: str) -> DataFlareError:
    """DataFlare's error for one of the client."""
    place, text = f"Pulsar at {server}", text_of(error)
    match error:
        case pulsar.AuthenticationError():
            return refused_login(place, "'token' and 'tls'")
        case pulsar.AuthorizationError():
            return SystemError_(f"{place}: {text}", code="E0602", help="grant the user the right")
        case pulsar.Timeout():
            return no_answer(place, noun="broker")
        case _ if isinstance(error, _BUSY):
            return SystemError_(
                f"{place}: another consumer or producer has what this one needs alone: {text}",
                code="E0605",
                retry=Retry.LATER,
                help="end the other one, take another 'subscription', or set shared: true",
            )
        case _ if isinstance(error, _REFUSED_NAMES):
            return SystemError_(
                f"{place}: {text}",
                code="E0604",
                help="look at 'topic' and 'subscription'; this broker makes no topics by itself",
            )
        case _ if isinstance(error, _FULL):
            return SystemError_(
                f"{place}: the backlog of the topic is full: {text}",
                code="E0611",
                retry=Retry.LATER,
                help="raise the quota of its namespace, or remove subscriptions without a reader",
            )
        case pulsar.TopicTerminated() | pulsar.IncompatibleSchema() | pulsar.InvalidConfiguration():
            return SystemError_(
                f"{place}: {text}", code="E0600", help="fix the cause that the broker reports"
            )
    return no_connection(place, text, "broker")
