"""Rows of a changelog as the changes that Debezium writes: the row before and after, what was done, and where it comes
from.

Always true: each change is one message, an update with the row that it replaces where the changelog has it; a value
means what the message's schema says of it.
Format: https://debezium.io/documentation/reference/stable/connectors/postgresql.html#postgresql-change-events-value
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

import polars as pl
from msgspec import Struct

from dataflare.formats.messages.connect_write import struct_schema, written, written_type
from dataflare.formats.messages.contract import Encoded, Encoder
from dataflare.model.batch import KIND_COLUMN, RowKind
from dataflare.model.types import INT64, STRING, Field, Schema, struct_of

BEFORE = "__dataflare_before"
FACTS = ("_ts", "_lsn", "_txid", "_snapshot")
"""Columns that a source of changes may give beside the row: they stand in `source`."""
_SOURCE = {
    "version": STRING, "connector": STRING, "name": STRING, "ts_ms": INT64, "snapshot": STRING, "db": STRING,
    "table": STRING, "lsn": INT64, "txId": STRING,
}  # fmt: skip
_REQUIRED = ("version", "connector", "name", "ts_ms", "db")
_TRUNCATE = RowKind.TRUNCATE.value
_GONE = (RowKind.UPDATE_BEFORE.value, RowKind.DELETE.value)


def paired(frame: pl.DataFrame, row: Schema, key: list[str]) -> pl.DataFrame:
    """One row for each change, with the row before it in BEFORE. Halves of an update that have another key are a delete and
    an insert; without a key the halves of each update are one change. row: the columns of the table."""
    empty = pl.lit(None, struct_of({f.name: f.type for f in row}).to_polars())
    if KIND_COLUMN not in frame.columns:
        insert = pl.lit(RowKind.INSERT.value, pl.UInt8)
        return frame.with_columns(empty.alias(BEFORE), insert.alias(KIND_COLUMN))
    kind = pl.col(KIND_COLUMN)
    same = pl.all_horizontal(
        pl.lit(True), *(pl.col(k).eq_missing(pl.col(k).shift(-1)) for k in key)
    )
    is_half = (kind == RowKind.UPDATE_BEFORE.value) & same
    is_half &= (kind.shift(-1) == RowKind.UPDATE_AFTER.value).fill_null(False)
    whole = pl.struct(row.names)
    before = (
        pl.when(is_half.shift(1, fill_value=False)).then(whole.shift(1))
        .when(kind.is_in(_GONE)).then(whole).otherwise(empty)
    )  # fmt: skip
    # An after-image of which the half before has another key begins a row.
    starts = (kind == RowKind.UPDATE_AFTER.value) & (
        kind.shift(1) == RowKind.UPDATE_BEFORE.value
    ).fill_null(False)
    starts &= ~is_half.shift(1, fill_value=False)
    kinds = pl.when(starts).then(pl.lit(RowKind.INSERT.value, pl.UInt8)).otherwise(kind)
    return frame.with_columns(before.alias(BEFORE), kinds.alias(KIND_COLUMN)).filter(~is_half)


class Envelopes(Struct, frozen=True):
    """columns: of the rows, with facts of changes among them. name: of the stream, which schemas and `source` have.
    table, database: as in `source`. converts: whether values are written as Kafka Connect has them in JSON; else as they
    are."""

    columns: Schema
    name: str
    table: str
    database: str = ""
    converts: bool = True

    @property
    def row(self) -> Schema:
        """The columns of the table."""
        return Schema(tuple(field for field in self.columns if field.name not in FACTS))

    @property
    def schema(self) -> Schema:
        """The columns of the envelopes."""
        types = {f.name: written_type(f.type) if self.converts else f.type for f in self.row}
        row = struct_of(types)
        return Schema.of(
            {
                "before": row, "after": row, "source": struct_of(_SOURCE), "op": STRING, "ts_ms": INT64,
                "transaction": STRING,
            }
        )  # fmt: skip

    def frame(self, changes: pl.DataFrame) -> pl.DataFrame:
        """changes: as `paired` gives them."""
        kind, now = pl.col(KIND_COLUMN), time.time_ns() // 1_000_000
        is_gone = kind.is_in([*_GONE, _TRUNCATE])
        row_type = struct_of({f.name: f.type for f in self.row})
        after: pl.Expr = pl.when(~is_gone).then(pl.struct(self.row.names))
        before: pl.Expr = pl.col(BEFORE)
        if self.converts:
            before, after = written(before, row_type), written(after, row_type)
        there = set(self.columns.names)
        snapshot = pl.col("_snapshot").fill_null(False) if "_snapshot" in there else pl.lit(False)
        ts = pl.lit(now, pl.Int64)
        if "_ts" in there:
            ts = pl.coalesce(pl.col("_ts").dt.epoch("ms").cast(pl.Int64), ts)
        source = {
            "version": pl.lit(_version()), "connector": pl.lit("dataflare"), "name": pl.lit(self.name), "ts_ms": ts,
            "snapshot": pl.when(snapshot).then(pl.lit("true")).otherwise(pl.lit("false")),
            "db": pl.lit(self.database), "table": pl.lit(self.table),
            "lsn": pl.col("_lsn") if "_lsn" in there else pl.lit(None, pl.Int64),
            "txId": pl.col("_txid") if "_txid" in there else pl.lit(None, pl.String),
        }  # fmt: skip
        op = (
            pl.when(kind == _TRUNCATE).then(pl.lit("t")).when(is_gone).then(pl.lit("d"))
            .when(kind == RowKind.UPDATE_AFTER.value).then(pl.lit("u"))
            .when(snapshot).then(pl.lit("r")).otherwise(pl.lit("c"))
        )  # fmt: skip
        return changes.select(
            before.alias("before"),
            after.alias("after"),
            pl.struct(expr.alias(name) for name, expr in source.items()).alias("source"),
            op.alias("op"),
            pl.lit(now, pl.Int64).alias("ts_ms"),
            pl.lit(None, pl.String).alias("transaction"),
        )

    def connect_schema(self) -> dict[str, Any]:
        """What the messages' schema says of them."""
        row = struct_schema(self.row, f"{self.name}.Value")
        source = struct_schema(Schema.of(_SOURCE), "io.dataflare.Source", optional=False)
        for field in source["fields"]:
            field["optional"] = field["field"] not in _REQUIRED
        block = struct_schema(
            Schema((Field("id", STRING), Field("total_order", INT64), Field("data_collection_order", INT64))),
            "event.block",
        )  # fmt: skip
        fields = [
            {**row, "field": "before"},
            {**row, "field": "after"},
            {**source, "field": "source"},
            {"type": "string", "optional": False, "field": "op"},
            {"type": "int64", "optional": True, "field": "ts_ms"},
            {**block, "version": 1, "field": "transaction"},
        ]
        name = f"{self.name}.Envelope"
        return {"type": "struct", "fields": fields, "optional": False, "name": name, "version": 2}


