"""`history`: the versions that the row of each key has had, each with the time from which and to which it was so.

In data warehouses this is a slowly changing dimension of type 2 (Kimball, The Data Warehouse Toolkit). A version comes out
when it begins, and again when the next one ends it: a changelog with one row for each key and beginning.

Always true: of a key at most one version is current; versions of a key do not overlap; a version that is equal to the one
before it is not one.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import polars as pl
from pydantic import Field

from dataflare.model.batch import CHANGES, KIND_COLUMN, Kinds, RowKind, is_truncation
from dataflare.model.event_time import TIME_COLUMNS
from dataflare.model.record import StructABC
from dataflare.model.types import BOOL, TIMESTAMP_UTC, Schema
from dataflare.model.types import Field as Column
from dataflare.model.unchanged import UNCHANGED
from dataflare.operators import kept_rows
from dataflare.operators.base import (
    BindContext,
    Bound,
    LiveOperator,
    StatefulOperator,
    Step,
    StepConfig,
)
from dataflare.operators.by_key import TABLE
from dataflare.operators.history_versions import (
    GONE,
    IS_CURRENT,
    KEPT,
    VALID_FROM,
    VALID_TO,
    changelog,
    distinct,
    last,
    ordered,
)
from dataflare.operators.names import (
    Name,
    fitting_column,
    known_columns,
    listed,
    no_doubles,
    not_empty,
)
from dataflare.sdk.processor import Refused
from dataflare.state.layout import Adaptation, Held, Layout
from dataflare.state.tables import Tables
from dataflare.state.weighted import HASH, WEIGHT, WeightedRows, cancelled

_LEAVING = (RowKind.DELETE.value, RowKind.UPDATE_BEFORE.value)
_CODE = "E0553"
_UNKNOWN = "a delete had a key that has no current version, and ended none: this is so"


class HistoryConfig(StepConfig):
    key: Name | list[Name] | None = Field(
        default=None,
        description="Rows with the same values here are versions of one row. By default the key of the table that they are of.",
    )
    time: Name | None = Field(
        default=None,
        description="The column with the time from which a row is so; when the run reads it, if not given.",
    )
    snapshot: bool = Field(
        default=False,
        description="Each run reads the rows as they are now: each key once. Then they are compared with those of the run "
        "before. Otherwise a run that reads all rows again is given all versions again.",
    )


class History(StatefulOperator, StructABC, frozen=True):
    step: str
    keys: tuple[str, ...]
    time: str | None
    goes_on_always: bool = False
    accepts = CHANGES
    truncates = True
    fills_unchanged = True
    goes_on = True

    def chosen_by(self, names: tuple[str, ...]) -> tuple[str, ...]:
        return names  # a row that is as the version before it gives none

    def open(self, tables: Tables) -> LiveHistory:
        return LiveHistory(self, tables)

    def makes(self, arriving: Kinds) -> Kinds:
        return CHANGES - {RowKind.DELETE}

    def layout(self, inputs: Sequence[Schema]) -> Layout:
        return {TABLE: kept_rows.layout_of(inputs[0], self.keys)}

    def adapted(
        self, before: Mapping[str, Any], now: Mapping[str, Any], held: Held
    ) -> Adaptation | str:
        return kept_rows.new_columns(held, TABLE) or super().adapted(before, now, held)

    def describe(self) -> str:
        since = f"from {self.time}" if self.time else "from when the run reads it"
        return f"the versions of each {', '.join(self.keys)}, each {since} to the next"


class LiveHistory(LiveOperator):
    """Keeps the last version of each key; with `time` also the time of its delete, because no version begins before it."""

    def __init__(self, operator: History, tables: Tables) -> None:
        self.operator, self.keys = operator, list(operator.keys)
        self.rows = WeightedRows(tables.rows(TABLE, operator.keys))
        self._latest = tables.value("latest", 0, max)
        self._refused: list[Refused] = []
        self._unknown = 0

    def process(self, port: int, frame: pl.DataFrame) -> Iterator[pl.DataFrame]:
        if is_truncation(frame):
            for deletes in kept_rows.deletes_of_all(self.rows, self.keys, frame, GONE):
                yield from self.process(port, deletes)
            return
        changes = self._usable(self._marked(frame))
        if not changes.height:
            return
        kept = self._kept(changes)
        changes, lacking = kept_rows.filled(kept, changes, self.keys)
        self._refuse(lacking, kept_rows.LACKS[0])
        found = ordered(pl.concat([kept, changes]), self.keys, self.operator.time)
        self._refuse(found.early, "its time is before that of the version that is there")
        rows, unknown = distinct(found.rows, self.keys)
        self._unknown += unknown
        self._keep(kept, last(rows, self.keys))
        made = changelog(rows, self.keys)
        if made.height:
            yield made

    def refused(self) -> Sequence[Refused]:
        taken, self._refused = self._refused, []
        return taken

    def warnings(self) -> Mapping[tuple[str, str], int]:
        return {(self.operator.step, _UNKNOWN): self._unknown} if self._unknown else {}

    def _marked(self, frame: pl.DataFrame) -> pl.DataFrame:
        """The changes with the time from which they are so. Most rows that are deleted have the time of their last version,
        so a delete counts from now, unless `ordered` finds that its time is its own."""
        frame = frame.drop(TIME_COLUMNS, strict=False)
        gone = pl.lit(False)
        if KIND_COLUMN in frame.columns:
            kind, following = pl.col(KIND_COLUMN), pl.col(KIND_COLUMN).shift(-1)
            same_key = [pl.col(key).eq_missing(pl.col(key).shift(-1)) for key in self.keys]
            is_first_half = (
                (kind == RowKind.UPDATE_BEFORE.value)
                & (following == RowKind.UPDATE_AFTER.value)
                & pl.all_horizontal(same_key)
            )
            frame = frame.filter(~is_first_half.fill_null(False))
            gone = kind.is_in(_LEAVING)
        time = pl.lit(self._now_us()).cast(pl.Datetime("us", "UTC"))
        if self.operator.time is not None:
            column = pl.col(self.operator.time)
            time = (
                pl.when(gone)
                .then(_of_type(time, frame.schema[self.operator.time]))
                .otherwise(column)
            )
        return frame.with_columns(
            gone.alias(GONE), pl.lit(False).alias(KEPT), time.alias(VALID_FROM)
        ).drop(KIND_COLUMN, strict=False)

    def _now_us(self) -> int:
        """The time of day, which does not go back."""
        now_us = time.time_ns() // 1_000
        self._latest.value = max(self._latest.value, now_us)
        return int(self._latest.value)

    def _usable(self, changes: pl.DataFrame) -> pl.DataFrame:
        is_keyless = pl.any_horizontal(pl.col(key).is_null() for key in self.keys)
        self._refuse(changes.filter(is_keyless), "it has no key")
        changes = changes.filter(~is_keyless)
        self._refuse(
            changes.filter(pl.col(VALID_FROM).is_null()), "it has no time from which it is so"
        )
        return changes.filter(pl.col(VALID_FROM).is_not_null())

    def _refuse(self, rows: pl.DataFrame, why: str) -> None:
        if rows.height:
            rows = rows.drop(GONE, KEPT, VALID_FROM, UNCHANGED, strict=False)
            self._refused.append(Refused(rows, why, _CODE))

    def _kept(self, changes: pl.DataFrame) -> pl.DataFrame:
        """The last versions of these keys."""
        keys = self.rows.hashed(changes.select(self.keys).unique())
        found = self.rows.having(keys[HASH].unique(maintain_order=True))
        columns = [name for name in changes.columns if name != UNCHANGED]
        if found is None:
            return changes.select(columns).clear()
        found = found.join(keys, on=self.keys, how="semi", nulls_equal=True)
        kept = cancelled(found).filter(pl.col(WEIGHT) > 0)
        return kept.with_columns(pl.lit(True).alias(KEPT)).select(columns)

    def _keep(self, kept: pl.DataFrame, newest: pl.DataFrame) -> None:
        coming = newest.filter(~pl.col(KEPT))
        leaving = kept.join(coming, on=self.keys, how="semi")
        if self.operator.time is None:
            coming = coming.filter(~pl.col(GONE))  # no row comes with a time before a delete
        delta = pl.concat(
            [
                leaving.with_columns(pl.lit(-1, pl.Int64).alias(WEIGHT)),
                coming.with_columns(pl.lit(1, pl.Int64).alias(WEIGHT)),
            ]
        ).drop(KEPT)
        self.rows.add(self.rows.hashed(delta))


def _of_type(time: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """A time in UTC as a column of times has it."""
    assert isinstance(dtype, pl.Datetime)
    if dtype.time_zone is None:
        time = time.dt.replace_time_zone(None)
    return time.cast(dtype)


class HistoryStep(Step):
    type = "history"
    Config = HistoryConfig
    summary = "Give the versions of each row, with the time from which and to which it was so."
    key_of_source = True
    example = """\
type: history
inputs: [customers]
config: {key: [customer_id], time: updated_at}
"""

    @classmethod
    def bind(cls, config: HistoryConfig, inputs: Sequence[Schema], context: BindContext) -> Bound:
        step, schema, keys = context.step, inputs[0], listed(config.key or [])
        not_empty(step, "a `key`", keys)
        known_columns(step, keys, schema)
        no_doubles(step, keys)
        type_ = TIMESTAMP_UTC
        if config.time is not None:
            known_columns(step, [config.time], schema)
            type_ = schema[config.time]
            fits = type_.name == "timestamp"
            fitting_column(step, "takes the time from", config.time, schema, "a timestamp", fits)
        added = (Column(VALID_FROM, type_), Column(VALID_TO, type_), Column(IS_CURRENT, BOOL))
        no_doubles(
            step,
            [*schema.names, *(column.name for column in added)],
            "rename the column in a map before: the step adds valid_from, valid_to and is_current",
        )
        time = None if config.time is None else str(config.time)
        return Bound(
            outputs={None: Schema((*schema, *added))},
            stateful=History(step, tuple(map(str, keys)), time, config.snapshot),
        )
