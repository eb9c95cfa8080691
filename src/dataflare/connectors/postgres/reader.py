"""Read a part of a table, or a query, of a PostgreSQL database."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import count
from typing import TYPE_CHECKING, Any

import polars as pl

from dataflare.connectors.postgres.connection import ArrowConnection, Server
from dataflare.connectors.postgres.decode import decoded
from dataflare.connectors.postgres.errors import postgres_errors
from dataflare.connectors.postgres.originals import original
from dataflare.connectors.postgres.relation import Column, sql_text
from dataflare.connectors.postgres.shards import condition
from dataflare.connectors.postgres.snapshot import Snapshot
from dataflare.sdk.sql import relation as relations
from dataflare.sdk.sql.names import quoted
from dataflare.sdk.sql.relation import with_values
from dataflare.sdk.sql.server_pages import KeyPages, PartPages, ServerPages

if TYPE_CHECKING:
    from dataflare.expr.sql import SqlText


class Reading(relations.Reading, frozen=True, kw_only=True):
    """The columns and rows to read: the same for each part of a source. snapshot: None to see the
    database as it is when reading begins."""

    server: Server
    snapshot: Snapshot | None = None

    @property
    def application(self) -> str:
        return f"dataflare {self.step}"

    def where(self, values: dict[str, str], *conditions: str) -> str:
        """All conditions; adds to `values` the settings that the filters read."""
        every = [c for c in conditions if c]
        for place, each in enumerate(self.filters):
            every.append(f"({_with_settings(each, f'filter{place}_', values)})")
        return " and ".join(every) or "true"


def _with_settings(condition: SqlText, prefix: str, values: dict[str, str]) -> str:
    """A condition whose `?` marks are settings, cast by the type of their value. Their names depend on the condition
    alone: a second statement in the transaction reads those of the first."""
    numbers = count()

    def setting(value: Any) -> str:
        name = f"dataflare.{prefix}{next(numbers)}"
        values[name] = sql_text(value)
        return f"cast(current_setting('{name}') as {_type_of(value)})"

    return with_values(condition, setting)


def literal(value: Any) -> str:
    """A value as SQL without a question mark, which would stand for another value."""
    text = sql_text(value).replace("'", "''").replace("?", "'||chr(63)||'")
    return f"cast('{text}' as {_type_of(value)})"


def _type_of(value: Any) -> str:
    types = {
        "bool": "boolean", "int": "numeric", "float": "double precision", "Decimal": "numeric",
        "datetime": "timestamp", "date": "date", "time": "time", "timedelta": "interval",
        "bytes": "bytea",
    }  # fmt: skip
    if type(value).__name__ == "datetime" and value.tzinfo is not None:
        return "timestamptz"
    if isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63:
        return "bigint"
    return types.get(type(value).__name__, "text")


class PostgresPages(ServerPages):
    """One statement in a transaction of its own. _values: the settings that the statement reads."""

    _reading: Reading

    def __init__(self, reading: Reading, start: Mapping[str, Any]) -> None:
        super().__init__(reading, start)
        self._values: dict[str, str] = {}

    def errors(self) -> AbstractContextManager[None]:
        return postgres_errors(self._reading.server.label, self._reading.relation.label)

    def open_stream(self) -> Iterator[pl.DataFrame]:
        reading = self._reading
        snapshot = None
        if reading.snapshot is not None:
            snapshot = reading.snapshot.take(reading.server, f"{reading.application} (snapshot)")
        self._values = dict(reading.relation.values)
        sql = self.query()
        self._db = db = ArrowConnection(reading.server, reading.application)
        db.begin(self._values, snapshot)
        return db.stream(sql)

    def number(self, sql: str) -> int:
        return 0 if self._db is None else sum(int(part["n"].sum()) for part in self._db.stream(sql))

    def where(self, *conditions: str) -> str:
        return self._reading.where(self._values, *conditions)

    def part(self, data: Mapping[str, Any]) -> str:
        return condition(data, self._reading.relation, self._values)

    def original(self, values: pl.Series, row: int) -> Any:
        return original(values, row)

    def typed(self, raw: pl.Series, column: Column) -> pl.Series:
        return decoded(raw, column.type, as_text=column.as_text)

    def decode(self, raw: pl.DataFrame, place: int, column: Column) -> tuple[pl.Series, pl.Series]:
        values, is_unfit = super().decode(raw, place, column)
        if f"t{place}" in raw.columns:
            is_unfit |= raw[f"t{place}"].is_not_null()
        if column.type.name == "duration":
            self._count_days(column.name, raw[f"c{place}"])
        return values, is_unfit

    def _count_days(self, name: str, intervals: pl.Series) -> None:
        """PostgreSQL keeps days apart from hours, because a day may have 23 or 25; a duration does not."""
        if rows := int(intervals.str.contains(" day", literal=True).sum()):
            warning = f"a day of the interval '{name}' is read as 24 hours"
            self.warnings[warning] = self.warnings.get(warning, 0) + rows


class KeyReader(KeyPages, PostgresPages):
    """A part of a table in the order of its key, from the last key that was read."""

    def shows(self, column: Column) -> bool:
        return self._is_whole(column)

    def key_sql(self, column: Column) -> str:
        """Integer keys are not selected as text."""
        return quoted(column.name) + ("" if self._is_whole(column) else "::text")

    def _is_whole(self, column: Column) -> bool:
        return column.type.is_integer and column.sql == "{}" and not column.as_text

    def key_json(self, value: Any) -> str:
        return str(value)

    def behind(self, key: Sequence[Any]) -> str:
        relation, marks = self._reading.relation, []
        for place, (name, text) in enumerate(zip(relation.key, key, strict=True)):
            self._values[f"dataflare.after{place}"] = text
            type_ = relation.column(name).pg
            marks.append(f"cast(current_setting('dataflare.after{place}') as {type_})")
        return f"({', '.join(map(quoted, relation.key))}) > ({', '.join(marks)})"


class StreamReader(PartPages, PostgresPages):
    """Relations without a key: a query, a view, a table by blocks."""
