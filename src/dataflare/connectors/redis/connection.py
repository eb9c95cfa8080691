"""How to reach a Redis server: the options, and the client."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import redis.asyncio as client
from pydantic import BaseModel, ConfigDict, Field, field_validator

from dataflare.errors import SystemError_
from dataflare.model.units import Duration

_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")


class RedisConnection(BaseModel):
    """The options that all uses of Redis have."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, populate_by_name=True)

    connection: str = Field(
        repr=False,
        description="redis://user:password@host:6379/0, or rediss:// for TLS, "
        "there with ?ssl_ca_certs=/path/to/ca.pem for certificates of your own",
    )
    timeout: Duration = Field(10.0, gt=0, description="how long to wait for one answer")

    @field_validator("connection")
    @classmethod
    def _redis(cls, value: str) -> str:
        try:
            parts = urlsplit(value)
            is_valid = parts.scheme in ("redis", "rediss") and parts.hostname and parts.port != 0
            number = parts.path.strip("/")
        except ValueError:
            is_valid, number = None, ""
        if not is_valid or (number and not number.isdecimal()):
            raise ValueError("expected redis://host:6379/0 or rediss://host:6379/0")
        return value

    @property
    def server(self) -> str:
        """Host, port and database, to show."""
        parts = urlsplit(self.connection)
        return f"{parts.hostname}:{parts.port or 6379}/{parts.path.strip('/') or '0'}"


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
