"""Read a part of a table, or a query, of a MySQL or MariaDB database. A part sees the table as it is when its
reading begins."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import polars as pl

from dataflare.connectors.mysql.connection import Server, literal
from dataflare.connectors.mysql.decode import decoded
from dataflare.connectors.mysql.errors import mysql_errors
from dataflare.connectors.mysql.relation import Column, backticked
from dataflare.connectors.mysql.shards import condition
from dataflare.sdk.sql import relation as relations
from dataflare.sdk.sql.relation import with_values
from dataflare.sdk.sql.server_pages import (
    KeyPages,
    PartPages,
    ServerPages,
    behind_key,
    key_text,
)


class Reading(relations.Reading, frozen=True, kw_only=True):
    """The columns and rows to read: the same for each part of a source."""

    server: Server

    def where(self, *conditions: str) -> str:
        """All conditions."""
        filters = [f"({with_values(each, literal)})" for each in self.filters]
        return " and ".join([*filter(None, conditions), *filters]) or "true"


class MysqlPages(ServerPages):
    """One statement in a transaction of its own."""

    _reading: Reading

    def errors(self) -> AbstractContextManager[None]:
        return mysql_errors(self._reading.server.label, self._reading.relation.label)

    def open_stream(self) -> Iterator[pl.DataFrame]:
        reading = self._reading
        self._db = db = reading.server.connect(f"dataflare {reading.step}")
        db.run("set session transaction isolation level repeatable read")
        db.run("start transaction with consistent snapshot, read only")
        return db.stream(self.query())

    def number(self, sql: str) -> int:
        [(number,)] = self._db.rows(sql) if self._db is not None else [(0,)]
        return int(number)

    def typed(self, raw: pl.Series, column: Column) -> pl.Series:
        return decoded(raw, column.type, as_text=column.as_text)

    def part(self, data: Mapping[str, Any]) -> str:
        return condition(data, self._reading.relation)

    def spelled(self, name: str) -> str:
        return backticked(name)

    def advice(self, column: Any, value: Any) -> str:
        match column.type.name:
            case "bool":
                return f"; schema: {{{column.name}: int8}} reads other numbers than 0 and 1"
            case "time":
                return f"; schema: {{{column.name}: duration}} reads more than a day"
            case "date" | "timestamp":
                return f"; schema: {{{column.name}: string}} reads it as text"
        return ""


class KeyReader(KeyPages, MysqlPages):
    """A part of a table in the order of its key, from the last key that was read."""

    def key_json(self, value: bytes) -> Any:
        return key_text(value)

    def behind(self, key: Sequence[Any]) -> str:
        columns = [self._reading.relation.column(name) for name in self._reading.relation.key]
        values = [_key_value(each, value) for each, value in zip(columns, key, strict=True)]
        return behind_key([backticked(each.name) for each in columns], values)


def _key_value(column: Column, text: Any) -> str:
    """A value of the position as SQL, of the type of its column: text would be compared as a float."""
    value = bytes.fromhex(text["hex"]) if isinstance(text, Mapping) else text
    if column.type.name == "binary":
        return literal(value if isinstance(value, bytes) else value.encode())
    if column.type.is_integer or column.type.name == "decimal":
        return str(value)
    return literal(value)


class StreamReader(PartPages, MysqlPages):
    """Relations without a key: a query, a view."""

    def query(self) -> str:
        text = super().query()
        # OFFSET needs a LIMIT here.
        return text.replace(" offset ", f" limit {2**63} offset ") if self._after["rows"] else text
