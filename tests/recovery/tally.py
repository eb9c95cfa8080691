"""A processor of a user's own: each key when it first comes, and at the end how often it came."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl
from pydantic import BaseModel

from dataflare import Processor, Schema, SharedDataBatch


class TallyConfig(BaseModel):
    by: str
    of: str


class Tally(Processor):
    """rows is NULL in a row that says that a key came for the first time."""

    Config = TallyConfig

    def __init__(self, config, context):
        super().__init__(config, context)
        self.keys = (config.by,)

    def output_schema(self, inputs: Sequence[Schema]) -> Schema:
        return Schema.of(
            {self.config.by: inputs[0][self.config.by], "rows": "int64", "sum": "int64"}
        )

    def process(self, port: int, batch: SharedDataBatch) -> pl.DataFrame:
        by, kept = self.config.by, self.context.state.get("tallies")
        new = batch.frame.group_by(by).agg(rows=pl.len().cast(pl.Int64), sum=pl.sum(self.config.of))
        known = new.head(0) if kept is None else kept
        both = pl.concat([known, new]).group_by(by).agg(pl.sum("rows", "sum"))
        self.context.state.set("tallies", both)
        first = new.join(known, on=by, how="anti")
        return first.with_columns(pl.lit(None, pl.Int64).alias(name) for name in ("rows", "sum"))

    def end(self) -> list[pl.DataFrame]:
        kept = self.context.state.get("tallies")
        return [] if kept is None else list(kept.iter_slices(50))