class DebeziumEncoder(Encoder):
    """inner: the encoder of the envelopes. schemas: whether each message has its schema (JSON)."""

    def __init__(self, envelopes: Envelopes, inner: Encoder, *, schemas: bool) -> None:
        self.envelopes, self._inner = envelopes, inner
        self._schema = envelopes.connect_schema() if schemas else None

    def encode(self, rows: pl.DataFrame) -> Encoded:
        """rows: as `paired` gives them, or all inserts."""
        if BEFORE not in rows.columns:
            rows = paired(rows, self.envelopes.row, [])
        encoded = self._inner.encode(self.envelopes.frame(rows))
        if self._schema is None:
            return encoded
        return Encoded(with_schema(encoded.values, self._schema), encoded.bad, encoded.headers)


class KeyEncoder(Encoder):
    """Keys as Debezium writes them: an object of their columns."""

    def __init__(self, columns: Schema, name: str, inner: Encoder, *, schemas: bool) -> None:
        self._columns, self._inner = columns, inner
        self._schema: dict[str, Any] | None = None
        if schemas:
            self._schema = struct_schema(columns, f"{name}.Key", optional=False)
            for field in self._schema["fields"]:
                field["optional"] = False

    def encode(self, rows: pl.DataFrame) -> Encoded:
        cells = [written(pl.col(f.name), f.type).alias(f.name) for f in self._columns]
        encoded = self._inner.encode(rows.select(cells))
        if self._schema is None:
            return encoded
        return Encoded(with_schema(encoded.values, self._schema), encoded.bad, encoded.headers)


def with_schema(values: pl.Series, schema: Mapping[str, Any]) -> pl.Series:
    """Messages of JSON with their schema in front."""
    head = f'{{"schema":{json.dumps(schema, separators=(",", ":"))},"payload":'
    text = pl.lit(head) + pl.col("value").cast(pl.String) + pl.lit("}")
    return pl.DataFrame({"value": values}).select(text.cast(pl.Binary).alias("value"))["value"]


def _version() -> str:
    from dataflare import __version__

    return __version__
