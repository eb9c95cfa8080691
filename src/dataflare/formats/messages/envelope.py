"""Whole messages to rows: the value's columns, and what else a broker says of a message.

A batch of messages is a frame with the columns `value` and `key` (Binary), `headers`
(list<struct<key: string, value: binary>>), and what the broker has beside them, such as `topic`,
`partition`, `offset` and `timestamp`. Only those that are used must be there.

Always true: a message gives at most one row here if its value's format does; a message whose key cannot be
decoded is bad, whatever its value is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import polars as pl
from msgspec import Struct

from dataflare.errors import ConfigError
from dataflare.formats.messages.contract import (
    Decoded,
    Decoder,
    bad_messages,
    merged_warnings,
    sorted_bad,
)
from dataflare.model.batch import KIND_COLUMN, RowKind
from dataflare.model.types import BINARY, STRING, DataType, Field, Schema, list_of, struct_of

HEADERS = list_of(struct_of({"key": STRING, "value": BINARY}))
PREFIX = "_"
NESTED = "_message"
Tombstones = Literal["null", "skip", "delete"]


class Envelope(Struct, frozen=True):
    """value, key: their decoders; without one for the key it stays bytes. metadata: the names and types of
    the columns to add, without their prefix; `key` has the key's own type. nested: they are the fields of
    one column, `_message`. tombstones: what a message without a value becomes: a row in which the value's
    columns are NULL, nothing, or such a row as a delete (the rows are a changelog then)."""

    value: Decoder
    metadata: tuple[Field, ...] = ()
    key: Decoder | None = None
    nested: bool = False
    tombstones: Tombstones = "null"
    step: str | None = None

    @property
    def schema(self) -> Schema:
        """The columns of the rows. Raises ConfigError (E0411) where two have one name."""
        added = [Field(name, self._type(name)) for name in self._names]
        if self.nested:
            fields = {field.name: self._type(field.name) for field in self.metadata}
            added = [Field(NESTED, struct_of(fields))] if fields else []
        for field in added:
            if field.name in self.value.schema:
                raise ConfigError(
                    f"the messages have a field '{field.name}', which is also the name of a column of "
                    "`metadata`",
                    code="E0411",
                    step=self.step,
                    help="leave it out of `metadata`, or set metadata_nested: true",
                )
        return Schema((*self.value.schema, *added))

    @property
    def is_changelog(self) -> bool:
        return self.tombstones == "delete" or self.value.changelog

    @property
    def reads(self) -> frozenset[str]:
        """The columns that messages must have, beside `value`."""
        return frozenset((*(field.name for field in self.metadata), *self.value.reads))

    @property
    def decodes_at_once(self) -> bool:
        """Whether to decode messages waits for no system, such as a registry."""
        return self.value.at_once and (self.key is None or self.key.at_once)

    @property
    def _names(self) -> list[str]:
        return [PREFIX + field.name for field in self.metadata]

    def _type(self, name: str) -> DataType:
        plain = name.removeprefix(PREFIX)
        if plain == "key" and self.key is not None:
            return _key_type(self.key)
        return next(field.type for field in self.metadata if field.name == plain)

    def decode(self, messages: pl.DataFrame) -> Decoded:
        """The rows of a batch of messages. Raises what the decoders raise."""
        values = messages["value"]
        decoded = self.value.decode_messages(messages)
        rows, places, bad, warnings = decoded.rows, decoded.message, decoded.bad, decoded.warnings
        if values.null_count():
            if self.tombstones == "skip":
                has_value = values.gather(places).is_not_null()
                rows, places = rows.filter(has_value), places.filter(has_value)
            else:
                rows, places = _with_tombstones(rows, places, values)
        if self.metadata:
            keys = self._keys(messages)
            if keys is not None and keys.bad.height:
                good = ~places.is_in(keys.bad["message"].implode())
                rows, places = rows.filter(good), places.filter(good)
                unread = keys.bad.filter(~pl.col("message").is_in(bad["message"].implode()))
                errors = ["key: " + text for text in unread["error"]]
                bad = sorted_bad([bad, *_bad_keys(values, unread, errors)])
                warnings = merged_warnings([warnings, keys.warnings])
            rows = self._with_metadata(rows, places, messages, keys)
        if self.is_changelog and not self.value.changelog:
            is_delete = values.gather(places).is_null()
            kind = pl.when(is_delete).then(RowKind.DELETE.value).otherwise(RowKind.INSERT.value)
            rows = rows.with_columns(kind.cast(pl.UInt8).alias(KIND_COLUMN))
        return Decoded(rows, places, bad, decoded.new_fields, warnings)

    def _keys(self, messages: pl.DataFrame) -> Decoded | None:
        if self.key is None or all(field.name != "key" for field in self.metadata):
            return None
        return self.key.decode(messages["key"])

    def _with_metadata(
        self, rows: pl.DataFrame, places: pl.Series, messages: pl.DataFrame, keys: Decoded | None
    ) -> pl.DataFrame:
        added = []
        for field in self.metadata:
            name, dtype = field.name, self._type(field.name).to_polars()
            if name == "key" and keys is not None:
                added.append(_key_column(keys, messages.height).gather(places).alias(name))
            else:
                added.append(messages[name].gather(places).cast(dtype).alias(name))
        if self.nested:
            return rows.with_columns(pl.DataFrame(added).to_struct(NESTED))
        return rows.with_columns(column.alias(PREFIX + column.name) for column in added)


def _key_type(key: Decoder) -> DataType:
    """A key of one column is that column, any other a struct."""
    if len(key.schema) == 1 and key.schema.names == ("value",):
        return key.schema.fields[0].type
    return struct_of({field.name: field.type for field in key.schema})


def _key_column(keys: Decoded, height: int) -> pl.Series:
    """A key for each message of the batch; NULL where it has none."""
    rows = keys.rows
    column = rows["value"] if rows.columns == ["value"] else rows.to_struct("key")
    index = pl.repeat(None, height, dtype=pl.UInt32, eager=True)
    if column.len():
        index = index.scatter(keys.message, pl.int_range(column.len(), dtype=pl.UInt32, eager=True))
    return column.gather(index)


def _with_tombstones(
    rows: pl.DataFrame, places: pl.Series, values: pl.Series
) -> tuple[pl.DataFrame, pl.Series]:
    """The rows, and one whose columns are all NULL for each message without a value, in order."""
    empty = values.is_null().arg_true().cast(pl.UInt32)
    empty = empty.filter(~empty.is_in(places.implode()))
    nulls = pl.DataFrame(
        [pl.repeat(None, empty.len(), dtype=d, eager=True).alias(n) for n, d in rows.schema.items()]
    )
    all_places = pl.concat([places.rename("message"), empty.rename("message")])
    order = all_places.arg_sort()
    return pl.concat([rows, nulls]).select(pl.all().gather(order)), all_places.gather(order)


def _bad_keys(values: pl.Series, bad: pl.DataFrame, errors: Sequence[str]) -> list[pl.DataFrame]:
    """The messages whose key is bad, with their values, by code."""
    parts = []
    for code in bad["code"].unique():
        chosen = (bad["code"] == code).arg_true()
        texts = [errors[row] for row in chosen]
        parts.append(bad_messages(values, bad["message"].gather(chosen), code, texts))
    return parts
