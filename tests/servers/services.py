"""The servers that the tests and `make services` start: one table.

Always true: a server listens on loopback alone, on a free port; its data is in a folder of its own, which is gone
with it; it ends with the process that started it.

A new server is one module with `server()`, a context manager, and one entry here.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import pytest

WANTED = "TEST_SERVICES"
"""The variable that names heavy services which tests may start: `kafka`, a list with commas, or `all`."""


@dataclass(frozen=True)
class Service:
    """A kind of server. module: of `servers`. version: the one that is tested. starts_s: how long a start
    takes, once it is installed. needs: what makes it heavy, '' for a light one. connections: by what they are
    for, how to reach one that runs."""

    name: str
    title: str
    module: str
    version: str
    starts_s: float
    licence: str
    connections: Callable[[Any], Mapping[str, str]]
    needs: str = ""

    def server(self, **options: Any) -> AbstractContextManager[Any]:
        """A new one. Raises pytest's own outcomes where there is none."""
        made: AbstractContextManager[Any] = importlib.import_module(self.module).server(**options)
        return made

    def may_start(self) -> None:
        """Skip the test if this one is heavy and was not asked for. In CI nothing is skipped."""
        wanted = os.environ.get(WANTED, "").split(",")
        if self.needs and os.environ.get("CI") != "true" and not {self.name, "all"} & {*wanted}:
            pytest.skip(
                f"{self.title} needs {self.needs}; this runs its tests: {WANTED}={self.name} make test"
            )


SERVICES = {
    service.name: service
    for service in (
        Service("postgres", "PostgreSQL", "servers.postgres", "15", 1.5, "PostgreSQL",
                lambda made: {"connection_string": made.dsn()}),
        Service("mariadb", "MariaDB", "servers.mariadb", "10.11", 3, "GPL-2.0",
                lambda made: {"connection_string": made.dsn()}),
        Service("prometheus", "Prometheus", "servers.prometheus", "2.42", 1, "Apache-2.0",
                lambda made: {"url": made.url}),
        Service("otelcol", "OpenTelemetry Collector", "servers.otelcol", "0.165.0", 0.5, "Apache-2.0",
                lambda made: {"otlp, http": made.http, "otlp, grpc": made.grpc},
                "Go 1.25, to build it once in some minutes"),
        Service("redis", "Redis", "servers.redis", "7.0", 0.1, "BSD-3-Clause",
                lambda made: {"connection": made.url}),
        Service("clickhouse", "ClickHouse (chDB)", "servers.clickhouse", "26.9.0", 3, "Apache-2.0",
                lambda made: {"connection_string": made.dsn()}, "a package of 150 MB"),
        Service("azure", "Azurite", "servers.azure", "3.37.0", 3, "MIT",
                lambda made: dict(made.environment), "Node and npm"),
        Service("gcs", "Google Cloud Storage's XML API, own", "servers.gcs", "1", 0.1, "Apache-2.0",
                lambda made: dict(made.environment)),
        Service("s3proxy", "S3Proxy (S3 API)", "servers.s3proxy", "2.9.0", 4, "Apache-2.0",
                lambda made: dict(made.environment), "Java 17 and Maven"),
        Service("aws", "SQS, Kinesis, DynamoDB and S3 (moto)", "servers.aws", "5.2.5", 2, "Apache-2.0",
                lambda made: made.options),
        Service("nats", "NATS server", "servers.nats", "2.9", 0.2, "Apache-2.0",
                lambda made: {"connection": made.url}),
        Service("mosquitto", "Mosquitto (MQTT)", "servers.mosquitto", "2.0", 0.1, "EPL-2.0",
                lambda made: {"connection": made.url}),
        Service("rabbitmq", "RabbitMQ", "servers.rabbitmq", "3.10", 8, "MPL-2.0",
                lambda made: {"connection": made.url}, "Erlang, 8 s of processor time"),
        Service("pulsar", "Apache Pulsar", "servers.pulsar", "4.0.7", 9, "Apache-2.0",
                lambda made: {"connection": made.url, "token": made.token}, "Java 17 and Maven"),
        Service("kafka", "Apache Kafka", "servers.kafka", "4.4.0", 2, "Apache-2.0",
                lambda made: made.connections(), "Java 17 and Maven"),
        Service("opensearch", "OpenSearch", "servers.opensearch", "2.19.1", 8, "Apache-2.0",
                lambda made: {"connection": made.url, "connection, through a proxy": made.proxied},
                "Java 17 and Maven"),
    )
}  # fmt: skip


def running(name: str, **options: Any) -> Iterator[Any]:
    """The body of a session fixture: `kafka = pytest.fixture(scope="session")(...)`."""
    service = SERVICES[name]
    service.may_start()
    with service.server(**options) as made:
        yield made


def table() -> str:
    """All of them, to show."""
    rows = [("name", "server", "version", "starts in", "licence", "needs")]
    for each in SERVICES.values():
        needs = each.needs or "nothing more"
        starts = f"{each.starts_s:g} s"
        rows.append((each.name, each.title, each.version, starts, each.licence, needs))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)
