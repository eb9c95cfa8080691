"""Dates and times."""

from __future__ import annotations

import polars as pl

from dataflare.expr.registry import register
from dataflare.expr.tree import NOW_COLUMN

register("now", "now() -> timestamp[us, UTC]", "The time the batch left its source; a replay gives the same.",
         group="date", lower=lambda node: pl.col(NOW_COLUMN), needs=[NOW_COLUMN], aliases=["current_timestamp", "get_current_timestamp"])  # fmt: skip
register("current_date", "current_date() -> date", "The day of now(), in UTC.", group="date",
         lower=lambda node: pl.col(NOW_COLUMN).dt.date(), needs=[NOW_COLUMN], aliases=["today"])  # fmt: skip
