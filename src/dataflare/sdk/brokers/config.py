"""The options that all connectors of message brokers have."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any, ClassVar, Self
from urllib.parse import SplitResult, urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from dataflare.model.units import Duration
from dataflare.sdk.context import ConnectorContext
from dataflare.sdk.tls import Tls


class BrokerConfig(BaseModel):
    """How to reach the broker; the same for sources and destinations."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, populate_by_name=True)

    ports: ClassVar[Mapping[str, int]]
    """The default port by scheme."""
    path: ClassVar[str] = ""
    """What follows the port, as errors show it."""
    lists: ClassVar[bool] = False
    """Whether `connection` may name several servers."""
    keyless: ClassVar[str | None] = None
    """What has no keys, as errors show it: 'messages of NATS'."""

    connection: Any = Field(repr=False)
    timeout: Duration = Field(10.0, gt=0, description="how long to wait for one answer")

    @field_validator("connection")
    @classmethod
    def _reachable(cls, value: str | list[str]) -> str | list[str]:
        for each in cls.listed(value):
            try:
                valid = cls.fits(urlsplit(each))
            except ValueError:
                valid = False
            if not valid:
                expected = (f"{name}://host:{port}{cls.path}" for name, port in cls.ports.items())
                raise ValueError(f"expected {' or '.join(expected)}")
        return value

    @classmethod
    def fits(cls, url: SplitResult) -> bool:
        """Whether it is an address of a server. May raise ValueError."""
        return url.scheme in cls.ports and bool(url.hostname) and url.port != 0

    @classmethod
    def listed(cls, connection: str | list[str]) -> list[str]:
        """The address of each server."""
        if not cls.lists:
            return [str(connection)]
        parts = connection.split(",") if isinstance(connection, str) else connection
        return [each.strip() for each in parts]

    @model_validator(mode="after")
    def _keys_are_used(self) -> Self:
        if self.keyless is None:
            return self
        if getattr(self, "key_format", None) is not None:
            raise ValueError(f"'key_format' has no effect: {self.keyless} have no keys")
        if getattr(self, "tombstones", None) == "delete":
            raise ValueError(f"{self.keyless} have no keys, so 'tombstones' cannot be delete")
        return self

    @property
    def urls(self) -> list[str]:
        return self.listed(self.connection)

    @property
    def server(self) -> str:
        """Hosts and ports, to show."""
        parts = [urlsplit(url) for url in self.urls]
        return ",".join(f"{each.hostname}:{each.port or self.ports[each.scheme]}" for each in parts)


class TlsBrokerConfig(BrokerConfig):
    """Of a broker that speaks TLS under the second scheme of `ports`."""

    tls: Tls | None = Field(None, description="{ca, certificate, key}")

    @model_validator(mode="after")
    def _tls_is_spoken(self) -> Self:
        _, scheme = self.ports
        if self.tls is not None and urlsplit(self.connection).scheme != scheme:
            raise ValueError(f"'tls' has no effect unless 'connection' begins with {scheme}://")
        return self

    def tls_context(self, connector: ConnectorContext) -> ssl.SSLContext | None:
        """None where TLS is not spoken. Blocking. Raises as `Tls.context` does."""
        _, scheme = self.ports
        if urlsplit(self.connection).scheme != scheme:
            return None
        return (self.tls or Tls.model_validate({})).context(connector)
