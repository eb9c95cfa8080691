"""Rows to messages: where each goes, its value, its id and its headers, as columns.

Always true: there is a message for each row that is not left out, in the order of the rows; a row that cannot be a
message is among the refused ones, with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

import polars as pl
from msgspec import Struct

from dataflare.errors import ConfigError
from dataflare.formats.messages.contract import Encoder
from dataflare.model.batch import KIND_COLUMN, RowKind
from dataflare.model.types import DataType, Schema
from dataflare.sdk.destination import need_columns
from dataflare.sdk.tracing import HEADER, traceparent

PLACEHOLDER = re.compile(r"\{([^{}]+)\}")
HEADERS = pl.List(pl.Struct({"key": pl.String(), "value": pl.Binary()}))
MESSAGES = pl.Schema(
    {
        "target": pl.String(),
        "value": pl.Binary(),
        "id": pl.String(),
        "headers": HEADERS,
        "is_delete": pl.Boolean(),
    }
)
_TEXT_TYPES = ("string", "binary", "bool", "date", "decimal", "timestamp", "json", "null")
_GONE = (RowKind.UPDATE_BEFORE.value, RowKind.DELETE.value)


class Shape(Struct, frozen=True):
    """What messages are made of. target: the place where they go, in pieces: text and a column in turn. id: the column
    that tells a message from all others. headers: by header, its column. key: under upsert and mirror, the columns
    by which a row is known. mode: append, upsert or mirror. only_rest: the value has the columns that are used for
    nothing else. names_trace: headers also name the trace that a message is written in, where there is one."""

    target: Sequence[str]
    id: str | None = None
    headers: Mapping[str, str] = {}
    key: Sequence[str] = ()
    mode: str = "append"
    only_rest: bool = False
    names_trace: bool = False

    @property
    def target_columns(self) -> Sequence[str]:
        return self.target[1::2]

    @property
    def used(self) -> set[str]:
        used = {*self.target_columns, *self.headers.values(), *self.key}
        return used | ({self.id} if self.id is not None else set())

    def value_columns(self, schema: Schema) -> Schema:
        """The columns of the values."""
        if not self.only_rest:
            return schema
        return Schema(tuple(field for field in schema if field.name not in self.used))

    def check(self, step: str, schema: Schema) -> None:
        """Raises ConfigError (E0411, E0406) for a column that is not there, or has a type that is not text."""
        for name in sorted(self.used):
            need_columns(step, [name], schema)
            if not _has_text(schema[name]):
                raise ConfigError(
                    f"step '{step}' uses column '{name}', whose type {schema[name]} cannot be text",
                    code="E0406",
                    step=step,
                    help="cast it in a map step before",
                )


class Made(Struct, frozen=True):
    """messages: as MESSAGES. refused: rows, with the column `why`. rows: those of the messages, in their order, for
    brokers that tell of each message whether they take it."""

    messages: pl.DataFrame
    refused: pl.DataFrame
    rows: pl.DataFrame | None = None


class MessageMaker:
    """encoder: of the values. unfit: for columns as MESSAGES has them, why the broker would refuse a message, else
    NULL."""

    at_once = True

    def __init__(
        self,
        shape: Shape,
        schema: Schema,
        encoder: Encoder,
        unfit: Callable[[], Sequence[pl.Expr]] = list,
    ) -> None:
        self._shape, self._encoder, self._unfit = shape, encoder, unfit
        self._value_columns = list(shape.value_columns(schema).names)

    def make(self, frame: pl.DataFrame) -> Made:
        frame, is_delete = self._kept(frame)
        if not frame.height:
            return Made(MESSAGES.to_frame(), frame.with_columns(why=pl.lit("")))
        values = self._encoder.encode(frame.select(self._value_columns))
        shape = self._shape
        messages = frame.select(
            pl.repeat(0, pl.len()).alias("value"),  # so that literals have the height of the frame
            target=_template(shape.target, frame.schema),
            id=_text(shape.id, frame.schema) if shape.id else pl.lit(None, pl.String),
            headers=_headers(shape.headers, frame.schema),
        ).with_columns(values.values.alias("value"), is_delete.alias("is_delete"))
        if values.headers is not None:
            messages = messages.with_columns(_both(messages["headers"], values.headers))
        messages = messages.select(list(MESSAGES))
        value = pl.when(~pl.col("is_delete")).then(pl.col("value"))
        messages = messages.with_columns(value)
        why = [] if not values.bad.height else [pl.lit(_problems(values.bad, frame.height))]
        why += [pl.when(pl.col("target").is_null()).then(pl.lit("its place is NULL"))]
        if shape.id is not None:
            why += [pl.when(pl.col("id").is_null()).then(pl.lit(f"'{shape.id}' is NULL"))]
        reason = messages.select(pl.coalesce([*why, *self._unfit()]).alias("why"))["why"]
        bad = reason.is_not_null()
        if not bad.any():
            return Made(self._traced(messages), frame.head(0).with_columns(why=pl.lit("")), frame)
        rows = frame.with_columns(reason).filter(bad)
        return Made(
            self._traced(messages.filter(~bad)),
            rows.drop(KIND_COLUMN, strict=False),
            frame.filter(~bad),
        )

    def _traced(self, messages: pl.DataFrame) -> pl.DataFrame:
        """With the trace in the headers of those that still fit then: no row is refused for it."""
        parent = traceparent() if self._shape.names_trace else None
        if parent is None or HEADER in self._shape.headers:
            return messages
        more = pl.Series("more", [[{"key": HEADER, "value": parent.encode()}]], HEADERS)
        longer = messages.with_columns(_both(messages["headers"], more.new_from_index(0, messages.height)))  # fmt: skip
        unfit = [*self._unfit()]
        if not unfit:
            return longer
        fits = longer.select(pl.coalesce(unfit).is_null().alias("fits"))["fits"]
        headers = pl.when(fits).then(longer["headers"]).otherwise(messages["headers"])
        return messages.with_columns(headers=headers)

    def _kept(self, frame: pl.DataFrame) -> tuple[pl.DataFrame, pl.Series]:
        """The rows that become messages, and which of them are deletes."""
        if KIND_COLUMN not in frame.columns:
            return frame, pl.repeat(False, frame.height, dtype=pl.Boolean, eager=True)
        kind = pl.col(KIND_COLUMN)
        if self._shape.mode == "mirror":
            same = pl.all_horizontal(
                pl.col(k).eq_missing(pl.col(k).shift(-1)) for k in self._shape.key
            )
            followed = (kind == RowKind.UPDATE_BEFORE.value) & same.fill_null(False)
            # An update that keeps its key is one message, not a delete and a message.
            followed &= (kind.shift(-1) == RowKind.UPDATE_AFTER.value).fill_null(False)
            frame = frame.filter(~followed)
        else:
            frame = frame.filter(~kind.is_in(_GONE))
        return frame, frame.select(kind.is_in(_GONE)).to_series()


def pieces(template: str) -> list[str]:
    """The pieces of a text with {column} in it."""
    return PLACEHOLDER.split(template)


def _has_text(type_: DataType) -> bool:
    return type_.name in _TEXT_TYPES or type_.is_text or "int" in type_.name


def _text(column: str, schema: pl.Schema) -> pl.Expr:
    value = pl.col(column)
    if schema[column] == pl.Binary:
        return value.cast(pl.String, strict=False)
    if isinstance(schema[column], pl.Datetime):
        return value.dt.to_string("iso:strict")
    return value.cast(pl.String)


def _template(pieces: Sequence[str], schema: pl.Schema) -> pl.Expr:
    if len(pieces) == 1:
        return pl.lit(pieces[0])
    parts = [_text(piece, schema) if at % 2 else pl.lit(piece) for at, piece in enumerate(pieces)]
    return pl.concat_str(parts)


def _headers(headers: Mapping[str, str], schema: pl.Schema) -> pl.Expr:
    if not headers:
        return pl.lit(None, HEADERS)
    fields = []
    for header, column in headers.items():
        value = pl.col(column)
        if schema[column] != pl.Binary:
            value = _text(column, schema).cast(pl.Binary)
        fields.append(pl.struct(key=pl.lit(header), value=value))
    return pl.concat_list(fields)


def _both(headers: pl.Series, more: pl.Series) -> pl.Series:
    """The headers of the options, and behind them those of the format."""
    frame = pl.DataFrame([headers, more.cast(HEADERS).alias("more")])
    joined = pl.concat_list(pl.col("headers", "more").fill_null(pl.lit([], dtype=HEADERS)))
    return frame.select(headers=joined)["headers"]


def _problems(bad: pl.DataFrame, height: int) -> pl.Series:
    """For each row why it cannot be encoded, or NULL."""
    texts: list[str | None] = [None] * height
    for at, text in zip(bad["message"], bad["error"], strict=True):
        texts[at] = text
    return pl.Series(texts, dtype=pl.String)
