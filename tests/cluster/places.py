"""Destinations of the scenarios on hosts: in servers of the machine, which each host reaches, and beside the job."""

from __future__ import annotations

import json
import sqlite3
import sys
from abc import ABC, abstractmethod
from contextlib import closing
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "connectors" / "kafka"))

import polars as pl
from servers.s3 import KEYS

Rows = list[tuple[int, int, int]]
COLUMNS = ("n", "user", "amount")


class Place(ABC):
    """server: of the tests' kit; None where there is none. service: its name there. port: on the machine's loopback."""

    service: str | None = None

    def __init__(self, server: Any, folder: Path) -> None:
        self.server, self.folder = server, folder

    @property
    def port(self) -> int | None:
        return None if self.server is None else int(self.server.port)

    def environment(self) -> dict[str, str]:
        return {}

    @abstractmethod
    def step(self, name: str) -> str:
        """The destination, as YAML. name: of a table, a topic or a folder that is not there."""

    @abstractmethod
    def rows(self, name: str) -> Rows:
        """Those that are there, in their order."""


class Sqlite(Place):
    def step(self, name: str) -> str:
        return f"type: sqlite, config: {{path: {self.folder / 'rows.sqlite'}, table: {name}, mode: append}}"

    def rows(self, name: str) -> Rows:
        with closing(sqlite3.connect(self.folder / "rows.sqlite")) as database:
            return sorted(database.execute(f'select n, "user", amount from {name}'))


class Postgres(Place):
    service = "postgres"

    def step(self, name: str) -> str:
        return f"type: postgres, config: {{connection_string: '{self.server.dsn()}', table: {name}, mode: append}}"

    def rows(self, name: str) -> Rows:
        import psycopg

        with psycopg.connect(self.server.dsn()) as database:
            return sorted(database.execute(f'select n, "user", amount from {name}').fetchall())


class S3(Place):
    service = "aws"

    def environment(self) -> dict[str, str]:
        return {**KEYS, "AWS_ENDPOINT_URL": self.server.endpoint, "AWS_ALLOW_HTTP": "true"}

    def step(self, name: str) -> str:
        self.server.client("s3").create_bucket(Bucket="hosts")
        return f"type: file, config: {{path: 's3://hosts/{name}/', format: parquet}}"

    def rows(self, name: str) -> Rows:
        client = self.server.client("s3")
        listed = client.get_paginator("list_objects_v2").paginate(Bucket="hosts", Prefix=f"{name}/")
        keys = [each["Key"] for page in listed for each in page.get("Contents", ())]
        bodies = [client.get_object(Bucket="hosts", Key=key)["Body"].read() for key in keys]
        frames = [pl.read_parquet(body).select(COLUMNS) for body in bodies]
        return sorted(pl.concat(frames).rows())


class Kafka(Place):
    service = "kafka"

    @property
    def port(self) -> int:
        return int(self.server.brokers[0].ports["PLAIN"])

    def step(self, name: str) -> str:
        self.server.create_topic(name, 2)
        servers = self.server.bootstrap
        return f"type: kafka, config: {{bootstrap_servers: '{servers}', topic: {name}, guarantee: exactly_once}}"

    def rows(self, name: str) -> Rows:
        from kafka_kit import contents

        values = [value for *_, value in contents(self.server.bootstrap, name, "read_committed")]
        rows = (json.loads(value) for value in values if value is not None)
        return sorted(tuple(row[name] for name in COLUMNS) for row in rows)


PLACES: dict[str, type[Place]] = {
    "sqlite": Sqlite,
    "postgres": Postgres,
    "s3": S3,
    "kafka": Kafka,
}
