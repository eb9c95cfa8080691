"""Messages that are named fields of text, as the entries of a stream of Redis: each field is a column.

The fields of a message are packed into its value (`pack`). The columns are those that a contract names, and the fields
of a sample as text. A field that a message lacks is NULL; an empty one is NULL unless its type is text or binary.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec
import orjson
import polars as pl

from dataflare.formats.messages.contract import (
    Decoded,
    Decoder,
    bad_messages,
    bytes_text,
    no_bad,
    sorted_bad,
)
from dataflare.formats.misread import misfit
from dataflare.formats.text_types import TextColumn, loose
from dataflare.model.new_fields import Columns, NewFields, typed_fields
from dataflare.model.types import STRING, Schema, parse_type

_NAME_BAD = "a field has a name that is not valid UTF-8"


def pack(fields: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The value of a message with these fields."""
    return msgspec.msgpack.encode(list(fields))


def unpack(value: bytes) -> list[tuple[bytes, bytes]]:
    """The fields of such a value."""
    return msgspec.msgpack.decode(value, type=list[tuple[bytes, bytes]])


def columns_of(
    sample: pl.Series, contract: Schema | None = None, learned: Columns | None = None
) -> Schema:
    """The columns of a sample of messages: those of the contract have its types, others are text."""
    types = {field.name: field.type for field in contract or ()}
    for value in sample.drop_nulls():
        for name in _names(value):
            types.setdefault(name, STRING)
    for name, type_ in (learned or {}).items():
        types.setdefault(name, parse_type(type_))
    return Schema.of(types)


class FieldsDecoder(Decoder):
    """schema: the columns."""

    at_once = True

    def __init__(self, schema: Schema) -> None:
        self.schema = schema

    def shown_fields(self, value: bytes) -> Mapping[str, str]:
        return _shown(unpack(value))

    def decode(self, values: pl.Series) -> Decoded:
        places = values.is_not_null().arg_true().cast(pl.UInt32).alias("message")
        problems: dict[int, tuple[str, str]] = {}
        unknown: dict[str, list[int]] = {}
        doubled: dict[str, int] = {}
        cells: dict[str, list[bytes | None]] = {name: [] for name in self.schema.names}
        found = [unpack(value) for value in values.drop_nulls()]
        known = set(self.schema.names)
        for row, pairs in enumerate(found):
            fields = {name.decode(errors="replace"): value for name, value in reversed(pairs)}
            if len(fields) != len(pairs):
                text = "a field is twice in one message: only its first value is read"
                doubled[text] = doubled.get(text, 0) + 1
            if any(not _is_text(name) for name, _ in pairs):
                problems[row] = "E0504", _NAME_BAD
            for name in fields.keys() - known:
                unknown.setdefault(name, []).append(row)
            for name, column in cells.items():
                column.append(fields.get(name))
        frame = self._typed(cells, problems)
        new = None
        if unknown:
            rows = sorted({row for each in unknown.values() for row in each})
            at = places.gather(rows).to_list()
            by_message = {message: found[row] for message, row in zip(at, rows, strict=True)}
            new = typed_fields(
                {name: str(STRING) for name in sorted(unknown)},
                at,
                lambda message: shown(by_message[message]),
            )
        return self._parted(frame, places, found, problems, new, doubled)

    def _typed(
        self, cells: Mapping[str, list[bytes | None]], problems: dict[int, tuple[str, str]]
    ) -> pl.DataFrame:
        """The columns with their types. Adds the rows that do not fit to `problems`."""
        columns = []
        for name, given in cells.items():
            type_ = self.schema[name]
            raw = pl.Series(name, given, dtype=pl.Binary)
            if type_.name == "binary":
                columns.append(raw)
                continue
            texts = _texts(raw)
            for row in (texts.is_null() & raw.is_not_null()).arg_true():
                problems.setdefault(row, ("E0504", f"field '{name}' is not valid UTF-8"))
            typed = texts.to_frame().select(loose(TextColumn(name, type_, declared=True)))[name]
            empty = texts == ""
            lost = typed.is_null() & texts.is_not_null()
            if not type_.is_text:
                lost &= ~empty.fill_null(False)
            for row in lost.arg_true():
                problems.setdefault(row, ("E0501", misfit(name, type_, texts[row])))
            columns.append(typed.cast(type_.to_polars()))
        return pl.DataFrame(columns)

    def _parted(
        self,
        frame: pl.DataFrame,
        places: pl.Series,
        found: Sequence[Sequence[tuple[bytes, bytes]]],
        problems: Mapping[int, tuple[str, str]],
        new: NewFields | None,
        warnings: Mapping[str, int],
    ) -> Decoded:
        if not problems:
            return Decoded(frame, places, no_bad(), new, warnings)
        parts = []
        texts = pl.Series([shown(pairs).encode() for pairs in found], dtype=pl.Binary)
        for row, (code, message) in problems.items():
            part = bad_messages(texts, [row], code, message)
            parts.append(part.with_columns(message=pl.lit(places[row], pl.UInt32)))
        is_good = ~pl.int_range(len(found), eager=True).is_in([*problems])
        return Decoded(
            frame.filter(is_good), places.filter(is_good), sorted_bad(parts), new, warnings
        )


def shown(pairs: Sequence[tuple[bytes, bytes]]) -> str:
    """The fields as a JSON object, to show to the user; bytes that are not UTF-8 are base64 behind a mark."""
    return orjson.dumps(_shown(pairs)).decode()


def _shown(pairs: Sequence[tuple[bytes, bytes]]) -> dict[str, str]:
    return {bytes_text(name): bytes_text(value) for name, value in pairs}


def _names(value: bytes) -> Iterable[str]:
    return (name.decode(errors="replace") for name, _ in unpack(value))


def _texts(raw: pl.Series) -> pl.Series:
    try:
        return raw.cast(pl.String)
    except pl.exceptions.PolarsError:
        texts = [None if v is None or not _is_text(v) else v.decode() for v in raw]
        return pl.Series(raw.name, texts, dtype=pl.String)


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
