"""Rows that failed, as the rows of a dead-letter destination."""

from __future__ import annotations

import datetime
import os
from collections.abc import Sequence

import polars as pl

from dataflare.engine.row_errors import FailedRow
from dataflare.formats.row_text import row_text
from dataflare.planner.dead_letters import LETTERS


def letters(failed: Sequence[FailedRow], run_id: str, attempt: int) -> pl.DataFrame:
    """One row per failed row, as LETTERS says. attempts: which start of the run it was."""
    now = datetime.datetime.now(datetime.UTC)
    told = pl.DataFrame(
        {
            "id": _ids(len(failed)),
            "step": [letter.step for letter in failed],
            "code": [letter.code for letter in failed],
            "message": [letter.message for letter in failed],
            "position": [letter.place for letter in failed],
            "row": [row_text(letter.row) for letter in failed],
        },
        schema_overrides={"position": pl.String},
    )
    types = LETTERS.to_polars()
    same = {"attempts": attempt, "failed_at": now, "run_id": run_id}
    return told.with_columns(
        pl.lit(value, types[name]).alias(name) for name, value in same.items()
    ).select(LETTERS.names)


def _ids(count: int) -> list[str]:
    """Random UUIDs (version 4), their bits drawn at once."""
    digits = os.urandom(16 * count).hex()
    variants = "89ab" * 4
    return [
        f"{digits[i : i + 8]}-{digits[i + 8 : i + 12]}-4{digits[i + 13 : i + 16]}-"
        f"{variants[int(digits[i + 16], 16)]}{digits[i + 17 : i + 20]}-{digits[i + 20 : i + 32]}"
        for i in range(0, 32 * count, 32)
    ]
