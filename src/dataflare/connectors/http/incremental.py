"""Incremental reading of an API: which rows of its pages are new since the last run.

Always true: all pages of a run are asked for with one and the same value, that of the run's start; an
API may give its rows in any order, and those that it gave before, at the boundary or inside `lag`, are
told by a hash of key and cursor value.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any, Self

import orjson
import polars as pl
from pydantic import Field

from dataflare.connectors.sql.config import Incremental
from dataflare.connectors.sql.incremental import (
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
from dataflare.errors import ConfigError, did_you_mean
from dataflare.formats.json_values import BadJson, decode, sorted_text
from dataflare.formats.ndjson_read import NdjsonPlan
from dataflare.formats.text_types import TextColumn
from dataflare.model.types import DataType

_EPOCH = datetime.datetime(1970, 1, 1)


class HttpIncremental(Incremental):
    """Ask only for what is new since the last run."""

    param: str = Field(
        min_length=1,
        description="the parameter that takes the last value seen, less `lag`, such as since; the "
        "answer has the rows from there on, in any order",
    )


class Unordered(Window):
    """A window over rows that come in any order."""

    def _refuse_disorder(self, cursor: pl.Series) -> None:
        pass

    def _remember(self, page: pl.DataFrame) -> None:
        recent = page if self._recent is None else pl.concat([self._recent, page])
        greatest: Any = page[CURSOR].max()
        if greatest is not None:
            self._nulls_done = True
            self._last = greatest if self._last is None else max(self._last, greatest)
            kept = pl.col(CURSOR) >= self._behind(self._last)
            if self._start.last is not None:
                # Equal rows of the old window are still counted: more of them may follow.
                kept |= pl.col(CURSOR) <= self._start.last
            recent = recent.filter(kept)
        self._recent = recent

    def _behind(self, last: Any) -> Any:
        return last if isinstance(last, str) else last - self._lag

    def state(self) -> State:
        found = super().state()
        if self._last == self._start.last or self._recent is None:
            return found
        # What was remembered of the old window and did not come again is of no use beyond it.
        window = self._recent.filter(pl.col(CURSOR) >= self._behind(self._last))
        recent = frozenset(window[IDENTITY].to_list())
        return State(found.last, recent, found.nulls_done, found.null_rows)

    def to_json(self) -> dict[str, Any]:
        """What a run that is broken off between two pages goes on with."""
        recent = None if self._recent is None else self._recent.to_dict(as_series=False)
        return {"state": self.state().to_json(), "recent": recent}

    def restore(self, data: Mapping[str, Any], column: TextColumn) -> Self:
        """As it was when it gave `to_json`."""
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
    """The cursor column of an API. columns: those of its rows. Raises ConfigError (E0413) for a
    column that is not there or cannot grow, and for a first value that it cannot have."""

    def __init__(self, config: HttpIncremental, columns: Sequence[TextColumn], step: str) -> None:
        self.config = config
        known = {column.name: column for column in columns}
        for name in (config.column, *config.key):
            if name not in known:
                raise ConfigError(
                    f"the rows have no column '{name}' for 'incremental'",
                    code="E0413",
                    step=step,
                    notes=[f"their columns: {', '.join(known)}"],
                    help=did_you_mean(name, known),
                )
        self.column = known[config.column]
        check_cursor(config.column, self.column.type, config)
        self.lag = lag_of(self.column.type, config.lag)
        self.initial: Any = None
        if config.initial_value is not None:
            line = orjson.dumps({config.column: _plain(config.initial_value)})
            values, fits = self._values(line, 1)
            if not fits[0]:
                raise ConfigError(
                    f"initial_value {config.initial_value!r} is no {self.column.type}, as column "
                    f"'{config.column}' is",
                    code="E0413",
                    step=step,
                    help="write 'initial_value' as the column's type spells it",
                )
            self.initial = values[0]

    def window(self, state: State) -> Unordered:
        """A run's window, from what the last one left."""
        return Unordered(state, self.lag, self.initial)

    def asked(self, state: State) -> str | None:
        """The value to ask with; None asks for everything."""
        if state.last is None:
            return first_asked(self.config)
        return text_of(lower_bound(state, self.lag, self.initial), self.column.type)

    def new_rows(self, lines: Sequence[bytes], window: Unordered) -> list[int]:
        """The places of a page's rows that were not given before. Those that cannot be read are
        among them."""
        values, fits = self._values(b"\n".join(lines), len(lines))
        texts = [self._identity(line) for line in lines]
        new = window.take(values, row_hashes(pl.DataFrame({"row": texts})))
        return (new | ~fits).arg_true().to_list()

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
        """The cursor values as they are compared, and which rows could be read."""
        plan = NdjsonPlan((self.column,), (self.column.name,))
        fits = pl.repeat(True, count, dtype=pl.Boolean, eager=True)
        try:
            return cursor_values(plan.scan(lines).collect().to_series()).alias(CURSOR), fits
        except pl.exceptions.PolarsError:
            found = plan.salvage(lines, str)
        good = cursor_values(found.good.to_series()).alias(CURSOR)
        places = found.good_rows.cast(pl.UInt32)
        rows = pl.DataFrame({"place": places, CURSOR: good})
        every = pl.DataFrame({"place": pl.int_range(count, dtype=pl.UInt32, eager=True)})
        joined = every.join(rows, on="place", how="left", maintain_order="left")
        return joined[CURSOR], every["place"].is_in(places.to_list())


def first_asked(config: HttpIncremental) -> str | None:
    """What the first run asks with."""
    return None if config.initial_value is None else str(_plain(config.initial_value))


def _plain(value: Any) -> Any:
    return value.isoformat() if hasattr(value, "isoformat") else value


def text_of(value: Any, type_: DataType) -> str:
    """A cursor value as APIs take it: times as RFC 3339, in UTC where the column has a zone."""
    if type_.name == "date":
        return (_EPOCH + datetime.timedelta(days=value)).date().isoformat()
    if type_.name == "timestamp":
        seconds, rest = divmod(value, PER_SECOND[type_.unit or "us"])
        text = (_EPOCH + datetime.timedelta(seconds=seconds)).isoformat()
        digits = len(str(PER_SECOND[type_.unit or "us"])) - 1
        fraction = f".{rest:0{digits}d}".rstrip("0") if rest else ""
        return text + fraction + ("Z" if type_.timezone else "")
    return str(value)
