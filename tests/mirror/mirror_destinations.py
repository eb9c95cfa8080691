"""Where a mirror test copies to: the step of each destination, and what another program reads there."""

from __future__ import annotations

import datetime as dt
import itertools
import json
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

from mirror_servers import Side

_topics = itertools.count()
Row = tuple[Any, ...]
KEY = "mode: mirror, key: [id, part]"


class Destination(ABC):
    """name: of its step. server: the type of the server that it is on, or ''. can_diff: whether
    `dataflare diff` reads it: deletes of a topic have a key alone."""

    name = ""
    server = ""
    can_diff = True

    @abstractmethod
    def config(self) -> str:
        """The options of its step, in YAML."""

    @abstractmethod
    def rows(self, folder: Path, table: str) -> list[dict[str, Any]]:
        """What another program reads there."""

    def step(self) -> str:
        return (
            f"  {self.name}: {{type: {self.name}, inputs: [shop], config: {{{self.config()}}}}}\n"
        )


class OnServer(Destination):
    """A table of PostgreSQL or MariaDB."""

    def __init__(self, side: Side) -> None:
        self.side, self.name, self.server = side, side.type, side.type

    def config(self) -> str:
        return (
            f'connection_string: "${{TO_{self.server.upper()}}}", table: "copied_{{table}}", {KEY}'
        )

    def rows(self, folder: Path, table: str) -> list[dict[str, Any]]:
        names = self.side.names(f"copied_{table}")
        return dicts(names, self.side.rows(f"select {', '.join(names)} from copied_{table}"))


class Sqlite(Destination):
    name = "sqlite"

    def config(self) -> str:
        return f'path: copy.sqlite, table: "copied_{{table}}", {KEY}'

    def rows(self, folder: Path, table: str) -> list[dict[str, Any]]:
        with sqlite3.connect(folder / "copy.sqlite") as db:
            cursor = db.execute(f"select * from copied_{table}")
            return dicts([column[0] for column in cursor.description], cursor.fetchall())


class DuckDb(Destination):
    name = "duckdb"

    def config(self) -> str:
        return f'path: copy.duckdb, table: "copied_{{table}}", {KEY}'

    def rows(self, folder: Path, table: str) -> list[dict[str, Any]]:
        import duckdb

        with duckdb.connect(str(folder / "copy.duckdb"), read_only=True) as db:
            found = db.execute(f"select * from copied_{table}")
            return dicts([column[0] for column in found.description], found.fetchall())


class Delta(Destination):
    name = "delta"

    def config(self) -> str:
        return f'path: "copied_{{table}}.delta", {KEY}'

    def rows(self, folder: Path, table: str) -> list[dict[str, Any]]:
        import deltalake

        lake = deltalake.DeltaTable(str(folder / f"copied_{table}.delta"))
        return list(lake.to_pyarrow_table().to_pylist())


class Iceberg(Destination):
    name = "iceberg"

    def config(self) -> str:
        catalog = '{type: sql, uri: "sqlite:///catalog.db", warehouse: warehouse}'
        return f'catalog: {catalog}, table: "shop.copied_{{table}}", {KEY}'

    def rows(self, folder: Path, table: str) -> list[dict[str, Any]]:
        from pyiceberg.catalog.sql import SqlCatalog

        catalog = SqlCatalog(
            "dataflare",
            uri=f"sqlite:///{folder}/catalog.db",
            warehouse=f"file://{folder}/warehouse",
        )
        return list(catalog.load_table(f"shop.copied_{table}").scan().to_arrow().to_pylist())


class Kafka(Destination):
    """For each table a topic, whose newest message of a key is its row."""

    name = "kafka"
    server = "kafka"
    can_diff = False

    def __init__(self, cluster: Any) -> None:
        self._cluster, self._topic = cluster, f"mirror-{next(_topics)}"

    def config(self) -> str:
        return f'bootstrap_servers: "{self._cluster.proxied}", topic: "{self._topic}-{{table}}", format: json, {KEY}'

    def rows(self, folder: Path, table: str) -> list[dict[str, Any]]:
        from kafka_kit import contents

        messages = contents(self._cluster.bootstrap, f"{self._topic}-{table}", "read_committed")
        newest = {key: value for _, _, key, value in messages}
        return [json.loads(value, parse_float=str) for value in newest.values() if value]


def dicts(names: Iterable[str], rows: Iterable[Row]) -> list[dict[str, Any]]:
    names = list(names)
    return [dict(zip(names, row, strict=True)) for row in rows]


def canonical(rows: Iterable[Mapping[str, Any]], columns: Iterable[str]) -> list[tuple[str, ...]]:
    """The rows in one order and with one text for each value, whatever the program that read it makes of it."""
    columns = list(columns)
    return sorted(tuple(_text(name, row.get(name)) for name in columns) for row in rows)


def _text(column: str, value: Any) -> str:
    if value is None:
        return "NULL"
    if column == "amount":
        return str(Decimal(str(value)).quantize(Decimal("0.01")))
    if column == "at":
        time = dt.datetime.fromisoformat(value) if isinstance(value, str) else value
        return str(time.replace(tzinfo=None).isoformat(" ", "microseconds"))
    return str(value)
