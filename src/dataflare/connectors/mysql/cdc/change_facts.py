"""The columns of facts of changes, behind or among those of the table. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl
from msgspec import Struct

from dataflare.connectors.mysql.cdc.events import Change
from dataflare.model.batch import KIND_COLUMN
from dataflare.sdk.sql.change_facts import TYPES


class FactColumns(Struct, frozen=True):
    """output: all columns that are given, in order. names: those of them that are facts."""

    output: tuple[str, ...]
    names: tuple[str, ...]

    def of_table(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Rows of the table, or none, with row kinds."""
        if not self.names:
            return frame
        values = {"_snapshot": True}
        columns = [
            pl.lit(values.get(name), TYPES[name].to_polars()).alias(name) for name in self.names
        ]
        return frame.with_columns(columns).select(*self.output, KIND_COLUMN)

    def of_log(
        self, frame: pl.DataFrame, changes: Sequence[Change], events: pl.Series
    ) -> pl.DataFrame:
        """Rows of changes, with row kinds. events: of each row, the number of its change."""
        if not self.names:
            return frame
        logged = [change.logged for change in changes]
        seconds, places, ids = zip(*(each for each in logged if each is not None), strict=True)
        found = {
            "_ts": (pl.Series(seconds, dtype=pl.Int64) * 1_000_000).cast(pl.Datetime("us", "UTC")),
            "_lsn": pl.Series(places, dtype=pl.Int64),
            "_txid": pl.Series(ids, dtype=pl.String),
            "_snapshot": pl.repeat(False, len(changes), eager=True),
        }
        columns = [found[name].gather(events).alias(name) for name in self.names]
        return frame.with_columns(columns).select(*self.output, KIND_COLUMN)
