"""Avro values, one in each cell of a column. There is no Avro file, so the caller gives the
schema."""

from __future__ import annotations

import io
import json
import struct
from functools import cache
from typing import Any

import polars as pl

from dataflare.formats.row_text import row_text

_NO_DATUM = (
    ArithmeticError,
    EOFError,
    LookupError,
    MemoryError,
    TypeError,
    ValueError,
    struct.error,
)
"""What fastavro raises for bytes that are not a value of the schema."""


def as_json(data: pl.Series, schema: str) -> pl.Series:
    """Each value as the text of a JSON object, NULL where the bytes are not exactly one record of
    the schema. schema: the writer's, as JSON; `check_schema` has accepted it."""
    parsed = _parsed(schema)
    texts = [None if datum is None else _text(datum, parsed) for datum in data]
    return pl.Series(data.name, texts, dtype=pl.String)


def check_schema(schema: str) -> None:
    """Raises ValueError, with a message for the user, if it is not an Avro schema of a record."""
    from fastavro.schema import SchemaParseException, UnknownType

    try:
        parsed = _parsed(schema)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} in line {error.lineno}") from error
    except UnknownType as error:
        raise ValueError(f"unknown type {error.name!r}") from error
    except (SchemaParseException, LookupError, TypeError) as error:
        raise ValueError(f"not an Avro schema: {error}") from error
    if not isinstance(parsed, dict) or parsed.get("type") != "record":
        raise ValueError("an Avro schema, but its type is not record")


@cache
def _parsed(schema: str) -> Any:
    from fastavro import parse_schema

    return parse_schema(json.loads(schema))


def _text(datum: bytes, schema: Any) -> str | None:
    from fastavro import schemaless_reader

    stream = io.BytesIO(datum)
    try:
        value: Any = schemaless_reader(stream, schema, None)
    except _NO_DATUM:
        return None
    return row_text(value) if stream.tell() == len(datum) else None
