"""Readers of a relation: decoded pages, a stream that is divided into pages, and the rows since the last run.

Column i of the output is fetched as `c<i>`. As `t<i>` it may have the text of a value that does not fit.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import polars as pl

from dataflare.model.types import DataType
from dataflare.sdk.source import BadRow
from dataflare.sdk.sql.config import Incremental
from dataflare.sdk.sql.incremental import (
    CURSOR,
    State,
    Window,
    cursor_text,
    cursor_values,
    lag_of,
    null_warning,
    refuse_cursor,
    row_hashes,
    text_ranges,
)
from dataflare.sdk.sql.originals import original, original_row
from dataflare.sdk.sql.pages import Page, PageReader
from dataflare.sdk.sql.relation import Reading


class TablePages(PageReader):
    """Converts a fetched page to typed rows and bad rows."""

    def __init__(self, reading: Reading, start: Mapping[str, Any]) -> None:
        super().__init__(reading.step, start)
        self._reading: Any = reading

    @abstractmethod
    def decode(self, raw: pl.DataFrame, place: int, column: Any) -> tuple[pl.Series, pl.Series]:
        """The typed values of output column number `place`, and which of them do not fit."""

    def original(self, values: pl.Series, row: int) -> Any:
        """A value as its database writes it."""
        return original(values, row)

    def original_of(self, raw: pl.DataFrame, place: int, row: int) -> Any:
        """The value of an output column as its database writes it."""
        text = f"t{place}"
        value = raw[text][row] if text in raw.columns else None
        return self.original(raw[f"c{place}"], row) if value is None else value

    def advice(self, column: Any, value: Any) -> str:
        """What a user can do about a value that does not fit, as the end of a message."""
        return ""

    def page(
        self, raw: pl.DataFrame, after: Mapping[str, Any], key: int, keys: Mapping[str, str]
    ) -> Page:
        """keys: columns of `raw` for the place of a row in messages, with their names."""
        columns, series = self._reading.columns, []
        unfit: pl.Series | None = None
        first_unfit: dict[int, str] = {}
        for place, column in enumerate(columns):
            values, is_unfit = self.decode(raw, place, column)
            series.append(values.alias(column.name))
            if is_unfit.any():
                for row in is_unfit.arg_true().to_list():
                    first_unfit.setdefault(row, column.name)
                unfit = is_unfit if unfit is None else unfit | is_unfit
        frame = pl.DataFrame(series) if series else pl.DataFrame(height=raw.height)

        def place_of(row: int) -> str:
            where = ", ".join(
                f"{name} {self.original(raw[each], row)}" for each, name in keys.items()
            )
            return f"{self._reading.relation.label} {where}".rstrip()

        if unfit is None:
            return Page(frame, after, key, place=place_of)
        bad = [self._bad(raw, row, first_unfit[row], place_of(row)) for row in sorted(first_unfit)]
        return Page(frame.filter(~unfit), after, key, (~unfit).arg_true(), bad, place_of)

    def _bad(self, raw: pl.DataFrame, row: int, name: str, place: str) -> BadRow:
        columns = self._reading.columns
        values = {c.name: self.original_of(raw, at, row) for at, c in enumerate(columns)}
        column = self._reading.relation.column(name)
        message = f"column '{name}' is {column.type}, and {repr(values[name])[:80]} does not fit"
        message += self.advice(column, values[name])
        return BadRow(row, "E0501", message, original_row(values), place)


class StreamPages(TablePages):
    """A stream that is buffered until a page is full; the size of a page does not depend on the
    driver's batches."""

    def __init__(self, reading: Reading, start: Mapping[str, Any]) -> None:
        super().__init__(reading, start)
        self._stream: Iterator[pl.DataFrame] | None = None
        self._frames: list[pl.DataFrame] = []
        self._ended = False

    @abstractmethod
    def query(self) -> str:
        """The SQL of all rows after the position. Called when the stream is opened."""

    @abstractmethod
    def pull(self) -> pl.DataFrame | None:
        """The next frame of the stream, which is opened if needed; None at its end."""

    def where(self, *conditions: str) -> str:
        """All conditions, and those of the filters."""
        return str(self._reading.where(*conditions))

    @abstractmethod
    def number(self, sql: str) -> int:
        """The number that a statement returns, as `n`. Called behind the rows of `query`."""

    def take(self, rows: int) -> pl.DataFrame | None:
        """The next rows of the stream, or None."""
        rows = self._reading.rows(rows)
        while not self._ended and sum(frame.height for frame in self._frames) < rows:
            frame = self.pull()
            if frame is None:
                self._ended = True
            else:
                self._frames.append(frame)
        if not any(frame.height for frame in self._frames):
            return None
        every = pl.concat(self._frames, rechunk=False)
        self._frames = [every.slice(rows)] if every.height > rows else []
        return every.head(rows)


class CountedPages(StreamPages):
    """Relations without a key: a query, a view. A position, {"rows": 0} at the beginning, counts rows, so it
    is valid only if the database returns them in the same order again. Combined with a class of streams."""

    @abstractmethod
    def parts(self) -> tuple[Sequence[str], str]:
        """The output columns in SQL, and the condition for the rows."""

    def query(self) -> str:
        parts, where = self.parts()
        skip = f" offset {int(self._after['rows'])}" if self._after["rows"] else ""
        columns = ", ".join(parts or ["1 as __dataflare_one"])
        return f"select {columns} from {self._reading.relation.source} where {where}{skip}"

    def _fetch(self, rows: int) -> Page | None:
        raw = self.take(rows)
        if raw is None:
            return None
        before = int(self._after["rows"])
        raw = raw.with_row_index("__dataflare_row", before + 1)
        return self.page(raw, {"rows": before + raw.height}, before, {"__dataflare_row": "row"})


