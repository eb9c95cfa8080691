"""`parse` with format avro: whatever fastavro writes is read back; what it did not write fails its row."""

from __future__ import annotations

import io
import json
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import fastavro
import polars as pl
import pytest
from flows import inline, picture, result_of
from hypothesis import given
from hypothesis import strategies as st

from dataflare.formats.avro import as_json

ORDER = {
    "type": "record",
    "name": "Order",
    "fields": [
        {"name": "id", "type": "long"},
        {"name": "amount", "type": ["null", "double"], "default": None},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "day", "type": {"type": "int", "logicalType": "date"}},
        {
            "name": "price",
            "type": {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2},
        },
        {"name": "raw", "type": "bytes"},
        {"name": "status", "type": {"type": "enum", "name": "S", "symbols": ["open", "paid"]}},
        {"name": "tags", "type": {"type": "array", "items": "string"}},
    ],
}
COLUMNS = (
    'id: int64, amount: float64, at: "timestamp[us, UTC]", day: date, price: "decimal(9, 2)", '
    "raw: binary, status: string, tags: json"
)
ROW = {
    "id": 7,
    "amount": 1.5,
    "at": datetime(2024, 5, 1, 10, 0, 0, 123456, UTC),
    "day": date(2024, 5, 1),
    "price": Decimal("1.50"),
    "raw": b"\x00\xff",
    "status": "paid",
    "tags": ["a", "ü"],
}


def datum(row: dict[str, Any], schema: dict[str, Any] = ORDER) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(schema), row)
    return out.getvalue()


def parsed(
    cells: list[bytes | None],
    folder: Path,
    columns: str = COLUMNS,
    schema: dict[str, Any] = ORDER,
    more: str = "error_handling: {on_error: skip}",
    output: str = "step",
) -> list[dict[str, Any]]:
    pl.DataFrame({"t": cells}, schema={"t": pl.Binary}).write_parquet(folder / "in.parquet")
    (folder / "order.avsc").write_text(json.dumps(schema))
    step = f"""
step:
  type: parse
  inputs: [s]
  config: {{column: t, format: avro, avro_schema: order.avsc, schema: {{{columns}}}}}
  {more}
"""
    source = "{type: file, config: {path: in.parquet}}"
    return result_of(step, base=folder, outputs=output, s=source)


def test_a_record_becomes_typed_columns(tmp_path):
    empty = {**ROW, "amount": None, "tags": []}
    first, second, third = parsed([datum(ROW), datum(empty), None], tmp_path)
    assert first == {**ROW, "tags": '["a","ü"]'}
    assert (second["amount"], second["tags"]) == (None, "[]")
    assert set(third.values()) == {None}


NUMBERS = {
    "type": "record",
    "name": "N",
    "fields": [{"name": "a", "type": "long"}, {"name": "b", "type": ["null", "double"]}],
}


@given(st.lists(st.tuples(st.integers(-(2**63), 2**63 - 1), st.none() | st.floats()), max_size=20))
def test_what_was_written_is_read(rows):
    cells = [datum({"a": a, "b": b}, NUMBERS) for a, b in rows]
    texts = as_json(pl.Series("t", cells, dtype=pl.Binary), json.dumps(NUMBERS))
    for (a, b), text in zip(rows, texts, strict=True):
        found = json.loads(text)
        assert found["a"] == a
        assert str(None if found["b"] is None else float(found["b"])) == str(b)


@given(st.binary(max_size=40))
def test_any_bytes_are_a_record_or_null(data):
    [text] = as_json(pl.Series("t", [data], dtype=pl.Binary), json.dumps(ORDER))
    assert text is None or set(json.loads(text)) == {f["name"] for f in ORDER["fields"]}


@pytest.mark.parametrize("broken", [b"", datum(ROW)[:-1], datum(ROW) + b"\0", b"\xff" * 12])
def test_bytes_that_are_no_record_fail_their_row(tmp_path, broken):
    assert [row["id"] for row in parsed([datum(ROW), broken, datum(ROW)], tmp_path)] == [7, 7]


def test_bytes_that_are_no_record_may_leave_by_an_output(tmp_path):
    assert parsed([datum(ROW), b"x"], tmp_path, output="step.errors") == [{"t": b"x"}]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{column: t, format: avro, schema: {a: int64}}", "`avro_schema`"),
        (
            "{column: t, format: avro, schema: {a: int64}, avro_schema: no.avsc}",
            "cannot read the Avro",
        ),
        ("{column: t, format: avro, schema: {a: int64}, avro_schema: '{'}", "is not JSON"),
        (
            '{column: t, format: avro, schema: {a: int64}, avro_schema: \'{"type": "map", "values": "int"}\'}',
            "its type is not record",
        ),
        (
            '{column: t, format: avro, schema: {a: int64}, avro_schema: \'{"type": "record", "name": "R", '
            '"fields": [{"name": "a", "type": "log"}]}\'}',
            "unknown type 'log'",
        ),
        ("{column: n, format: avro, schema: {a: int64}, avro_schema: x}", "binary"),
    ],
)
def test_a_schema_that_cannot_be_used_is_told(config, message):
    header, *_ = picture(
        f"step: {{type: parse, inputs: [s], config: {config}}}",
        s=inline([{"n": 1}], schema="{t: binary, n: int64}"),
    )
    assert message in header, header
