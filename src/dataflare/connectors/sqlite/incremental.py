"""Incremental reading of an SQLite table or query, in the order of its cursor column.

SQLite stores times as text or numbers. So the database selects rows roughly, by conditions that an
index supports, and the decoded cursor decides.
"""

from __future__ import annotations

from typing import Any

import polars as pl
from msgspec.structs import replace

from dataflare.connectors.sqlite.connection import Opened
from dataflare.connectors.sqlite.decode import (
    NUMBERS_PER_SECOND,
    TimeNumbers,
    decoded,
    first_number,
    selected,
)
from dataflare.connectors.sqlite.errors import sqlite_errors
from dataflare.connectors.sqlite.reader import SPOOL, Reading, SpoolPages
from dataflare.connectors.sqlite.relation import Column, Relation
from dataflare.connectors.sqlite.types import affinity, stored
from dataflare.errors import ConfigError
from dataflare.model.types import DATE
from dataflare.sdk.sql.config import Incremental
from dataflare.sdk.sql.incremental import (
    CURSOR,
    DAY_S,
    PER_SECOND,
    State,
    Window,
    check_cursor,
    cursor_values,
    decimal_text,
    lag_of,
    null_warning,
    refuse_cursor,
    refuse_order,
    row_hashes,
    with_blank,
)
from dataflare.sdk.sql.names import quoted
from dataflare.sdk.sql.originals import original
from dataflare.sdk.sql.pages import Page


def check_incremental(relation: Relation, config: Incremental) -> None:
    """Refuse a cursor column that does not grow, and settings that do not fit it."""
    column = relation.column(config.column)
    for name in config.key:
        relation.column(name)
    check_cursor(column.name, column.type, config)
    if column.type.name == "decimal" and affinity(column.declared) != "NUMERIC":
        # Digits as text: 10 sorts before 9.
        raise refuse_order(column.name, f"{column.type}, stored as text")
    if column.time_numbers is not None and column.text_affinity:
        raise refuse_order(column.name, "numbers stored as text")
    initial_cursor(column, config.initial_value)


def initial_cursor(column: Column, value: Any) -> Any:
    """The config's first value in the comparable form of cursors."""
    if value is None:
        return None
    if column.type.name == "string":
        return with_blank(str(value))
    text = pl.Series([value if isinstance(value, str) else _plain(value)], dtype=pl.String)
    value_cursor = cursor_values(decoded(text, None, column.type, column.time_numbers))[0]
    if value_cursor is None:
        raise ConfigError(
            f"initial_value {value!r} does not fit column '{column.name}', which is {column.type}",
            code="E0413",
            help="write 'initial_value' as a value of the column's type",
        )
    return value_cursor


def _plain(value: Any) -> str:
    return value.isoformat(" ") if hasattr(value, "isoformat") else str(value)