class NewRows(TablePages):
    """The rows since the last run, in the order of the cursor; ends with an empty page that has the state.
    Combined with a class of pages."""

    def watch(self, config: Incremental, state: State, initial: Any) -> None:
        """Called once, before reading. initial: the config's first value, as `cursor_values` has it."""
        self._config, self._state = config, state
        self._column: Any = self._reading.relation.column(config.column)
        self._window = Window(state, lag_of(self._column.type, config.lag), initial)
        self._row = 0
        self._reported = False

    @abstractmethod
    def next_rows(self, rows: int) -> pl.DataFrame | None:
        """The next rows after `_row`, in the order of the cursor, NULLs first; None at the end. The cursor is
        CURSOR, the columns that identify a row are `i<n>`."""

    @abstractmethod
    def typed_cursor(self, values: pl.Series) -> pl.Series:
        """Fetched values of the cursor with its type; NULL for one that does not fit."""

    def cursor(self, raw: pl.DataFrame) -> pl.Series:
        """The cursor of the rows, as `cursor_values` has it. Raises DataError for a value that does not
        fit."""
        column, fetched = self._column, raw[CURSOR]
        typed = self.typed_cursor(fetched)
        unfit = typed.is_null() & fetched.is_not_null()
        if unfit.any():
            value = self.original(fetched.filter(unfit), 0)
            raise refuse_cursor(self._reading.relation.label, column.name, column.type, value)
        return cursor_values(typed)

    @abstractmethod
    def count(self, condition: str) -> int:
        """The number of rows of the relation with a condition."""

    @abstractmethod
    def column_sql(self) -> str:
        """The cursor column in SQL."""

    def identity(self) -> tuple[str, ...]:
        """The columns that distinguish rows with the same cursor value."""
        relation = self._reading.relation
        names = tuple(relation.column(n).name for n in self._config.key) or relation.key
        return (*(names or relation.names), self._column.name)

    def _fetch(self, rows: int) -> Page | None:
        raw = self.next_rows(rows)
        if raw is None:
            return self._end()
        nulls_before = self._window.state().null_rows
        hashes = row_hashes(raw.select(pl.col("^i\\d+$")))
        new = self._window.take(self.cursor(raw).alias(CURSOR), hashes)
        first, self._row = self._row, self._row + raw.height
        state = self._window.state()
        page = self.page(raw.filter(new), state.to_json(), first, {CURSOR: self._column.name})
        nulls = state.null_rows - nulls_before
        metadata = {"null_cursors": nulls} if nulls else {}
        return Page(page.good, page.after, page.key, page.good_rows, page.bad, page.place, metadata)

    def _end(self) -> Page | None:
        """Return the state once, also if there were no new rows."""
        if self._reported:
            return None
        self._reported = True
        if rows := self.count(f"{self.column_sql()} is null"):
            self.warnings[null_warning(self._column.name)] = rows
        columns = {c.name: c.type.to_polars() for c in self._reading.columns}
        return Page(pl.DataFrame(schema=columns), self._window.state().to_json(), self._row)


class NewRowsOfStream(NewRows, StreamPages):
    """The rows since the last run as one stream, selected and ordered by the database."""

    nulls_first: ClassVar[str] = " nulls first"
    """The end of an ORDER BY under which NULLs come first."""

    @abstractmethod
    def bound(self, name: str, value: str) -> str:
        """A value of the cursor column as SQL. name: unique in the query."""

    def identity_sql(self, name: str) -> str:
        """A column that identifies a row, in SQL."""
        return str(self._reading.relation.column(name).selected())

    def order_sql(self) -> str:
        """The cursor column in SQL, as it is ordered and compared: text by its bytes."""
        return self.column_sql()

    def selects(self) -> list[str]:
        """All columns in SQL."""
        names = enumerate(self.identity())
        identity = [f"{self.identity_sql(name)} as i{at}" for at, name in names]
        return [*self._reading.selects(), f"{self._column.selected()} as {CURSOR}", *identity]

    def query(self) -> str:
        order = self.order_sql()
        return (
            f"select {', '.join(self.selects())} from {self._reading.relation.source} "
            f"where {self.where(self.new_rows(order))} order by {order}{self.nulls_first}"
        )

    def count(self, condition: str) -> int:
        source = self._reading.relation.source
        return self.number(f"select count(*) as n from {source} where {self.where(condition)}")

    def next_rows(self, rows: int) -> pl.DataFrame | None:
        return self.take(rows)

    def new_rows(self, ordered: str) -> str:
        """The condition for all new rows. ordered: the cursor column, as it is ordered."""
        bound = self._window.bound
        nulls = "" if self._state.nulls_done else f"{ordered} is null or "
        if bound is None:
            return "true" if nulls else f"{ordered} is not null"
        type_: DataType = self._column.type
        text, parts = cursor_text(bound, type_), []
        ranges = text_ranges(text) if type_.name == "string" else [(text, None)]
        for place, (low, high) in enumerate(ranges):
            part = f"{ordered} >= {self.bound(f'{place}', low)}"
            if high is not None:
                part = f"({part} and {ordered} < {self.bound(f'{place}_end', high)})"
            parts.append(part)
        return f"({nulls}{' or '.join(parts)})"
