"""Read a part of a table, or a query, as the stream of one statement, divided into pages.

Always true: a page's rows are those that follow the position, in the order of the key if there is
one. If a connection is lost and the rest can be read without losing or doubling a row, the error
allows to open the split again immediately; otherwise the job returns to its checkpoint.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import polars as pl
from msgspec import Struct

from dataflare.connectors.postgres.connection import ArrowConnection, Server
from dataflare.connectors.postgres.decode import decoded
from dataflare.connectors.postgres.errors import is_lost, postgres_errors
from dataflare.connectors.postgres.originals import original
from dataflare.connectors.postgres.relation import Column, Relation, sql_text
from dataflare.connectors.postgres.shards import condition
from dataflare.connectors.postgres.snapshot import SharedSnapshot
from dataflare.errors import DataFlareError
from dataflare.sdk.source import BadRow
from dataflare.sdk.sql.names import quoted
from dataflare.sdk.sql.originals import original_row
from dataflare.sdk.sql.pages import Page, PageReader
from dataflare.sdk.threads import in_thread

if TYPE_CHECKING:
    from dataflare.expr.sql import SqlText

_ONE = "__dataflare_one"


class Reading(Struct, frozen=True):
    """The columns and rows to read: the same for each part of a source. snapshot: None to see the
    database as it is when reading begins."""

    server: Server
    step: str
    relation: Relation
    output: tuple[str, ...]
    filters: tuple[SqlText, ...]
    rows_max: int | None
    snapshot: SharedSnapshot | None = None

    @property
    def columns(self) -> tuple[Column, ...]:
        return tuple(self.relation.column(name) for name in self.output)

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


class PostgresPages(PageReader):
    """A stream that is buffered until a page is full; the size of a page does not depend on the
    driver's batches."""

    def __init__(self, reading: Reading, start: Mapping[str, Any]) -> None:
        super().__init__(reading.step, start)
        self._reading = reading
        self._db: ArrowConnection | None = None
        self._stream: Iterator[pl.DataFrame] | None = None
        self._frames: list[pl.DataFrame] = []
        self._ended = False

    @abstractmethod
    def _query(self, values: dict[str, str]) -> str:
        """The SQL of all rows after the position; adds to `values` the settings it reads."""

    def _may_reopen(self) -> bool:
        """Whether `_query`, run again now, returns exactly the rows that are not read yet."""
        return False

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

    def _take(self, rows: int) -> pl.DataFrame | None:
        """The next rows of the stream, or None."""
        reading = self._reading
        if reading.rows_max is not None:
            rows = min(rows, reading.rows_max)
        while not self._ended and sum(frame.height for frame in self._frames) < rows:
            try:
                self._pull()
            except DataFlareError as error:
                was_open = self._stream is not None
                self._close()
                # The buffered rows are after the position, so they are read again.
                self._frames.clear()
                if was_open and is_lost(error) and self._may_reopen():
                    # A new connection is enough: the first retry needs no policy and no wait.
                    error.retry_after_s = 0.0
                raise
        if not any(frame.height for frame in self._frames):
            return None
        every = pl.concat(self._frames, rechunk=False)
        self._frames = [every.slice(rows)] if every.height > rows else []
        return every.head(rows)

    def _pull(self) -> None:
        reading = self._reading
        with postgres_errors(reading.server.label, reading.relation.label):
            if self._stream is None:
                self._stream = self._open()
            frame = next(self._stream, None)
        if frame is None:
            self._ended = True
        else:
            self._frames.append(frame)

    def _open(self) -> Iterator[pl.DataFrame]:
        reading = self._reading
        snapshot = None
        if reading.snapshot is not None:
            snapshot = reading.snapshot.take(reading.server, f"{reading.application} (snapshot)")
        values = dict(reading.relation.values)
        sql = self._query(values)
        self._db = ArrowConnection(reading.server, reading.application)
        self._db.begin(values, snapshot)
        return self._db.stream(sql)

    def _page(
        self, raw: pl.DataFrame, after: Mapping[str, Any], key: int, keys: Mapping[str, str]
    ) -> Page:
        """keys: columns of `raw` for the place of a row in messages, with their names."""
        columns = self._reading.columns
        series = []
        unfit = pl.Series([False]).new_from_index(0, raw.height)
        first_unfit: dict[int, str] = {}
        for place, column in enumerate(columns):
            fetched = raw[f"c{place}"]
            values = decoded(fetched, column.type, as_text=column.as_text).alias(column.name)
            is_misfit = values.is_null() & fetched.is_not_null()
            if f"t{place}" in raw.columns:
                is_misfit |= raw[f"t{place}"].is_not_null()
            if is_misfit.any():
                for row in is_misfit.arg_true().to_list():
                    first_unfit.setdefault(row, column.name)
                unfit |= is_misfit
            if column.type.name == "duration":
                self._count_days(column.name, fetched)
            series.append(values)
        frame = pl.DataFrame(series) if series else pl.DataFrame(height=raw.height)

        def place_of(row: int) -> str:
            where = ", ".join(f"{label} {raw[name][row]}" for name, label in keys.items())
            return f"{self._reading.relation.label} {where}".rstrip()

        if not first_unfit:
            return Page(frame, after, key, place=place_of)
        bad = [self._bad(raw, row, first_unfit[row], place_of(row)) for row in sorted(first_unfit)]
        return Page(frame.filter(~unfit), after, key, (~unfit).arg_true(), bad, place_of)

    def _count_days(self, name: str, intervals: pl.Series) -> None:
        """PostgreSQL keeps days apart from hours, because a day may have 23 or 25; a duration does not."""
        if rows := int(intervals.str.contains(" day", literal=True).sum()):
            warning = f"a day of the interval '{name}' is read as 24 hours"
            self.warnings[warning] = self.warnings.get(warning, 0) + rows

    def _bad(self, raw: pl.DataFrame, row: int, name: str, place: str) -> BadRow:
        values: dict[str, Any] = {}
        for number, column in enumerate(self._reading.columns):
            series = raw[f"c{number}"]
            value = original(series, row)
            if f"t{number}" in raw.columns and raw[f"t{number}"][row] is not None:
                value = raw[f"t{number}"][row]
            values[column.name] = value
        type_ = self._reading.relation.column(name).type
        message = f"column '{name}' is {type_}, and {str(values[name])[:80]!r} does not fit"
        return BadRow(row, "E0501", message, original_row(values), place)


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

    def _query(self, values: dict[str, str]) -> str:
        reading, relation = self._reading, self._reading.relation
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
        raw = self._take(rows)
        if raw is None:
            return None
        before = int(self._after["rows"])
        last = [str(raw[alias][-1]) for alias in self._keys]
        return self._page(raw, {"after": last, "rows": before + raw.height}, before, self._keys)


class StreamReader(PostgresPages):
    """Relations without a key: a query, a view, a table by blocks. A position counts rows, so it is
    valid only if the server returns them in the same order again."""

    def __init__(self, reading: Reading, data: Mapping[str, Any], start: Mapping[str, Any]) -> None:
        super().__init__(reading, start or {"rows": 0})
        self._data = data

    def _may_reopen(self) -> bool:
        return not self._after["rows"]

    def _query(self, values: dict[str, str]) -> str:
        reading, relation = self._reading, self._reading.relation
        parts: Sequence[str] = reading.selects() or [f"1 as {_ONE}"]
        skip = f" offset {int(self._after['rows'])}" if self._after["rows"] else ""
        where = reading.where(values, condition(self._data, relation, values))
        return f"select {', '.join(parts)} from {relation.source} where {where}{skip}"

    def _fetch(self, rows: int) -> Page | None:
        raw = self._take(rows)
        if raw is None:
            return None
        before = int(self._after["rows"])
        raw = raw.with_row_index("__dataflare_row", before + 1)
        return self._page(raw, {"rows": before + raw.height}, before, {"__dataflare_row": "row"})
