"""One row as JSON without loss of information. Slow: for few rows only."""

from __future__ import annotations

import base64
import datetime
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import orjson

from dataflare.formats.iso_durations import iso_text

_PLAIN = (str, bool, type(None))


def row_text(row: Mapping[str, Any]) -> str:
    """A row as JSON, without loss: decimals as text, bytes as base64, NaN and infinities as text,
    durations as ISO 8601 has them."""
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
        case datetime.time():
            # orjson 3.13.0 drops a zero of .012345.
            return value.isoformat()
        case datetime.timedelta():
            return iso_text(value)
        case dict():
            return {str(key): _plain(each) for key, each in value.items()}
        case list() | tuple():
            return [_plain(each) for each in value]
        case _ if hasattr(value, "items"):
            return {str(key): _plain(each) for key, each in value.items()}
    return value
