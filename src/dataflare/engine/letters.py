"""Rows that failed, as the rows of a dead-letter destination."""

from __future__ import annotations

import datetime
import os
from collections.abc import Sequence

import polars as pl

from dataflare.planner.dead_letters import LETTERS


def letters(failed: Sequence[pl.DataFrame], run_id: str, attempt: int) -> pl.DataFrame:
    """One row per failed row, as LETTERS says. failed: frames as FAILED says. attempts: which start of
    the run it was."""
    told = pl.concat(failed)
    types = LETTERS.to_polars()
    same = {
        "attempts": attempt,
        "failed_at": datetime.datetime.now(datetime.UTC),
        "run_id": run_id,
    }
    return told.with_columns(
        _ids(told.height), *(pl.lit(value, types[name]).alias(name) for name, value in same.items())
    ).select(LETTERS.names)


def _ids(count: int) -> pl.Series:
    """Random UUIDs (version 4), their bits drawn at once."""
    digits = pl.Series("id", [os.urandom(16 * count).hex()]).str.extract_all(".{32}").explode()
    hexadecimal = list("0123456789abcdef")
    variant = digits.str.slice(16, 1).replace_strict(hexadecimal, list("89ab" * 4))
    part = digits.str.slice
    return (
        part(0, 8) + "-" + part(8, 4) + "-4" + part(13, 3) + "-" + variant + part(17, 3) + "-"
        + part(20, 12)
    )  # fmt: skip
