"""Rows to Protobuf messages.

Always true: each message that is given back was decoded again and gave its row, so a NULL that a field cannot
hold, a number that does not fit or an unknown name of an enum make the row bad.
"""

from __future__ import annotations

from typing import Any

import polars as pl

from dataflare.errors import ConfigError
from dataflare.formats.messages.contract import Encoded, Encoder, bad_messages, no_bad
from dataflare.formats.messages.protobuf import ProtobufCodec
from dataflare.model.types import DataType, Schema, from_polars

_ENUM = 14


class ProtobufEncoder(Encoder):
    """head: the bytes before each message: the id of its schema and the indexes of its type. Raises
    ConfigError (E0427) for columns that the message lacks or that cannot have its types."""

    def __init__(self, schema: Schema, codec: ProtobufCodec, *, head: bytes = b"") -> None:
        self._codec, self._head = codec, head
        self._names = schema.names
        try:
            self._columns = _columns({f.name: f.type for f in schema}, codec.schema)
        except _CannotBe as error:
            raise ConfigError(
                f"the rows do not fit the message {codec.descriptor.full_name}: {error}",
                code="E0427",
                help="change the columns with a map step, or the message",
            ) from None
        self._numbers = _numbered(codec.descriptor)

    def encode(self, rows: pl.DataFrame) -> Encoded:
        wanted = rows.select(self._columns)
        values = self._codec.encode(self._batch(wanted)).cast(pl.Binary)
        found, places, _, _ = self._codec.decode(values)
        back = pl.repeat(None, rows.height, dtype=pl.UInt32, eager=True)
        if places.len():
            back = back.scatter(places, pl.int_range(places.len(), dtype=pl.UInt32, eager=True))
        found = found.select(pl.all().gather(back))
        texts = _differences(rows, found)
        is_bad = texts.is_not_null()
        bad = no_bad()
        if is_bad.any():
            none = pl.repeat(None, rows.height, dtype=pl.Binary, eager=True)
            places = is_bad.arg_true().cast(pl.UInt32)
            bad = bad_messages(none, places, "E0572", texts.drop_nulls().to_list())
            values = pl.select(pl.when(~is_bad).then(values)).to_series()
        if self._head:
            head = self._head
            values = pl.Series([None if v is None else head + v for v in values], dtype=pl.Binary)
        return Encoded(values, bad)

    def _batch(self, rows: pl.DataFrame) -> Any:
        import pyarrow as pa

        changes = {n: make for n, make in self._numbers.items() if n in rows.columns}
        numbered = rows.with_columns(**{n: make(pl.col(n)) for n, make in changes.items()})
        target = self._codec.arrow_schema
        table = numbered.to_arrow()
        arrays = []
        for field in target:
            if field.name in table.column_names:
                arrays.append(_shaped(table.column(field.name).combine_chunks(), field))
            else:
                arrays.append(_shaped(pa.nulls(rows.height), field))
        return pa.RecordBatch.from_arrays(arrays, schema=target)


class _CannotBe(ValueError):
    """Why a column cannot be a field."""


def _columns(given: dict[str, DataType], target: Schema) -> list[pl.Expr]:
    """The columns with the types of the message's fields."""
    for name in given:
        if name not in target:
            raise _CannotBe(f"it has no field '{name}', and the rows have such a column")
    made = []
    for name, type_ in given.items():
        try:
            made.append(_as(pl.col(name), type_, target[name]).alias(name))
        except _CannotBe as error:
            raise _CannotBe(f"column '{name}': {error}") from None
    return made


def _as(value: pl.Expr, given: DataType, target: DataType) -> pl.Expr:
    """The value as the target's type; NULL where it cannot be, which the comparison finds."""
    if given == target:
        return value
    if given.name == "null":
        return value.cast(target.to_polars())
    if target.name == "struct" and given.name == "struct":
        fields = {field.name: field.type for field in given.fields}
        names = {field.name for field in target.fields}
        for name in fields:
            if name not in names:
                raise _CannotBe(f"its message has no field '{name}'")
        parts = [
            (
                _as(value.struct.field(f.name), fields[f.name], f.type)
                if f.name in fields
                else pl.lit(None, dtype=f.type.to_polars())
            ).alias(f.name)
            for f in target.fields
        ]
        return pl.when(value.is_not_null()).then(pl.struct(parts))
    if target.name == "list" and given.name == "list":
        assert given.item is not None
        assert target.item is not None
        return value.list.eval(_as(pl.element(), given.item, target.item))
    number = target.is_integer or target.is_float
    fits = (
        (number and (given.is_integer or given.is_float))
        or (target.is_text and given.is_text)
        or (target.name == given.name == "timestamp" and given.timezone is not None)
        or (target.name == given.name == "duration")
    )
    if not fits:
        raise _CannotBe(f"it is {given}, and the field is {target}")
    return value.cast(target.to_polars(), strict=False)


