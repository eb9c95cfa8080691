"""Changes of tables as Debezium writes them to topics: JSON with the row before and after, as changelog rows.

A message is the change, or has it as `payload` beside its schema. A row that was read, created or updated is an insert,
which replaces the row with its key; a deleted one is a delete of which the key counts. So it does not matter how much of
the row before a database tells. A TRUNCATE is one, where the source says that it may be.

Always true: a message that is a change of a row gives one row or is bad; the value of a column that the database did not
send (a large one that did not change) is never written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import polars as pl
from msgspec import Struct

from dataflare.formats.messages.connect_types import ConnectColumn, columns_of
from dataflare.formats.messages.contract import (
    Decoded,
    Decoder,
    bad_messages,
    sorted_bad,
)
from dataflare.formats.messages.debezium_facts import TYPES as FACT_TYPES
from dataflare.formats.messages.debezium_facts import facts_of, with_transaction
from dataflare.formats.misread import misfit
from dataflare.model.batch import KIND_COLUMN, RowKind, truncation
from dataflare.model.types import Field, Schema

CODE = "E0577"
_TRUNCATE = b'"t"'
UNAVAILABLE = "__debezium_unavailable_value"
"""What stands for a value that the database did not send."""
_NULL = b"null"


class _Message(Struct):
    """One of a change, or what has it as its payload."""

    payload: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    op: str | msgspec.UnsetType = msgspec.UNSET
    before: msgspec.Raw = msgspec.Raw(_NULL)
    after: msgspec.Raw = msgspec.Raw(_NULL)
    source: msgspec.Raw = msgspec.Raw(_NULL)
    transaction: msgspec.Raw = msgspec.Raw(_NULL)


class _WithSchema(Struct):
    schema: dict[str, Any] | None = None


_MESSAGE = msgspec.json.Decoder(_Message)
_SOURCE = msgspec.json.Decoder(dict[str, Any] | None)
_SCHEMA = msgspec.json.Decoder(_WithSchema)


class _BadChange(ValueError):
    pass


class Change(Struct):
    """row: its JSON. gone: it was deleted. op: as Debezium calls it. source, transaction: JSON of where it comes from."""

    row: bytes
    gone: bool
    op: str
    source: msgspec.Raw
    transaction: msgspec.Raw


class DebeziumDecoder(Decoder):
    """rows: the decoder of the rows in the changes. columns: those whose values mean something else than they are. facts:
    the columns of what changes say of themselves. outbox: whether the table is an outbox, of which only new rows count."""

    not_truncated: str | None = "and which they were is not known"
    """Why no TRUNCATE may be given; None where it may."""

    def __init__(
        self, rows: Decoder, columns: Sequence[ConnectColumn], facts: Sequence[str] = (), *, outbox: bool = False
    ) -> None:  # fmt: skip
        self._rows, self._facts, self._outbox = rows, list(facts), outbox
        self.changelog, self.at_once = not outbox, rows.at_once
        self._converted = {
            column.name: column
            for column in columns
            if column.convert is not None
            and column.name in rows.schema
            and rows.schema[column.name] == column.written
        }
        self.schema = Schema(
            tuple(
                Field(field.name, self._converted[field.name].type)
                if field.name in self._converted
                else field
                for field in rows.schema
            )
            + tuple(Field(name, FACT_TYPES[name]) for name in self._facts)
        )

    def is_truncation(self, value: bytes | None) -> bool:
        if self.not_truncated is not None or value is None or _TRUNCATE not in value:
            return False
        try:
            return change_of(value).op == "t"
        except _BadChange:
            return False

    def decode(self, values: pl.Series) -> Decoded:
        truncated: list[int] = []
        rows: list[bytes | None] = [None] * len(values)
        gone: list[bool] = [False] * len(values)
        sources: list[Mapping[str, Any] | None] = [None] * len(values)
        problems: dict[int, str] = {}
        for at, value in enumerate(values):
            if value is None:
                continue
            try:
                change = change_of(value)
            except _BadChange as error:
                problems[at] = str(error)
                continue
            if self._outbox and (change.gone or change.op == "t"):
                continue  # a row of an outbox is removed when it was read
            if change.op == "t":
                if self.not_truncated is None:
                    truncated.append(at)
                else:
                    problems[at] = (
                        f"it says that all rows of the table were deleted at once (TRUNCATE), {self.not_truncated}"
                    )
                continue
            if self._outbox and change.op == "u":
                problems[at] = "a row of an outbox was updated, and what is in it is told once"
                continue
            rows[at], gone[at] = change.row, change.gone
            if self._facts:
                sources[at] = with_transaction(
                    _SOURCE.decode(change.source), _SOURCE.decode(change.transaction)
                )
        decoded = self._rows.decode(pl.Series(rows, dtype=pl.Binary))
        misread = decoded.bad.with_columns(values.gather(decoded.bad["message"]).alias("value"))
        frame, misfits = self._typed(decoded.rows)
        places = decoded.message
        if misfits:
            wrong = pl.Series([*misfits], dtype=pl.UInt32)
            fits = ~pl.int_range(frame.height, dtype=pl.UInt32, eager=True).is_in(wrong.implode())
            problems |= dict(zip(places.gather(wrong), misfits.values(), strict=True))
            frame, places = frame.filter(fits), places.filter(fits)
        deleted = pl.Series(gone, dtype=pl.Boolean).gather(places)
        kind = pl.when(deleted).then(RowKind.DELETE.value).otherwise(RowKind.INSERT.value)
        if self._facts:
            told = [sources[at] for at in places.to_list()]
            frame = frame.with_columns(facts_of(told, self._facts))
        if not self._outbox:
            frame = frame.with_columns(kind.cast(pl.UInt8).alias(KIND_COLUMN))
        if truncated:
            frame = pl.concat(
                [frame, *(truncation(frame.schema).select(frame.columns) for _ in truncated)]
            )
            places = pl.concat([places, pl.Series(truncated, dtype=places.dtype)])
            by_place = places.arg_sort()
            frame, places = frame[by_place], places.gather(by_place)
        order = sorted(problems)
        bad = [misread, bad_messages(values, order, CODE, [problems[at] for at in order])]
        return Decoded(frame, places, sorted_bad(bad), decoded.new_fields, decoded.warnings)

    def _typed(self, rows: pl.DataFrame) -> tuple[pl.DataFrame, dict[int, str]]:
        """The rows with their types, and by row why it cannot be used."""
        misfits: dict[int, str] = {}
        texts = [name for name, dtype in rows.schema.items() if dtype == pl.String]
        for name in texts:
            for at in (rows[name] == UNAVAILABLE).arg_true():
                misfits[at] = (
                    f"the database did not send the value of column '{name}', which did not change; with REPLICA "
                    "IDENTITY FULL it does"
                )
        made = []
        for name, column in self._converted.items():
            assert column.convert is not None
            values = column.convert(rows[name])
            for at in (values.is_null() & rows[name].is_not_null()).arg_true():
                misfits.setdefault(at, misfit(name, column.type, rows[name][at]))
            made.append(values)
        return rows.with_columns(made), misfits


def change_of(value: bytes) -> Change:
    """The change in a message. Raises _BadChange for what is not a change of a row."""
    try:
        message = _MESSAGE.decode(value)
        if isinstance(message.payload, msgspec.Raw):
            if bytes(message.payload) == _NULL:
                raise _BadChange("its payload is null")
            message = _MESSAGE.decode(message.payload)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _BadChange(f"it is not a change in JSON: {error}") from None
    op = message.op
    if op == "t":
        return Change(b"", False, op, message.source, message.transaction)
    data = _NULL
    if isinstance(op, str) and op in ("c", "r", "u"):
        data = bytes(message.after)
    elif op == "d":
        data = bytes(message.before)
    if data == _NULL:
        raise _BadChange(why_refused(None if op is msgspec.UNSET else op))
    assert isinstance(op, str)
    return Change(data, op == "d", op, message.source, message.transaction)


def why_refused(op: str | None) -> str:
    """Why a change is not one of a row; of one with a usual `op`, that the row is missing."""
    match op:
        case "c" | "r" | "u" | "d":
            what = "before" if op == "d" else "after"
            known = "; with a primary key or REPLICA IDENTITY FULL it is" if op == "d" else ""
            return f"its '{what}' is null, so it is not known which row it is{known}"
        case "m":
            return "it is a message in the database's log (op m), not a change of a row"
        case "t":
            return "it says that all rows of the table were deleted at once (TRUNCATE), and which they were is not known"
        case None:
            return "it has no field 'op', so it is not a change as Debezium writes them"
    return f"'{op}' is not an 'op' of Debezium"


def rows_of(sample: pl.Series) -> pl.Series:
    """The rows in a sample of messages. Others are left out."""
    rows: list[bytes] = []
    for value in sample.drop_nulls():
        try:
            change = change_of(value)
        except _BadChange:
            continue
        if change.op != "t":
            rows.append(change.row)
    return pl.Series(rows, dtype=pl.Binary)


def types_of(sample: pl.Series) -> list[ConnectColumn]:
    """The columns that the schema in the newest message of a sample tells; none where messages have no schema."""
    for value in reversed(sample.drop_nulls().to_list()):
        try:
            schema = _SCHEMA.decode(value).schema
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue
        for field in (schema or {}).get("fields") or ():
            if isinstance(field, Mapping) and field.get("field") == "after":
                return columns_of(field.get("fields") or ())
    return []
