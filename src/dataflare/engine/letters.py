"""Rows that failed, as the rows of a dead-letter destination."""

from __future__ import annotations

import base64
import datetime
import uuid
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import orjson
import polars as pl

from dataflare.engine.row_errors import FailedRow
from dataflare.planner.dead_letters import LETTERS


def letters(failed: Sequence[FailedRow], run_id: str, attempt: int) -> pl.DataFrame:
    """One row per failed row, as LETTERS says. attempts: which start of the run it was."""
    now = datetime.datetime.now(datetime.UTC)
    rows = [
        {
            "id": str(uuid.uuid4()),
            "step": letter.step,
            "code": letter.code,
            "message": letter.message,
            "attempts": attempt,
            "failed_at": now,
            "run_id": run_id,
            "position": letter.place,
            "row": row_text(letter.row),
        }
        for letter in failed
    ]
    return pl.DataFrame(rows, schema=LETTERS.to_polars())


def row_text(row: Any) -> str:
    """A row as JSON, without loss: decimals as text, bytes as base64, NaN and infinities as text."""
    return orjson.dumps(_plain(row), option=orjson.OPT_NON_STR_KEYS).decode()


def _plain(value: Any) -> Any:
    match value:
        case float() if value != value or value in (float("inf"), float("-inf")):
            return str(value)
        case int() if not -(2**63) <= value < 2**64:
            return str(value)
        case bytes():
            return base64.b64encode(value).decode()
        case Decimal():
            return str(value)
        case datetime.timedelta():
            return f"{value.total_seconds()}s"
        case dict():
            return {str(key): _plain(each) for key, each in value.items()}
        case list() | tuple():
            return [_plain(each) for each in value]
        case _ if hasattr(value, "items"):
            return {str(key): _plain(each) for key, each in value.items()}
    return value
