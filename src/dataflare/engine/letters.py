"""Rows that failed, as the rows of a dead-letter destination."""

from __future__ import annotations

import base64
import datetime
import os
import uuid
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import orjson
import polars as pl

from dataflare.engine.row_errors import FailedRow
from dataflare.planner.dead_letters import LETTERS


def letters(failed: Sequence[FailedRow], run_id: str, attempt: int) -> pl.DataFrame:
    """One row per failed row, as LETTERS says. attempts: which start of the run it was."""
    now = datetime.datetime.now(datetime.UTC)
    columns = {
        "id": _ids(len(failed)),
        "step": [letter.step for letter in failed],
        "code": [letter.code for letter in failed],
        "message": [letter.message for letter in failed],
        "attempts": [attempt] * len(failed),
        "failed_at": [now] * len(failed),
        "run_id": [run_id] * len(failed),
        "position": [letter.place for letter in failed],
        "row": [row_text(letter.row) for letter in failed],
    }
    return pl.DataFrame(columns, schema=LETTERS.to_polars())


def _ids(count: int) -> list[str]:
    """Random UUIDs (version 4), their bits drawn at once."""
    bits = os.urandom(16 * count)
    return [str(uuid.UUID(bytes=bits[i : i + 16], version=4)) for i in range(0, 16 * count, 16)]


_PLAIN = (str, bool, type(None))


def row_text(row: Mapping[str, Any]) -> str:
    """A row as JSON, without loss: decimals as text, bytes as base64, NaN and infinities as text."""
    if not all(type(value) in _PLAIN for value in row.values()):
        row = _plain(row)
    return orjson.dumps(row, option=orjson.OPT_NON_STR_KEYS).decode()


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
