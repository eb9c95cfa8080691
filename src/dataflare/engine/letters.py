"""Rows that failed, as the rows of a dead-letter destination."""

from __future__ import annotations

import datetime
import os
import time
from collections.abc import Sequence

import polars as pl

from dataflare.planner.dead_letters import LETTERS
from dataflare.security.redact import redact, suspects


def letters(failed: Sequence[pl.DataFrame], run_id: str, attempt: int) -> pl.DataFrame:
    """One row per failed row, as LETTERS says. failed: frames as FAILED says. attempts: which start of
    the run it was."""
    told, types = _without_secrets(pl.concat(failed)), LETTERS.to_polars()
    now = datetime.datetime.fromtimestamp(time.time(), datetime.UTC)
    same = {"attempts": attempt, "failed_at": now, "run_id": run_id}
    return told.with_columns(
        _ids(told.height).alias("id"),
        *(pl.lit(value, types[name]).alias(name) for name, value in same.items()),
    ).select(LETTERS.names)


def _without_secrets(told: pl.DataFrame) -> pl.DataFrame:
    """The messages of systems and of users' functions may repeat what they were told."""
    suspicious = pl.col("message").str.contains_any(suspects(), ascii_case_insensitive=True)
    texts = told.filter(suspicious)["message"].unique().to_list()
    changed = {text: clean for text in texts if (clean := redact(text)) != text}
    return told.with_columns(pl.col("message").replace(changed)) if changed else told


def _ids(count: int) -> pl.Expr:
    """Random UUIDs (version 4), their bits drawn at once."""
    digits = pl.lit(os.urandom(16 * count).hex()).str.extract_all(".{32}").explode()
    variants = dict(zip("0123456789abcdef", "89ab" * 4, strict=True))
    part = digits.str.slice
    return pl.concat_str(
        part(0, 8), pl.lit("-"), part(8, 4), pl.lit("-4"), part(13, 3), pl.lit("-"),
        part(16, 1).replace_strict(variants), part(17, 3), pl.lit("-"), part(20, 12),
    )  # fmt: skip