def _differences(rows: pl.DataFrame, found: pl.DataFrame) -> pl.Series:
    """For each row, which column its message does not hold; NULL if it holds all. found: the messages that
    were decoded again."""
    texts = []
    for name, type_ in rows.schema.items():
        held = found.select(_only(pl.col(name), from_polars(type_)).cast(type_, strict=False))
        same = rows[name].eq_missing(held.to_series())
        text = f"column '{name}': its field cannot hold it, or cannot be absent"
        texts.append(pl.when(~same).then(pl.lit(text)))
    if not texts or not rows.height:
        return pl.repeat(None, rows.height, dtype=pl.String, eager=True)
    return pl.select(pl.coalesce(*texts, pl.lit(None, dtype=pl.String))).to_series()


def _only(value: pl.Expr, given: DataType) -> pl.Expr:
    """The value with the fields that the rows have."""
    if given.name == "struct":
        parts = [_only(value.struct.field(f.name), f.type).alias(f.name) for f in given.fields]
        return pl.when(value.is_not_null()).then(pl.struct(parts))
    if given.name == "list" and given.item is not None and (given.item.fields or given.item.item):
        return value.list.eval(_only(pl.element(), given.item))
    return value


def _numbered(descriptor: Any, path: tuple[str, ...] = ()) -> dict[str, Any]:
    """For each field with enums in it, the change from their names to their numbers."""
    made = {}
    for field in descriptor.fields:
        change = _numbers_in(field, path)
        if change is not None:
            made[field.name] = change
    return made


def _numbers_in(field: Any, path: tuple[str, ...]) -> Any:
    message = field.message_type
    if field.type == _ENUM:
        names = {each.name: each.number for each in field.enum_type.values}

        def change(value: pl.Expr) -> pl.Expr:
            known = value.replace_strict(
                [*names], [*names.values()], default=None, return_dtype=pl.Int32
            )
            return pl.coalesce(known, value.cast(pl.Int32, strict=False))

    elif message is None or message.full_name in (*path, field.containing_type.full_name):
        return None
    else:
        inner = _numbered(message, (*path, field.containing_type.full_name))
        if not inner:
            return None

        def change(value: pl.Expr) -> pl.Expr:
            return value.struct.with_fields(
                make(value.struct.field(name)).alias(name) for name, make in inner.items()
            )

    if not field.is_repeated:
        return change
    return lambda value: value.list.eval(change(pl.element()))


def _shaped(array: Any, field: Any) -> Any:
    """An Arrow array in the layout that ptars takes: maps are maps, and what cannot be NULL has its default
    there, which the comparison finds."""
    import pyarrow as pa

    type_ = field.type
    if pa.types.is_null(array.type):
        array = pa.nulls(len(array), _listed(type_))
    if pa.types.is_map(type_):
        array = array.fill_null([]) if array.null_count else array
        pairs = array.flatten()
        offsets = _offsets(array, pa.int32())
        keys = _shaped(pairs.field("key"), type_.key_field)
        items = _shaped(pairs.field("value"), type_.item_field)
        return pa.MapArray.from_arrays(offsets, keys, items, type=type_)
    if pa.types.is_large_list(type_):
        array = array.fill_null([]) if array.null_count else array
        values = _shaped(array.flatten(), type_.value_field)
        return pa.LargeListArray.from_arrays(_offsets(array, pa.int64()), values, type=type_)
    if pa.types.is_struct(type_):
        children = array.flatten()
        names = [each.name for each in array.type]
        parts = [_shaped(children[names.index(each.name)], each) for each in type_]
        mask = array.is_null() if field.nullable else None
        return pa.StructArray.from_arrays(parts, fields=[*type_], mask=mask)
    made = array.cast(type_)
    if not field.nullable and made.null_count:
        return made.fill_null(_default(type_))
    return made


def _default(type_: Any) -> Any:
    import pyarrow as pa

    if pa.types.is_large_string(type_):
        return ""
    return b"" if pa.types.is_large_binary(type_) else pa.scalar(0).cast(type_)


def _listed(type_: Any) -> Any:
    """The type with lists of pairs in place of maps."""
    import pyarrow as pa

    if pa.types.is_map(type_):
        pair = pa.struct([("key", type_.key_type), ("value", _listed(type_.item_type))])
        return pa.large_list(pair)
    return type_


def _offsets(array: Any, type_: Any) -> Any:
    """The offsets of a list, from zero on."""
    import pyarrow.compute as pc

    offsets = array.offsets
    return pc.subtract(offsets, offsets[0]).cast(type_) if len(offsets) else offsets.cast(type_)