class IncrementalReader(SpoolPages):
    """The rows since the last run, copied in order to a temporary table; the last page is empty and
    has the state."""

    def __init__(self, reading: Reading, opened: Opened, config: Incremental, state: State) -> None:
        if isinstance(state.last, str):
            state = replace(state, last=with_blank(state.last))
        super().__init__(reading, opened, state.to_json())
        self._config = config
        self._column = reading.relation.column(config.column)
        self._window = Window(
            state,
            lag_of(self._column.type, config.lag),
            initial_cursor(self._column, config.initial_value),
        )
        self._nulls_done = state.nulls_done
        self._row = 0
        self._spooled = self._ended = False

    def _identity(self) -> tuple[str, ...]:
        """The columns that distinguish rows with the same cursor value."""
        relation = self._reading.relation
        names = tuple(relation.column(n).name for n in self._config.key) or relation.key
        return (*(names or relation.names), self._column.name)

    def _fetch(self, rows: int) -> Page | None:
        if not self._spooled:
            self._spool()
            self._spooled = True
        first = self._row
        chosen = f"rowid > {first} order by rowid limit {self._reading.rows(rows)}"
        raw = self._frame(
            f"select {self._selects()}, {self._extras()} from {SPOOL} where {chosen}", ()
        )
        if not raw.height:
            return self._end()
        if doubtful := self._doubtful(raw):
            raw = self._frame(
                f"select {self._selects(doubtful)}, {self._extras()} from {SPOOL} where {chosen}",
                (),
            )
        cursor = self._cursor(raw)
        nulls_before = self._window.state().null_rows
        hashes = row_hashes(raw.select(pl.col("^i\\d+$")))
        new = self._window.take(cursor, hashes)
        self._row += raw.height
        state = self._window.state()
        page = self._page(raw.filter(new), state.to_json(), first, [])
        metadata = {"null_cursors": state.null_rows - nulls_before}
        return Page(
            page.good, page.after, page.key, page.good_rows, page.bad, page.place,
            metadata if metadata["null_cursors"] else {},
        )  # fmt: skip

    def _end(self) -> Page | None:
        """Return the state once, also if there were no new rows."""
        if self._ended:
            return None
        self._ended = True
        self._count_nulls()
        columns = {c.name: c.type.to_polars() for c in self._reading.columns}
        return Page(pl.DataFrame(schema=columns), self._window.state().to_json(), self._row)

    def _count_nulls(self) -> None:
        relation = self._reading.relation
        counts = self._frame(
            f"select count(*) as n from {relation.source} "
            f"where {self._reading.where(f'{quoted(self._column.name)} is null')}",
            [*relation.params, *self._reading.filter_params],
        )
        if rows := int(counts["n"][0]):
            self.warnings = {null_warning(self._column.name): rows}

    def _extras(self) -> str:
        """The cursor, and as `i<n>` the text of the columns that identify a row."""
        parts = [
            f'"__dataflare_cursor" as "{CURSOR}"',
            'typeof("__dataflare_cursor") as "__dataflare_kind"',
        ]
        parts += [f'"i{place}"' for place, _ in enumerate(self._identity())]
        return ", ".join(parts)

    def _cursor(self, raw: pl.DataFrame) -> pl.Series:
        typed = decoded(raw[CURSOR], None, self._column.type, self._column.time_numbers)
        unfit = typed.is_null() & raw[CURSOR].is_not_null()
        if unfit.any():
            value = original(raw[CURSOR].filter(unfit), 0)
            label = self._reading.relation.label
            raise refuse_cursor(label, self._column.name, self._column.type, value)
        return cursor_values(typed).alias(CURSOR)

    def _spool(self) -> None:
        relation, column = self._reading.relation, self._column
        name = quoted(column.name)
        sql = selected(name, column.type, text_affinity=column.text_affinity)
        identity = [
            f"case typeof({quoted(n)}) when 'blob' then hex({quoted(n)}) "
            f"else cast({quoted(n)} as text) end as i{place}"
            for place, n in enumerate(self._identity())
        ]
        output = self._spooled_columns()
        bound, params = self._bounds()
        times = column.type.is_temporal
        order = f"{_chronological(name, column.time_numbers)}, " if times else ""
        by = name
        if column.type.name == "string":
            sql = by = _blank_separated(_as_text(column))
        with sqlite_errors(self._reading.path, relation.label):
            self._opened.db.execute(
                f"create temp table _dataflare_spool as "
                f"select {', '.join([*output, f'{sql} as __dataflare_cursor', *identity])} "
                f"from {relation.source} where {self._reading.where(f'({bound})')} "
                f"order by {name} is not null, {order}{by} collate binary",
                [*relation.params, *params, *self._reading.filter_params],
            )

    def _bounds(self) -> tuple[str, list[Any]]:
        """A condition that is true for all new rows, and for few others."""
        name = quoted(self._column.name)
        nulls = "" if self._nulls_done else f"{name} is null or "
        bound = self._window.bound
        if bound is None:
            return ("true" if nulls else f"{name} is not null"), []
        type_ = self._column.type
        if type_.name == "string":
            # Times with a T sort after those with a blank, so none is left out.
            return f"{nulls}{_as_text(self._column)} >= ? collate binary", [bound]
        if type_.name == "decimal":
            return f"{nulls}{name} >= cast(? as numeric)", [decimal_text(bound, type_.scale or 0)]
        if not type_.is_temporal:
            return f"{nulls}{name} >= ?", [bound]
        per_second = PER_SECOND[type_.unit or "us"] if type_.name == "timestamp" else 1 / DAY_S
        seconds = int(bound / per_second) - 1
        # One day earlier, because the text may have any offset; numbers sort below text in SQLite.
        day = stored(pl.lit((seconds // DAY_S) - 1, pl.Int64).cast(pl.Date), DATE)
        text = pl.select(day).item()
        first = first_number(seconds, self._column.time_numbers)
        numbers = f"{name} < ''" if first is None else f"({name} >= ? and {name} < '')"
        return f"{nulls}{name} >= ? or {numbers}", [text, *([] if first is None else [first])]


def _as_text(column: Column) -> str:
    """The text to compare: a column without the text affinity may contain numbers too."""
    name = quoted(column.name)
    return name if column.text_affinity else f"cast({name} as text)"


def _blank_separated(text: str) -> str:
    """SQLite has no type for times. Some programs write them with a T, others with a blank; they
    are compared with a blank."""
    day = "[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]"
    blank = f"substr({text}, 1, 10) || ' ' || substr({text}, 12)"
    return f"case when {text} glob '{day}T[0-9][0-9]:*' then {blank} else {text} end"


def _chronological(name: str, time_numbers: TimeNumbers | None) -> str:
    """Orders text and numbers in time, to the millisecond. Numbers without a unit are refused later."""
    day = f"julianday({name}) - 2440587.5"
    match time_numbers:
        case None:
            number = name
        case "julian_day":
            number = f"{name} - 2440587.5"
        case unit:
            number = f"{name} / {DAY_S * NUMBERS_PER_SECOND[unit]}.0"
    return f"case when typeof({name}) = 'text' then {day} else {number} end"
