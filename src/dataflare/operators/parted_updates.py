"""An update that moves a row to another key, as a delete and an insert, before rows go to tasks by key."""

from __future__ import annotations

import polars as pl

from dataflare.model.batch import KIND_COLUMN, UPDATES, Kinds, RowKind
from dataflare.model.record import StructABC
from dataflare.model.types import Schema
from dataflare.operators.base import Lowering, RowOperator


class PartedUpdates(RowOperator, StructABC, frozen=True):
    """keys: the columns that rows are partitioned by."""

    step: str
    keys: tuple[str, ...]

    @property
    def reads(self) -> frozenset[str]:
        return frozenset(self.keys)

    @property
    def keeps_rows(self) -> bool:
        return True

    @property
    def keeps_columns(self) -> bool:
        return True

    def makes(self, arriving: Kinds) -> Kinds:
        return arriving | {RowKind.INSERT, RowKind.DELETE} if arriving & UPDATES else arriving

    def output_schema(self, schema: Schema) -> Schema:
        return schema

    def required(self, needed: frozenset[str], incoming: Schema) -> frozenset[str]:
        return needed | self.reads

    def lower(self, frame: pl.LazyFrame, lowering: Lowering) -> pl.LazyFrame:
        if not lowering.changelog:
            return frame
        kind = pl.col(KIND_COLUMN)
        moves_on = [pl.col(key).ne_missing(pl.col(key).shift(-1)) for key in self.keys]
        came_from = [pl.col(key).ne_missing(pl.col(key).shift(1)) for key in self.keys]
        goes = (kind == RowKind.UPDATE_BEFORE) & (
            pl.any_horizontal(moves_on) | (kind.shift(-1) != RowKind.UPDATE_AFTER).fill_null(True)
        )
        comes = (kind == RowKind.UPDATE_AFTER) & (
            pl.any_horizontal(came_from) | (kind.shift(1) != RowKind.UPDATE_BEFORE).fill_null(True)
        )
        parted = (
            pl.when(goes)
            .then(pl.lit(RowKind.DELETE, pl.UInt8))
            .when(comes)
            .then(pl.lit(RowKind.INSERT, pl.UInt8))
            .otherwise(kind)
        )
        return frame.with_columns(parted.alias(KIND_COLUMN))

    def describe(self) -> str:
        return f"an update of {', '.join(self.keys)} is a delete and an insert"
