"""Write the files that the cases read: `python -m benchmarks.generate orders-1000.csv`.

Orders and customers, the same from the same seed on any machine.

Always true: a value follows from the seed, its column and its row number alone, by splitmix64 (not by
the hash of a library's version); 40 % of the orders are `completed`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import polars as pl

SEED = 20_240_131
CHUNK_ROWS = 500_000
CUSTOMERS = 1_000_000

STATUSES = ["completed", "pending", "returned", "cancelled", "shipped"]
COUNTRIES = ["de", "fr", "us", "gb", "es", "it", "nl", "pl", "se", "at", "ch", "jp"]
DOMAINS = ["example.com", "mail.example.org", "corp.example.net", "example.edu"]
CATEGORIES = ["retail", "wholesale", "online", "partner", "staff", "export", "public", "other"]

TIME_FORMAT = "%Y-%m-%dT%H:%M:%S"


def make(path: Path) -> None:
    """Write the file that a name such as `orders-1000.csv` stands for; whole or not at all."""
    table, rows = path.stem.rsplit("-", 1)
    frame = {"orders": _orders, "dirty": _dirty, "customers": _customers}[table]
    partial = path.with_name(path.name + ".partial")
    chunks = (
        frame(start, min(CHUNK_ROWS, int(rows) - start))
        for start in range(0, int(rows), CHUNK_ROWS)
    )
    if path.suffix == ".parquet":
        _write_parquet(chunks, partial)
    else:
        _write_text(chunks, partial, path.suffix)
    partial.rename(path)


def _write_text(chunks: Iterator[pl.DataFrame], path: Path, suffix: str) -> None:
    with path.open("wb") as file:
        for i, chunk in enumerate(chunks):
            texts = chunk.with_columns(
                pl.col(pl.Datetime).dt.strftime(TIME_FORMAT), pl.col(pl.Float64).cast(pl.String)
            )
            if suffix == ".csv":
                texts.write_csv(file, include_header=i == 0)
            else:
                chunk.with_columns(pl.col(pl.Datetime).dt.strftime(TIME_FORMAT)).write_ndjson(file)


def _write_parquet(chunks: Iterator[pl.DataFrame], path: Path) -> None:
    """By way of one Arrow file, so that memory stays small."""
    parts = []
    for i, chunk in enumerate(chunks):
        part = path.with_name(f"{path.name}.{i}.arrow")
        chunk.write_ipc(part)
        parts.append(part)
    pl.scan_ipc(parts).sink_parquet(path, compression="zstd", row_group_size=250_000)
    for part in parts:
        part.unlink()


def uniform(row: pl.Expr, column: int) -> pl.Expr:
    """Uniform in [0, 1), from splitmix64 of seed, column and row. Integers wrap."""
    word = row.cast(pl.UInt64) * pl.lit(0x9E3779B97F4A7C15, pl.UInt64) + pl.lit(
        (SEED + column * 0xD1B54A32D192ED03) % 2**64, pl.UInt64
    )
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, None)):
        word = word ^ (word // pl.lit(2**shift, pl.UInt64))
        if factor is not None:
            word = word * pl.lit(factor, pl.UInt64)
    return (word // pl.lit(2**11, pl.UInt64)).cast(pl.Float64) / 2**53


def _choice(row: pl.Expr, column: int, values: list[str]) -> pl.Expr:
    index = (uniform(row, column) * len(values)).cast(pl.UInt32)
    return pl.lit(pl.Series(values)).gather(index)


def _orders(start: int, rows: int) -> pl.DataFrame:
    row = pl.int_range(start, start + rows, dtype=pl.UInt64)
    ids = pl.DataFrame({"row": pl.select(row).to_series()})
    row = pl.col("row")
    customer = (uniform(row, 1) * CUSTOMERS).cast(pl.Int64) + 1
    lot = uniform(row, 2)
    # 40 % the first status, 15 % each of the others.
    pick = uniform(row, 3)
    status = pl.when(pick < 0.4).then(0).otherwise(1 + ((pick - 0.4) / 0.15).floor())
    return ids.select(
        (row + 1).cast(pl.Int64).alias("order_id"),
        customer.alias("customer_id"),
        pl.lit(pl.Series(STATUSES)).gather(status.cast(pl.UInt32).clip(0, 4)).alias("status"),
        ((uniform(row, 4) * 100_000).floor() / 100).alias("amount"),
        _choice(row, 5, COUNTRIES).alias("country"),
        pl.format("customer{}@{}", customer, _choice(row, 6, DOMAINS)).alias("email"),
        (
            pl.lit("2023-01-01").str.to_datetime("%Y-%m-%d", time_unit="us")
            + pl.duration(seconds=(uniform(row, 7) * 31_536_000).cast(pl.Int64))
        ).alias("created_at"),
        pl.format(
            "SKU-{} lot {} {}",
            (lot * 90_000_000).cast(pl.Int64) + 10_000_000,
            (lot * 997).cast(pl.Int64),
            _choice(row, 8, ["box", "crate", "pallet", "single piece"]),
        ).alias("sku"),
    )


def _dirty(start: int, rows: int) -> pl.DataFrame:
    """Orders as text, where the amount of one in a hundred is no number."""
    row = pl.int_range(start, start + rows, dtype=pl.UInt64)
    amount = pl.col("amount").cast(pl.String)
    return _orders(start, rows).with_columns(
        pl.when(uniform(row, 31) < 0.01).then(pl.lit("n/a")).otherwise(amount).alias("amount")
    )


def _customers(start: int, rows: int) -> pl.DataFrame:
    ids = pl.DataFrame(
        {"row": pl.select(pl.int_range(start, start + rows, dtype=pl.UInt64)).to_series()}
    )
    row = pl.col("row")
    return ids.select(
        (row + 1).cast(pl.Int64).alias("id"),
        _choice(row, 21, CATEGORIES).alias("category"),
        ((uniform(row, 22) * 5).cast(pl.Int64) + 1).alias("priority"),
        pl.format("Customer {}", row + 1).alias("name"),
    )


if __name__ == "__main__":
    make(Path(sys.argv[1]))
