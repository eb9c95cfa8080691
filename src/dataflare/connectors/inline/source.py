"""The `inline` source: rows from the workflow file, or from Python."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence, Set
from typing import Any, Literal, Self

import polars as pl
from pydantic import BaseModel, ConfigDict, Field, field_validator

from dataflare.connectors.inline.values import frame_of, plain_rows
from dataflare.errors import ConfigError, did_you_mean
from dataflare.model.batch import KIND_COLUMN, RowKind, SharedDataBatch
from dataflare.model.progress import Position, Split, Watermark
from dataflare.model.types import RESERVED, Schema
from dataflare.sdk.context import ConnectorContext
from dataflare.sdk.source import (
    EndOfSplit,
    Replay,
    SourceCapabilities,
    SourceConnector,
    SplitReader,
    SupportsProjection,
)

OPERATION_COLUMN = "_op"
WATERMARK = "_watermark"

_LEAVES = "__dataflare_leaves"

Mark = tuple[int, int]
"""In front of which row a watermark stands, and its event time in microseconds."""

_KINDS = {kind.name.lower(): int(kind) for kind in RowKind}


class InlineConfig(BaseModel):
    """Options of an `inline` source."""

    model_config = ConfigDict(extra="forbid")

    rows: list[dict[str, Any]] = Field(description="the rows, each a mapping of column to value")
    changelog: Literal["columns"] | None = Field(
        None,
        description="columns: `_op` is the kind of a row: insert (also when it is missing), "
        "update_before, update_after or delete",
    )

    watermarks: Literal["columns"] | None = Field(
        None,
        description="columns: an item with `_watermark` alone is not a row: it says that no earlier event time "
        "is expected behind it",
    )

    @field_validator("rows")
    @classmethod
    def _plain_rows(cls, value: list[dict[str, Any]]) -> list[dict[str, Any]]:
        rows = plain_rows(value)
        for name in dict.fromkeys(name for row in rows for name in row):
            if not name or name.startswith(RESERVED):
                raise ValueError(f"column names must not be empty or begin with '{RESERVED}'")
        return rows


class InlineSource(SourceConnector, SupportsProjection):
    """Rows in the workflow file: one split."""

    type = "inline"
    Config = InlineConfig
    summary = "Reads rows from the workflow file."
    example = """\
countries:
  type: inline
  config:
    rows:
      - {code: DE, name: Germany}
      - {code: FR, name: France}
