"""Incremental reading of an SQLite table or query, in the order of its cursor column.

SQLite stores times as text or numbers. So the database selects rows roughly, by conditions that an
index supports, and the decoded cursor decides.
"""

from __future__ import annotations

from typing import Any

import polars as pl
from msgspec.structs import replace

from dataflare.connectors.sqlite.connection import Opened
from dataflare.connectors.sqlite.decode import first_number, selected
from dataflare.connectors.sqlite.reader import Reading, SpoolPages
from dataflare.connectors.sqlite.relation import Column, Relation
from dataflare.connectors.sqlite.types import affinity, stored
from dataflare.model.types import DATE
from dataflare.sdk.sql.config import Incremental
from dataflare.sdk.sql.incremental import (
    CURSOR,
    DAY_S,
    PER_SECOND,
    State,
    check_settings,
    decimal_text,
    first_cursor,
    refuse_order,
    with_blank,
)
from dataflare.sdk.sql.names import quoted
from dataflare.sdk.sql.table_pages import NewRows
from dataflare.sdk.sql.text_values import NUMBERS_PER_SECOND, TimeNumbers, decoded


def check_incremental(relation: Relation, config: Incremental) -> None:
    """Refuse a cursor column that does not grow, and settings that do not fit it."""
    column = check_settings(relation, config)
    if column.type.name == "decimal" and affinity(column.declared) != "NUMERIC":
        # Digits as text: 10 sorts before 9.
        raise refuse_order(column.name, f"{column.type}, stored as text")
    if column.time_numbers is not None and column.text_affinity:
        raise refuse_order(column.name, "numbers stored as text")
    initial_cursor(column, config.initial_value)


def initial_cursor(column: Column, value: Any) -> Any:
    """The config's first value in the comparable form of cursors."""
    cursor = first_cursor(
        column,
        value,
        lambda text: decoded(pl.Series([text]), None, column.type, column.time_numbers),
    )
    return with_blank(cursor) if isinstance(cursor, str) else cursor


class IncrementalReader(NewRows, SpoolPages):
    """The rows since the last run, copied in order to a temporary table."""

    def __init__(self, reading: Reading, opened: Opened, config: Incremental, state: State) -> None:
        if isinstance(state.last, str):
            state = replace(state, last=with_blank(state.last))
        super().__init__(reading, opened, state.to_json())
        initial = initial_cursor(reading.relation.column(config.column), config.initial_value)
        self.watch(config, state, initial)

    def next_rows(self, rows: int) -> pl.DataFrame | None:
        identity = [f', "i{place}"' for place, _ in enumerate(self.identity())]
        raw = self._after_row(self._row, rows, f', "{CURSOR}"{"".join(identity)}')
        return raw if raw.height else None

    def count(self, condition: str) -> int:
        reading, relation = self._reading, self._reading.relation
        counts = self._frame(
            f"select count(*) as n from {relation.source} where {reading.where(condition)}",
            [*relation.params, *reading.filter_params],
        )
        return int(counts["n"][0])

    def column_sql(self) -> str:
        return quoted(self._column.name)

    def typed_cursor(self, values: pl.Series) -> pl.Series:
        return decoded(values, None, self._column.type, self._column.time_numbers)

    def _spooled(self) -> tuple[str, list[Any]]:
        relation, column = self._reading.relation, self._column
        name = quoted(column.name)
        sql = selected(name, column.type, text_affinity=column.text_affinity)
        identity = [
            f"case typeof({quoted(n)}) when 'blob' then hex({quoted(n)}) "
            f"else cast({quoted(n)} as text) end as i{place}"
            for place, n in enumerate(self.identity())
        ]
        bound, params = self._bounds()
        times = column.type.is_temporal
        order = f"{_chronological(name, column.time_numbers)}, " if times else ""
        by = name
        if column.type.name == "string":
            sql = by = _blank_separated(_as_text(column))
        parts = ", ".join([*self._spooled_columns(), f'{sql} as "{CURSOR}"', *identity])
        query = (
            f"select {parts} from {relation.source} where {self._reading.where(f'({bound})')} "
            f"order by {name} is not null, {order}{by} collate binary"
        )
        return query, [*relation.params, *params, *self._reading.filter_params]

    def _bounds(self) -> tuple[str, list[Any]]:
        """A condition that is true for all new rows, and for few others."""
        name = quoted(self._column.name)
        nulls = "" if self._state.nulls_done else f"{name} is null or "
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
