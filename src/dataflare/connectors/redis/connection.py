"""How to reach a Redis server: the options, and the client."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import SplitResult, parse_qs, urlsplit

import redis.asyncio as client
from pydantic import Field

from dataflare.errors import SystemError_
from dataflare.sdk.brokers.config import BrokerConfig

_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")


class RedisConnection(BrokerConfig):
    """The options that all uses of Redis have."""

    ports = MappingProxyType({"redis": 6379, "rediss": 6379})
    path = "/0"

    connection: str = Field(
        repr=False,
        description="redis://user:password@host:6379/0, or rediss:// for TLS, "
        "there with ?ssl_ca_certs=/path/to/ca.pem for certificates of your own",
    )

    @classmethod
    def fits(cls, url: SplitResult) -> bool:
        number = url.path.strip("/")
        return super().fits(url) and (not number or number.isdecimal())

    @property
    def server(self) -> str:
        """Host, port and database, to show."""
        return f"{super().server}/{urlsplit(self.connection).path.strip('/') or '0'}"


def connected(config: RedisConnection, *, answers_in: float | None = None) -> Any:
    """A client; it connects when it is used first. answers_in: seconds; by default the timeout. Raises SystemError_
    (E0609) for a file of certificates that is not there."""
    for name, values in parse_qs(urlsplit(config.connection).query).items():
        if name in _FILES and not Path(values[-1]).is_file():
            raise SystemError_(
                f"no TLS connection to {config.server}: there is no file {values[-1]}",
                code="E0609",
                help=f"look at '{name}' in 'connection'",
            )
    return client.Redis.from_url(
        config.connection,
        socket_timeout=config.timeout if answers_in is None else answers_in,
        socket_connect_timeout=config.timeout,
        decode_responses=False,
        retry=None,
    )
