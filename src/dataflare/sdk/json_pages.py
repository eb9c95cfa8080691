"""Pages of JSON rows that a server returns: a page as a chunk, and which rows are new since the last run.

Always true: all pages of a run are requested with the same value, that of the run's start; a server
may return its rows in any order; rows that it returned before, at the boundary or inside `lag`, are
recognised by a hash of key and cursor value.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import orjson
import polars as pl

from dataflare.errors import ConfigError, did_you_mean
from dataflare.formats import ndjson_watch
from dataflare.formats.json_values import BadJson, decode, sorted_text
from dataflare.formats.ndjson_read import NdjsonPlan
from dataflare.formats.text_types import TextColumn
from dataflare.model.progress import Position
from dataflare.model.types import DataType
from dataflare.sdk.source import Chunk, NewFields, Salvaged
from dataflare.sdk.sql.config import Incremental
from dataflare.sdk.sql.incremental import (
    CURSOR,
    IDENTITY,
    PER_SECOND,
    State,
    Window,
    check_cursor,
    cursor_values,
    lag_of,
    lower_bound,
    row_hashes,
)

_EPOCH = datetime.datetime(1970, 1, 1)


def page_chunk(
    plan: NdjsonPlan,
    lines: bytes,
    rows: int,
    place: Callable[[int], str],
    position: Position,
    key: int,
) -> Chunk:
    """A page, one row on a line, as a chunk. place: of row i, for messages."""

    def salvage() -> Salvaged:
        result = plan.salvage(lines, place)
        return Salvaged(result.good, result.good_rows, result.bad)

    def new_fields() -> NewFields | None:
        return ndjson_watch.new_fields(plan.columns, lines)

    return Chunk(
        scan=lambda: plan.scan(lines),
        position=position,
        key=key,
        num_bytes=len(lines),
        rows=rows,
        salvage=salvage,
        place=place,
        new_fields=new_fields,
        watched=lambda: ndjson_watch.watched(plan, lines),
    )


def carried(position: Position | None) -> Mapping[str, Any] | None:
    """What the next run starts from, of a position with `Cursor.saved`."""
    if position is None or "window" not in position.value:
        return None
    state = State.from_json(position.value["window"]["state"]).finished()
    return {**state.to_json(), "type": position.value["type"]}


class Unordered(Window):
    """A window over rows that arrive in any order."""

    def _refuse_disorder(self, cursor: pl.Series) -> None:
        pass

    def _remember(self, page: pl.DataFrame) -> None:
        recent = page if self._recent is None else pl.concat([self._recent, page])
        greatest: Any = page[CURSOR].max()
        if greatest is not None:
            self._nulls_done = True
            self._last = greatest if self._last is None else max(self._last, greatest)
            in_window = pl.col(CURSOR) >= self._behind(self._last)
            if self._start.last is not None:
                # Equal rows of the old window are still counted: more of them may follow.
                in_window |= pl.col(CURSOR) <= self._start.last
            recent = recent.filter(in_window)
        self._recent = recent

    def _behind(self, last: Any) -> Any:
        return last if isinstance(last, str) else last - self._lag

    def state(self) -> State:
        state = super().state()
        if self._last == self._start.last or self._recent is None:
            return state
        # Rows of the old window that were not returned again are not needed any more.
        window = self._recent.filter(pl.col(CURSOR) >= self._behind(self._last))
        recent = frozenset(window[IDENTITY].to_list())
        return State(state.last, recent, state.nulls_done, state.null_rows)

    def to_json(self) -> dict[str, Any]:
        """The state from which a run continues that was interrupted between two pages."""
        recent = None if self._recent is None else self._recent.to_dict(as_series=False)
        return {"state": self.state().to_json(), "recent": recent}

    def restore(self, data: Mapping[str, Any], column: TextColumn) -> Self:
        """Restore the state from `to_json`."""
        state = State.from_json(data["state"])
        self._last, self._null_rows = state.last, state.null_rows
        self._nulls_done = state.nulls_done
        if data["recent"] is not None:
            kind = cursor_values(pl.Series([], dtype=column.type.to_polars())).dtype
            types: list[Any] = [kind, pl.UInt64, pl.UInt64]
            self._recent = pl.DataFrame(
                data["recent"], schema=dict(zip(data["recent"], types, strict=True))
            )
        return self


class Cursor:
    """The cursor column of a server's rows. columns: all columns. Raises ConfigError (E0413) for a
    column that does not exist or cannot grow, and for a first value of another type."""

    def __init__(self, config: Incremental, columns: Sequence[TextColumn], step: str) -> None:
        self.config = config
        columns_by_name = {column.name: column for column in columns}
        for name in (config.column, *config.key):
            if name not in columns_by_name:
                raise ConfigError(
                    f"the rows have no column '{name}' for 'incremental'",
                    code="E0413",
                    step=step,
                    notes=[f"their columns: {', '.join(columns_by_name)}"],
                    help=did_you_mean(name, columns_by_name),
                )
        self.column = columns_by_name[config.column]
        check_cursor(config.column, self.column.type, config)
        self.lag = lag_of(self.column.type, config.lag)
        self.initial: Any = None
        if config.initial_value is not None:
            line = orjson.dumps({config.column: _plain(config.initial_value)})
            values, is_readable = self._values(line, 1)
            if not is_readable[0]:
                raise ConfigError(
                    f"initial_value {config.initial_value!r} does not fit column "
                    f"'{config.column}', which is {self.column.type}",
                    code="E0413",
                    step=step,
                    help="write 'initial_value' as a value of the column's type",
                )
            self.initial = values[0]

    def window(self, state: State) -> Unordered:
        """A run's window, from the state of the last run."""
        return Unordered(state, self.lag, self.initial)

    def saved(self, window: Unordered) -> dict[str, Any]:
        """A window for a position."""
        return {"window": window.to_json(), "type": str(self.column.type)}

    def request_value(self, state: State) -> str | None:
        """The value for the request; None requests all rows."""
        if state.last is None:
            return first_value(self.config)
        return text_of(lower_bound(state, self.lag, self.initial), self.column.type)

    def new_rows(self, lines: Sequence[bytes], window: Unordered) -> list[int]:
        """The places of a page's rows that were not returned before, and of rows that cannot be
        read."""
        values, is_readable = self._values(b"\n".join(lines), len(lines))
        texts = [self._identity(line) for line in lines]
        new = window.take(values, row_hashes(pl.DataFrame({"row": texts})))
        return (new | ~is_readable).arg_true().to_list()

    def _identity(self, line: bytes) -> str:
        try:
            record = decode(line)
        except BadJson:
            return line.decode(errors="replace")
        if self.config.key and isinstance(record, dict):
            names = (*self.config.key, self.config.column)
            record = {name: record.get(name) for name in names}
        return sorted_text(record)

    def _values(self, lines: bytes, count: int) -> tuple[pl.Series, pl.Series]:
        """The cursor values in comparable form, and which rows could be read."""
        plan = NdjsonPlan((self.column,), (self.column.name,))
        is_readable = pl.repeat(True, count, dtype=pl.Boolean, eager=True)
        try:
            return cursor_values(plan.scan(lines).collect(engine="in-memory").to_series()).alias(
                CURSOR
            ), is_readable
        except pl.exceptions.PolarsError:
            rows_read = plan.salvage(lines, str)
        good = cursor_values(rows_read.good.to_series()).alias(CURSOR)
        places = rows_read.good_rows.cast(pl.UInt32)
        rows = pl.DataFrame({"place": places, CURSOR: good})
        every = pl.DataFrame({"place": pl.int_range(count, dtype=pl.UInt32, eager=True)})
        joined = every.join(rows, on="place", how="left", maintain_order="left")
        return joined[CURSOR], every["place"].is_in(places.to_list())


def first_value(config: Incremental) -> str | None:
    """The value for the request of the first run."""
    return None if config.initial_value is None else str(_plain(config.initial_value))


def _plain(value: Any) -> Any:
    return value.isoformat() if hasattr(value, "isoformat") else value


def text_of(value: Any, type_: DataType) -> str:
    """A cursor value for a request: times as RFC 3339, in UTC if the column has a zone."""
    if type_.name == "date":
        return (_EPOCH + datetime.timedelta(days=value)).date().isoformat()
    if type_.name == "timestamp":
        seconds, rest = divmod(value, PER_SECOND[type_.unit or "us"])
        text = (_EPOCH + datetime.timedelta(seconds=seconds)).isoformat()
        digits = len(str(PER_SECOND[type_.unit or "us"])) - 1
        fraction = f".{rest:0{digits}d}".rstrip("0") if rest else ""
        return text + fraction + ("Z" if type_.timezone else "")
    return str(value)
