"""Read a part of a table, or a query, as the stream of one statement, divided into pages.

Always true: a page's rows are those that follow the position, in the order of the key if there is
one. If a connection is lost and the rest can be read without losing or doubling a row, the error
allows to open the split again immediately; otherwise the job returns to its checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import polars as pl

from dataflare.connectors.postgres.connection import ArrowConnection, Server
from dataflare.connectors.postgres.decode import decoded
from dataflare.connectors.postgres.errors import is_lost, postgres_errors
from dataflare.connectors.postgres.originals import original
from dataflare.connectors.postgres.relation import Column, sql_text
from dataflare.connectors.postgres.shards import condition
from dataflare.connectors.postgres.snapshot import SharedSnapshot
from dataflare.errors import DataFlareError
from dataflare.sdk.sql import relation as relations
from dataflare.sdk.sql.names import quoted
from dataflare.sdk.sql.pages import Page
from dataflare.sdk.sql.table_pages import CountedPages, StreamPages
from dataflare.sdk.threads import in_thread

if TYPE_CHECKING:
    from dataflare.expr.sql import SqlText


class Reading(relations.Reading, frozen=True, kw_only=True):
    """The columns and rows to read: the same for each part of a source. snapshot: None to see the
    database as it is when reading begins."""

    server: Server
    snapshot: SharedSnapshot | None = None

    @property
    def application(self) -> str:
        return f"dataflare {self.step}"

    def where(self, values: dict[str, str], *conditions: str) -> str:
        """All conditions; adds to `values` the settings that the filters read."""
        every = [c for c in conditions if c]
        for place, each in enumerate(self.filters):
            every.append(f"({_with_settings(each, f'filter{place}_', values)})")
        return " and ".join(every) or "true"

    def selects(self) -> list[str]:
        """Output column i as `c<i>`; if the result would not show that a value does not fit, its
        text as `t<i>`."""
        parts = []
        for place, column in enumerate(self.columns):
            parts.append(f"{column.selected()} as c{place}")
            guard = column.guarded()
            if guard is not None:
                parts.append(f"{guard} as t{place}")
        return parts


def _with_settings(condition: SqlText, prefix: str, values: dict[str, str]) -> str:
    """A condition whose `?` marks are settings, cast by the type of their value."""
    pieces = condition.text.split("?")
    parts = [pieces[0]]
    for place, (value, piece) in enumerate(zip(condition.params, pieces[1:], strict=True)):
        name = f"dataflare.{prefix}{place}"
        values[name] = sql_text(value)
        parts.append(f"cast(current_setting('{name}') as {_type_of(value)}){piece}")
    return "".join(parts)


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


class PostgresPages(StreamPages):
    """One statement in a transaction of its own. _values: the settings that the statement reads."""

    _reading: Reading

    def __init__(self, reading: Reading, start: Mapping[str, Any]) -> None:
        super().__init__(reading, start)
        self._db: ArrowConnection | None = None
        self._values: dict[str, str] = {}

    def _may_reopen(self) -> bool:
        """Whether `query`, run again now, returns exactly the rows that are not read yet."""
        return False

    def original(self, values: pl.Series, row: int) -> Any:
        return original(values, row)

    async def aclose(self) -> None:
        # Do not wait for a statement that runs for minutes.
        db = self._db
        if db is not None:
            await in_thread(db.cancel)
        await super().aclose()

    def _close(self) -> None:
        db, self._db, self._stream = self._db, None, None
        if db is not None:
            db.cancel()
            db.close()

    def pull(self) -> pl.DataFrame | None:
        reading = self._reading
        try:
            with postgres_errors(reading.server.label, reading.relation.label):
                if self._stream is None:
                    self._stream = self._open()
                return next(self._stream, None)
        except DataFlareError as error:
            was_open = self._stream is not None
            self._close()
            # The buffered rows are after the position, so they are read again.
            self._frames.clear()
            if was_open and is_lost(error) and self._may_reopen():
                # A new connection is enough: the first retry needs no policy and no wait.
                error.retry_after_s = 0.0
            raise

    def _open(self) -> Iterator[pl.DataFrame]:
        reading = self._reading
        snapshot = None
        if reading.snapshot is not None:
            snapshot = reading.snapshot.take(reading.server, f"{reading.application} (snapshot)")
        self._values = dict(reading.relation.values)
        sql = self.query()
        self._db = ArrowConnection(reading.server, reading.application)
        self._db.begin(self._values, snapshot)
        return self._db.stream(sql)

    def decode(self, raw: pl.DataFrame, place: int, column: Column) -> tuple[pl.Series, pl.Series]:
        fetched = raw[f"c{place}"]
        values = decoded(fetched, column.type, as_text=column.as_text)
        is_unfit = values.is_null() & fetched.is_not_null()
        if f"t{place}" in raw.columns:
            is_unfit |= raw[f"t{place}"].is_not_null()
        if column.type.name == "duration":
            self._count_days(column.name, fetched)
        return values, is_unfit

    def _count_days(self, name: str, intervals: pl.Series) -> None:
        """PostgreSQL keeps days apart from hours, because a day may have 23 or 25; a duration does not."""
        if rows := int(intervals.str.contains(" day", literal=True).sum()):
            warning = f"a day of the interval '{name}' is read as 24 hours"
            self.warnings[warning] = self.warnings.get(warning, 0) + rows


class KeyReader(PostgresPages):
    """A part of a table in the order of its key, from the last key that was read."""

    def __init__(self, reading: Reading, data: Mapping[str, Any], start: Mapping[str, Any]) -> None:
        super().__init__(reading, start or {"after": None, "rows": 0})
        self._data = data
        self._keys = {}
        self._key_columns: list[str] = []
        """Columns that are selected only for the position; integer keys are not selected as
        text."""
        for place, name in enumerate(reading.relation.key):
            column, alias = reading.relation.column(name), f"__dataflare_k{place}"
            whole = column.type.is_integer and column.sql == "{}" and not column.as_text
            if whole and column in reading.columns:
                alias = f"c{reading.columns.index(column)}"
            else:
                self._key_columns.append(f"{quoted(name)}{'' if whole else '::text'} as {alias}")
            self._keys[alias] = name

    def _may_reopen(self) -> bool:
        return True

    def query(self) -> str:
        reading, relation, values = self._reading, self._reading.relation, self._values
        conditions = [condition(self._data, relation, values)]
        if self._after["after"] is not None:
            marks = []
            for place, (name, text) in enumerate(
                zip(relation.key, self._after["after"], strict=True)
            ):
                values[f"dataflare.after{place}"] = text
                type_ = relation.column(name).pg
                marks.append(f"cast(current_setting('dataflare.after{place}') as {type_})")
            names = ", ".join(map(quoted, relation.key))
            conditions.append(f"({names}) > ({', '.join(marks)})")
        return (
            f"select {', '.join([*self._key_columns, *reading.selects()])} from {relation.source} "
            f"where {reading.where(values, *conditions)} order by "
            + ", ".join(map(quoted, relation.key))
        )

    def _fetch(self, rows: int) -> Page | None:
        raw = self.take(rows)
        if raw is None:
            return None
        before = int(self._after["rows"])
        last = [str(raw[alias][-1]) for alias in self._keys]
        return self.page(raw, {"after": last, "rows": before + raw.height}, before, self._keys)


class StreamReader(CountedPages, PostgresPages):
    """Relations without a key: a query, a view, a table by blocks."""

    def __init__(self, reading: Reading, data: Mapping[str, Any], start: Mapping[str, Any]) -> None:
        super().__init__(reading, start or {"rows": 0})
        self._data = data

    def _may_reopen(self) -> bool:
        return not self._after["rows"]

    def parts(self) -> tuple[Sequence[str], str]:
        reading = self._reading
        part = condition(self._data, reading.relation, self._values)
        return reading.selects(), reading.where(self._values, part)
