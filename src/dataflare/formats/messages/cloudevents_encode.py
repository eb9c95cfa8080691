"""Rows to events of the CloudEvents specification (1.0).

Always true: columns whose names begin with `ce_` are the attributes, all others the data; an event has an id, a
source and a type, or the row is bad.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import polars as pl

from dataflare.errors import ConfigError
from dataflare.formats.messages.cloudevents import (
    ATTRIBUTE,
    CONTENT_TYPE,
    KNOWN,
    PREFIX,
    REQUIRED,
    SPECVERSION,
)
from dataflare.formats.messages.contract import Encoded, Encoder, bad_messages, sorted_bad
from dataflare.formats.text_write import json_text, plain
from dataflare.model.types import DataType, Field, Schema

EVENT_TYPE = "application/cloudevents+json; charset=UTF-8"
CONTENT_TYPES = {
    "json": "application/json",
    "avro": "application/avro",
    "protobuf": "application/protobuf",
    "csv": "text/csv",
    "text": "text/plain",
    "raw": "application/octet-stream",
}
"""The attribute `datacontenttype`, by the format of the data."""
_VERSION = "1.0"
_UNQUOTED = ("bool", "int8", "int16", "int32", "uint8", "uint16")
_TYPES = ("string", "json", "bool", "timestamp", "binary")


class CloudEventsEncoder(Encoder):
    """data: the encoder of the other columns, None if there are none. format_: of the data. fixed: the attributes
    that are the same for each event. prefix: of the headers of attributes, in the broker's words."""

    def __init__(
        self,
        schema: Schema,
        data: Encoder | None,
        *,
        mode: Literal["structured", "binary"],
        format_: str,
        fixed: Mapping[str, str],
        prefix: str,
        step: str | None = None,
    ) -> None:
        self._data, self._mode, self._format, self._prefix = data, mode, format_, prefix
        self._columns = {f.name.removeprefix(PREFIX): f.type for f in attributes_of(schema)}
        self._data_names = [f.name for f in schema if not f.name.startswith(PREFIX)]
        self._fixed = {SPECVERSION: _VERSION, **fixed}
        if "datacontenttype" not in self._columns:
            self._fixed["datacontenttype"] = CONTENT_TYPES[format_]
        for problem in _problems(self._columns, fixed):
            raise ConfigError(
                f"the rows cannot be events: {problem}",
                code="E0428",
                step=step,
                help="make columns such as ce_id, ce_source and ce_type in a map step, or set `source` and "
                "`type` in `cloudevents`",
            )

    def encode(self, rows: pl.DataFrame) -> Encoded:
        none = pl.repeat(None, rows.height, dtype=pl.Binary, eager=True)
        texts = rows.select(_text(name, type_) for name, type_ in self._columns.items())
        texts = texts.with_columns(pl.lit(text).alias(name) for name, text in self._fixed.items())
        if not self._columns:
            texts = pl.DataFrame(
                [pl.repeat(t, rows.height, eager=True).alias(n) for n, t in self._fixed.items()]
            )
        data = self._data.encode(rows.select(self._data_names)) if self._data is not None else None
        lacking = [
            pl.when(pl.col(name).is_null() | (pl.col(name) == "")).then(
                pl.lit(f"it has no {PREFIX}{name}, and an event needs it")
            )
            for name in REQUIRED
        ]
        faults = texts.select(pl.coalesce(lacking).alias("why"))["why"]
        bad = bad_messages(
            none,
            faults.is_not_null().arg_true().cast(pl.UInt32),
            "E0572",
            faults.drop_nulls().to_list(),
        )
        if data is not None and data.bad.height:
            bad = sorted_bad(
                [bad, data.bad.filter(~pl.col("message").is_in(bad["message"].implode()))]
            )
        sound = pl.repeat(True, rows.height, eager=True).scatter(bad["message"], False)
        values = data.values if data is not None else None
        made = (
            self._binary(texts, values)
            if self._mode == "binary"
            else self._structured(texts, values)
        )
        return Encoded(
            made["value"].set(~sound, None) if bad.height else made["value"], bad, made["headers"]
        )

    def _binary(self, texts: pl.DataFrame, data: pl.Series | None) -> pl.DataFrame:
        headers = [
            pl.struct(
                key=pl.lit(CONTENT_TYPE if name == "datacontenttype" else self._prefix + name),
                value=pl.col(name).cast(pl.Binary),
            )
            for name in _ordered(texts.columns)
        ]
        has_value = pl.element().struct.field("value").is_not_null()
        made = texts.select(pl.concat_list(headers).list.filter(has_value).alias("headers"))
        # Not NULL, which would be a message that deletes its key.
        empty = pl.repeat(b"", texts.height, dtype=pl.Binary, eager=True)
        return made.with_columns((data if data is not None else empty).alias("value"))

    def _structured(self, texts: pl.DataFrame, data: pl.Series | None) -> pl.DataFrame:
        parts = []
        for name in _ordered(texts.columns):
            type_ = self._columns.get(name)
            is_quoted = type_ is None or type_.name not in _UNQUOTED
            value = json_text(pl.col(name)) if is_quoted else pl.col(name)
            parts.append(pl.concat_str(pl.lit(f',"{name}":'), value).fill_null(""))
        if data is not None:
            texts = texts.with_columns(data.alias(_DATA))
            parts.append(self._json_data())
        text = pl.concat_str(parts).str.slice(1)
        content_type = pl.struct(
            key=pl.lit(CONTENT_TYPE), value=pl.lit(EVENT_TYPE.encode(), dtype=pl.Binary)
        )
        return texts.select(
            pl.concat_str(pl.lit("{"), text, pl.lit("}")).cast(pl.Binary).alias("value"),
            pl.concat_list(content_type).alias("headers"),
        )

    def _json_data(self) -> pl.Expr:
        data = pl.col(_DATA)
        if self._format == "json":
            return pl.concat_str(pl.lit(',"data":'), data.cast(pl.String)).fill_null("")
        if self._format in ("text", "csv"):
            text = json_text(data.cast(pl.String))
            return pl.concat_str(pl.lit(',"data":'), text).fill_null("")
        coded = data.bin.encode("base64")
        return pl.concat_str(pl.lit(',"data_base64":"'), coded, pl.lit('"')).fill_null("")