"""

    def __init__(self, config: InlineConfig, context: ConnectorContext) -> None:
        super().__init__(config, context)
        self._columns: tuple[str, ...] | None = None
        self._frame_read: pl.DataFrame | None = None
        self._rows: Sequence[Mapping[str, Any]] = config.rows
        self._marks: tuple[Mark, ...] = ()
        if config.watermarks is not None:
            self._rows, self._marks = marks_apart(config.rows, context.step)

    def capabilities(self) -> SourceCapabilities:
        return SourceCapabilities(
            replay=Replay.EXACT,
            replay_reason="the rows are in the workflow file",
            changelog=self.config.changelog is not None,
            local=True,
        )

    def reads_all(self) -> bool:
        return self.config.changelog is None

    def changes_by(self, columns: Set[str]) -> bool:
        return is_known_by(self._frame(), columns)

    async def validate(self) -> None:
        self._frame()

    async def schema(self) -> Schema:
        columns = self._frame().schema
        return Schema.from_polars({n: t for n, t in columns.items() if n != KIND_COLUMN})

    def with_columns(self, columns: Sequence[str]) -> Self:
        copy_ = copy.copy(self)
        copy_._columns, copy_._frame_read = tuple(columns), None
        return copy_

    async def splits(self, carried: Mapping[str, Any] | None = None) -> Sequence[Split]:
        return [Split("rows", {}, int(self._frame().estimated_size()))]

    async def open(self, split: Split, position: Position | None) -> SplitReader:
        first = position.value["row"] if position else 0
        return InlineReader(self._frame(), first, self._marks)

    def _frame(self) -> pl.DataFrame:
        if self._frame_read is None:
            frame = self._all_rows()
            if self._columns is not None:
                kind = [KIND_COLUMN] if KIND_COLUMN in frame.columns else []
                frame = frame.select(*self._columns, *kind)
            self._frame_read = frame
        return self._frame_read

    def _all_rows(self) -> pl.DataFrame:
        rows, step = self._rows, self.context.step
        if not any(rows) and self.contract is None:
            raise ConfigError(
                f"the rows of '{step}' have no columns",
                code="E0405",
                step=step,
                help="list the columns in 'schema'",
            )
        if self.config.changelog is None:
            return frame_of(rows, self.contract, step)
        kinds = _row_kinds([row.get(OPERATION_COLUMN) for row in rows], step)
        data = [{n: v for n, v in row.items() if n != OPERATION_COLUMN} for row in rows]
        return frame_of(data, self.contract, step).with_columns(kinds)


def marks_apart(
    items: Sequence[Mapping[str, Any]], step: str
) -> tuple[list[dict[str, Any]], tuple[Mark, ...]]:
    """The rows, and the watermarks among them. Raises ConfigError (E0405) for one that is not a time."""
    rows: list[dict[str, Any]] = []
    marks: list[Mark] = []
    for item in items:
        if WATERMARK not in item:
            rows.append(dict(item))
            continue
        text = pl.Series([str(item[WATERMARK])])
        moment = text.str.to_datetime(time_unit="us", time_zone="UTC", strict=False)
        if len(item) > 1 or moment.null_count():
            raise ConfigError(
                f"an item of '{step}' with '{WATERMARK}' is a time and nothing else",
                code="E0405",
                step=step,
                help=f'write {{{WATERMARK}: "2026-01-31T12:00:00Z"}} between two rows',
            )
        marks.append((len(rows), int(moment.to_physical()[0])))
    return rows, tuple(marks)


def _row_kinds(operations: Sequence[Any], step: str) -> pl.Series:
    """The kinds of the rows. Raises ConfigError (E0405) if the two halves of an update are not
    adjacent."""
    names = ["insert" if each is None else str(each) for each in operations]
    for number, (name, before) in enumerate(zip(names, [None, *names], strict=False), 1):
        problem = None
        if name not in _KINDS:
            problem = f"row {number} has no operation '{name}'"
        elif (name == "update_after") != (before == "update_before"):
            problem = f"row {number} is {name} after {before or 'nothing'}"
        if problem:
            raise ConfigError(
                problem,
                code="E0405",
                step=step,
                notes=["each update_before is followed by its update_after"],
                help=did_you_mean(name, _KINDS) if name not in _KINDS else None,
            )
    if names[-1:] == ["update_before"]:
        raise ConfigError(
            "the last row is update_before, without its update_after",
            code="E0405",
            step=step,
            help="add a row of the kind update_after after it",
        )
    return pl.Series(KIND_COLUMN, [_KINDS[name] for name in names], dtype=pl.UInt8)


def is_known_by(changes: pl.DataFrame, columns: Set[str]) -> bool:
    """Whether each delete means the row that has its values in these columns: inserts and deletes of the same values
    take turns, and a delete has all values of the insert before it, or no other values."""
    by, rest = sorted(columns), [n for n in changes.columns if n not in (KIND_COLUMN, *columns)]
    leaves = pl.col(KIND_COLUMN).is_in([RowKind.UPDATE_BEFORE.value, RowKind.DELETE.value])
    marked = changes.select(*by, *rest, leaves.alias(_LEAVES))
    is_first = pl.int_range(pl.len()).over(by) == 0 if by else pl.int_range(pl.len()) == 0
    before = {
        n: pl.col(n).shift(1).over(by) if by else pl.col(n).shift(1) for n in (*rest, _LEAVES)
    }
    takes_turns = is_first | (pl.col(_LEAVES) != before[_LEAVES])
    same = pl.all_horizontal(pl.lit(True), *(pl.col(n).eq_missing(before[n]) for n in rest))
    key_alone = pl.all_horizontal(pl.lit(True), *(pl.col(n).is_null() for n in rest))
    means_it = is_first | ~pl.col(_LEAVES) | same | key_alone
    return bool(marked.select((takes_turns & means_it).all()).item())


class InlineReader(SplitReader):
    """Slices of the rows; the two halves of an update are never separated."""

    def __init__(self, frame: pl.DataFrame, row: int, marks: Sequence[Mark] = ()) -> None:
        self._frame, self._row = frame, row
        self._marks = [mark for mark in marks if mark[0] >= row]

    async def read_batch(self, rows_max: int) -> SharedDataBatch:
        if self._marks and self._marks[0][0] == self._row:
            _, event_time_us = self._marks.pop(0)
            return SharedDataBatch(self._frame.clear(), watermark=Watermark(event_time_us))
        if self._row >= self._frame.height:
            raise EndOfSplit
        if self._marks:
            rows_max = min(rows_max, self._marks[0][0] - self._row)
        rows = self._frame.slice(self._row, rows_max)
        if KIND_COLUMN in rows.columns and rows[KIND_COLUMN][-1] == RowKind.UPDATE_BEFORE:
            rows = self._frame.slice(self._row, rows_max - 1 if rows_max > 1 else 2)
        self._row += rows.height
        return SharedDataBatch(rows)

    def position(self) -> Position:
        return Position({"row": self._row})
