"""What DuckDB makes of a query, and how the engine's rows differ from it."""

from __future__ import annotations

from pathlib import Path

import duckdb
import polars as pl
import yaml

from benchmarks.nexmark.queries import QUERIES


def last_step(name: str) -> str:
    """The step with the query's result."""
    return str(list(yaml.safe_load(QUERIES[name].steps.strip()))[-1])


def expected(name: str, folder: str) -> pl.DataFrame:
    """The rows of a query, by DuckDB over the files of `generate`."""
    with duckdb.connect() as db:
        db.execute("set timezone = 'UTC'")
        for each in ("bids", "auctions", "people", "side"):
            db.execute(f"create view {each} as from '{folder}/{each}.parquet'")
        return pl.DataFrame(db.sql(QUERIES[name].sql).to_arrow_table())


def difference(name: str, out: Path, rows: pl.DataFrame) -> str | None:
    """How the rows that a run wrote differ, in no particular order; None if they are equal. Floats may differ in
    their last digits, because sums of them depend on the order."""
    got = pl.read_parquet(out).select(rows.columns)
    if got.height != rows.height:
        return f"{got.height:,} rows, not {rows.height:,}"
    want = rows.cast(dict(got.schema))
    exact = [column for column, type_ in got.schema.items() if not type_.is_float()]
    left, right = (
        frame.sort(exact).with_columns(pl.selectors.float().round_sig_figs(12))
        for frame in (got, want)
    )
    return None if left.equals(right) else "other rows"