_DATA = "__dataflare_data"


def attributes_of(schema: Schema) -> list[Field]:
    """The columns that are attributes of events."""
    return [field for field in schema if field.name.startswith(PREFIX)]


def _ordered(names: Sequence[str]) -> list[str]:
    """The attributes in the order in which the specification has them."""
    first = [name for name in (SPECVERSION, *KNOWN) if name in names]
    return [*first, *(name for name in names if name not in first)]


def _problems(columns: Mapping[str, DataType], fixed: Mapping[str, str]) -> Iterator[str]:
    """Why rows with these columns cannot be events."""
    for name, type_ in columns.items():
        if not ATTRIBUTE.fullmatch(name) or name in (SPECVERSION, "data"):
            yield f"'{PREFIX}{name}' is not the name of an attribute, which has lower-case letters and digits"
        elif not (type_.is_integer or type_.name in _TYPES):
            yield f"column '{PREFIX}{name}' is {type_}, which no attribute can be"
        elif type_.name == "timestamp" and type_.timezone is None:
            yield f"column '{PREFIX}{name}' is {type_}, and the time of an event has a zone"
        elif name == "time" and type_.name != "timestamp":
            yield f"column '{PREFIX}time' is {type_}, and the time of an event is a timestamp with a zone"
    for name in REQUIRED:
        if name in columns and name in fixed:
            yield f"'{name}' is in the options, and there is a column '{PREFIX}{name}'"
        if name not in columns and name not in fixed:
            yield f"they have no column '{PREFIX}{name}', and an event needs it"


def _text(name: str, type_: DataType) -> pl.Expr:
    return (
        plain(pl.col(PREFIX + name), type_, far=type_.name == "timestamp")
        .cast(pl.String)
        .alias(name)
    )
