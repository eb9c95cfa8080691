"""Rows as people and assistants see them: JSON objects without secrets.

Always true: each value is redacted on its own and encoded afterwards, so what is hidden in one value changes no other, and
no text can end its row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import orjson
import polars as pl

from dataflare.formats.text_write import NdjsonText
from dataflare.security.redact import MASK


def rows_without_secrets(
    frame: pl.DataFrame, redact: Callable[[str], str]
) -> Iterator[dict[str, Any]]:
    """The rows as NDJSON has them. redact: a text without secrets."""
    for line in NdjsonText().encode(frame).split(b"\n")[: frame.height]:
        row = orjson.loads(line)
        yield {name: without_secrets(value, redact) for name, value in row.items()}


def without_secrets(value: Any, redact: Callable[[str], str]) -> Any:
    """The same value with every text redacted, at every depth; MASK for a number that is a secret."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {name: without_secrets(each, redact) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [without_secrets(each, redact) for each in value]
    if isinstance(value, int | float) and not isinstance(value, bool):
        text = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
        return MASK if redact(text) == MASK else value
    return value
