"""The rows that the cases move, the same on every machine: Polars frames, in parts."""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from benchmarks.streams.fields import TEXTS

PART_ROWS = 50_000
STATUSES = ("new", "paid", "sent", "returned", "completed")
COUNTRIES = ("de", "fr", "pl", "us", "jp", "br", "in", "ke")
NOTE_BYTES = {"json": 48, "avro": 136, "wide": 48}
"""The length of `note`, so that a message has the size that its case says."""


def parts(rows: int, kind: str) -> Iterator[pl.DataFrame]:
    """Frames of at most PART_ROWS rows. kind: json, avro or wide. Ids are 0 to rows - 1, each once."""
    step = next(each for each in (7_919, 7_927, 7_933, 7_937) if rows % each)
    for first in range(0, rows, PART_ROWS):
        number = pl.int_range(first, min(rows, first + PART_ROWS), dtype=pl.Int64, eager=True)
        yield number.to_frame("number").select(*_short(rows, step, kind), *_texts(kind))


def _short(rows: int, step: int, kind: str) -> list[pl.Expr]:
    number = pl.col("number")
    mixed = number.hash(1)
    return [
        (number * step % rows).alias("id"),
        (mixed % 100_000).cast(pl.Int64).alias("customer"),
        _choice(mixed // 7, STATUSES).alias("status"),
        ((mixed // 11 % 1_000_000).cast(pl.Float64) / 100).alias("amount"),
        _choice(mixed // 13, COUNTRIES).alias("country"),
        (pl.datetime(2026, 1, 1, time_unit="us") + pl.duration(seconds=number)).alias("created_at"),
        pl.concat_str(pl.lit("sku-"), mixed // 17 % 5_000).alias("sku"),
        _text(number, 99, NOTE_BYTES[kind]).alias("note"),
    ]


def _texts(kind: str) -> list[pl.Expr]:
    if kind != "wide":
        return []
    return [_text(pl.col("number"), seed, 54).alias(name) for seed, name in enumerate(TEXTS)]


def _choice(number: pl.Expr, values: tuple[str, ...]) -> pl.Expr:
    index = (number % len(values)).cast(pl.Int64)
    return index.replace_strict(list(range(len(values))), list(values), return_dtype=pl.String)


def _text(number: pl.Expr, seed: int, size: int) -> pl.Expr:
    """A letter and digits that do not repeat, cut to `size`."""
    seeds = range(seed * 100, seed * 100 + -(-size // 20))
    blocks = [number.hash(each).cast(pl.String).str.zfill(20) for each in seeds]
    return pl.concat_str(pl.lit("n"), *blocks).str.head(size)
