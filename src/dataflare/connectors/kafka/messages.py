"""Rows to messages: value, key, headers, time, partition and topic of each, as columns.

Always true: a message for each row that is not left out, in the order of the rows; a row that cannot be a message is
among the refused ones, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import polars as pl
from msgspec import Struct

from dataflare.connectors.kafka.config import KafkaDestinationConfig
from dataflare.errors import ConfigError
from dataflare.formats.messages.contract import Encoder
from dataflare.formats.messages.debezium_encode import BEFORE, Envelopes, paired
from dataflare.model.batch import KIND_COLUMN, RowKind
from dataflare.model.types import Schema
from dataflare.sdk.brokers.rows import Made
from dataflare.sdk.context import ConnectorContext
from dataflare.sdk.destination import need_columns
from dataflare.sdk.messages.build import debezium_encoders, encoder
from dataflare.sdk.streams import TableName
from dataflare.sdk.tracing import HEADER, traceparent

_TOPIC_PATTERN = r"^[A-Za-z0-9._-]{1,249}$"
_OVERHEAD = 96
"""More than what a batch of one message has beside its key, value and headers: 61 bytes, and lengths."""
_FEW = 500
_HEADER_BYTES = 48
"""More than what a header has beside its value: lengths, and a name of an event's attribute."""
_HEADERS = pl.List(pl.Struct({"key": pl.String(), "value": pl.Binary()}))
_KEY_TYPES = ("string", "binary", "bool", "date", "decimal")
_GONE = (RowKind.UPDATE_BEFORE.value, RowKind.DELETE.value)
MESSAGES = pl.Schema(
    {
        "topic": pl.String(),
        "partition": pl.Int32(),
        "key": pl.Binary(),
        "value": pl.Binary(),
        "timestamp": pl.Int64(),
        "headers": _HEADERS,
    }
)


class Limits(Struct, frozen=True):
    """Of a topic. message_bytes: of the largest message. needs_key: it keeps only the last message of a key."""

    partitions: int
    message_bytes: int
    needs_key: bool


class MessageMaker:
    """limits_of: what a topic takes; raises for a topic that is not there."""

    def __init__(
        self,
        config: KafkaDestinationConfig,
        context: ConnectorContext,
        schema: Schema,
        limits_of: Callable[[str], Limits],
    ) -> None:
        check_columns(config, context.step, schema)
        self._config, self._limits_of = config, limits_of
        self._one_topic = pl.Series("topic", [config.topic], pl.String)
        # What a topic takes is known once it was asked for, and that of a row is not.
        self.at_once = not config.topic_columns
        values = _values(config, schema)
        self._value_columns = list(values.names)
        topic = config.topic
        keys = Schema(tuple(field for field in schema if field.name in config.key))
        self._key: Encoder | None = None
        self._envelopes: Envelopes | None = None
        self._value: Encoder
        if config.has_changes:
            of = context.table or TableName(topic)
            made = debezium_encoders(
                config, context, values, keys, topic=topic, schemas=config.debezium.schemas,
                database=config.debezium.database or of.schema, table=config.debezium.table or of.table,
            )  # fmt: skip
            self._value, self._key, self._envelopes = made.value, made.key, made.value.envelopes
            return
        self._value = encoder(config, context, values, topic=topic)
        if keys and (config.key_format is not None or len(keys) > 1):
            options = (
                config if config.key_format else config.model_copy(update={"key_format": "json"})
            )
            self._key = encoder(options, context, keys, topic=topic, is_key=True)

    def make(self, frame: pl.DataFrame) -> Made:
        frame, is_delete = self._kept(frame)
        if not frame.height:
            return Made(MESSAGES.to_frame(), frame.with_columns(why=pl.lit("")))
        values = self._value.encode(self._of_values(frame))
        problems: dict[str, pl.Series | None] = {"value": _problems(values.bad, frame.height)}
        key = self._keys(frame, problems)
        messages = pl.DataFrame(
            [
                self._topic(frame),
                _cast(frame, self._config.partition, "partition", pl.Int32()),
                key,
                values.values.alias("value"),
                self._time(frame),
                _both(self._headers(frame), values.headers),
            ]
        )
        if (parent := traceparent()) is not None and HEADER not in self._config.headers:
            messages = _with_header(messages, HEADER, parent)
        if is_delete is not None and self._envelopes is None:
            value = pl.when(~is_delete).then(pl.col("value"))
            messages = messages.with_columns(value)
        why = [pl.lit(text) for text in problems.values() if text is not None]
        if not why and self._all_fit(messages):
            return Made(self._with_tombstones(messages, is_delete), frame.clear())
        why.append(self._unfit(messages))
        reason = messages.select(pl.coalesce(why).alias("why"))["why"]
        bad = reason.is_not_null()
        if not bad.any():
            messages = self._with_tombstones(messages, is_delete)
            return Made(messages, frame.head(0).with_columns(why=pl.lit("")))
        rows = frame.with_columns(reason).filter(bad)
        left = None if is_delete is None else is_delete.filter(~bad)
        messages = self._with_tombstones(messages.filter(~bad), left)
        return Made(messages, rows.drop(KIND_COLUMN, BEFORE, strict=False))

    def _of_values(self, frame: pl.DataFrame) -> pl.DataFrame:
        names = self._value_columns
        if self._envelopes is not None:
            names = [*names, KIND_COLUMN, BEFORE]
        return frame if frame.columns == names else frame.select(names)

    def _with_tombstones(self, messages: pl.DataFrame, is_delete: pl.Series | None) -> pl.DataFrame:
        """The messages of changes, with one without a value behind each delete."""
        if self._envelopes is None or is_delete is None or not self._config.debezium.tombstones:
            return messages
        if not is_delete.any() or not self._config.key:
            return messages
        both = messages.with_row_index("__dataflare_place")
        empty = both.filter(is_delete).with_columns(pl.lit(None, pl.Binary).alias("value"))
        joined = pl.concat([both, empty]).sort("__dataflare_place", maintain_order=True)
        return joined.drop("__dataflare_place")

    def _kept(self, frame: pl.DataFrame) -> tuple[pl.DataFrame, pl.Series | None]:
        """The rows that become messages, and which of them are deletes."""
        kind = pl.col(KIND_COLUMN)
        if self._envelopes is not None:
            frame = paired(frame, self._envelopes.row, self._config.key)
            if self._config.mode == "upsert":
                frame = frame.filter(~kind.is_in(_GONE))
            return frame, frame[KIND_COLUMN].is_in(_GONE)
        if KIND_COLUMN not in frame.columns:
            return frame, None
        if self._config.mode == "upsert":
            return frame.filter(~kind.is_in(_GONE)), None
        # An update that keeps its key is one message, not a delete and a message.
        same = pl.all_horizontal(
            pl.col(k).eq_missing(pl.col(k).shift(-1)) for k in self._config.key
        )
        followed = (kind == RowKind.UPDATE_BEFORE.value) & same.fill_null(False)
        followed &= (kind.shift(-1) == RowKind.UPDATE_AFTER.value).fill_null(False)
        frame = frame.filter(~followed)
        return frame, frame[KIND_COLUMN].is_in(_GONE)

    def _keys(self, frame: pl.DataFrame, problems: dict[str, pl.Series | None]) -> pl.Series:
        key = self._config.key
        if not key:
            return _nulls("key", pl.Binary(), frame.height)
        if self._key is not None:
            encoded = self._key.encode(frame.select(key))
            problems["key"] = _problems(encoded.bad, frame.height)
            return encoded.values.alias("key")
        column = frame[key[0]]
        if column.dtype != pl.Binary:
            column = column.cast(pl.String).cast(pl.Binary)
        return column.alias("key")

    def _topic(self, frame: pl.DataFrame) -> pl.Series:
        pieces = [
            pl.col(piece).cast(pl.String) if at % 2 else pl.lit(piece)
            for at, piece in enumerate(self._config.topic_pieces)
        ]
        if len(pieces) == 1:
            return self._one_topic.new_from_index(0, frame.height)
        return frame.select(pl.concat_str(pieces).alias("topic"))["topic"]

    def _time(self, frame: pl.DataFrame) -> pl.Series:
        name = self._config.timestamp
        if name is None:
            return _nulls("timestamp", pl.Int64(), frame.height)
        return frame[name].dt.epoch("ms").cast(pl.Int64).alias("timestamp")

    def _headers(self, frame: pl.DataFrame) -> pl.Series:
        if not self._config.headers:
            return _nulls("headers", _HEADERS, frame.height)
        fields = []
        for header, column in self._config.headers.items():
            value = pl.col(column)
            if frame.schema[column] != pl.Binary:
                value = value.cast(pl.String).cast(pl.Binary)
            fields.append(pl.struct(key=pl.lit(header), value=value))
        return frame.select(pl.concat_list(fields).alias("headers"))["headers"]

    def _all_fit(self, messages: pl.DataFrame) -> bool:
        """Whether a topic takes all messages, by the largest value and the largest key. False where only `_unfit`
        can tell. It takes a fifth of the time for a few rows."""
        config = self._config
        if config.topic_columns or config.partition is not None:
            return False
        if messages["headers"].null_count() < messages.height:
            return False
        limits, key = self._limits_of(config.topic), messages["key"]
        if (config.mode != "append" or limits.needs_key) and key.null_count():
            return False
        size = _largest(messages["value"]) + _largest(key)
        return size + _OVERHEAD <= limits.message_bytes

    def _unfit(self, messages: pl.DataFrame) -> pl.Expr:
        """Why a topic would refuse a message, or NULL."""
        reasons = [
            pl.when(pl.col("topic").is_null() | ~pl.col("topic").str.contains(_TOPIC_PATTERN))
            .then(pl.format("the topic would be called '{}'", pl.col("topic").fill_null("NULL")))
        ]  # fmt: skip
        if self._config.mode != "append":
            reasons.append(pl.when(pl.col("key").is_null()).then(pl.lit("it has no key")))
        size = pl.col("value").bin.size().fill_null(0) + pl.col("key").bin.size().fill_null(0)
        if messages["headers"].null_count() < messages.height:
            sizes = pl.element().struct.field("value").bin.size().fill_null(0)
            size += pl.col("headers").list.eval(sizes + _HEADER_BYTES).list.sum().fill_null(0)
            size += sum(map(len, self._config.headers)) + len(HEADER)
        valid = messages["topic"].drop_nulls().unique()
        for topic in valid.filter(valid.str.contains(_TOPIC_PATTERN)):
            limits = self._limits_of(topic)
            here = pl.col("topic") == topic
            too_large = here & (size + _OVERHEAD > limits.message_bytes)
            text = f"it has {{}} bytes, and topic '{topic}' takes messages of {limits.message_bytes:,} bytes"
            reasons.append(pl.when(too_large).then(pl.format(text, size)))
            if self._config.partition is not None:
                number = pl.col("partition")
                unknown = here & ((number < 0) | (number >= limits.partitions))
                text = f"topic '{topic}' has no partition {{}}"
                reasons.append(pl.when(unknown).then(pl.format(text, number)))
            if limits.needs_key:
                text = f"it has no key, and topic '{topic}' keeps the last message of each key"
                reasons.append(pl.when(here & pl.col("key").is_null()).then(pl.lit(text)))
        return pl.coalesce([reason.otherwise(None) for reason in reasons])


def check_columns(config: KafkaDestinationConfig, step: str, schema: Schema) -> None:
    """Raises ConfigError (E0406, E0411) for a column that is not there, or has a type that cannot be used."""
    named = {
        "key": config.key,
        "headers": list(config.headers.values()),
        "timestamp": [config.timestamp] if config.timestamp else [],
        "partition": [config.partition] if config.partition else [],
        "topic": config.topic_columns,
    }
    for columns in named.values():
        need_columns(step, columns, schema)
    texts = [*named["headers"], *named["topic"]]
    if len(config.key) == 1 and config.key_format is None:
        texts += config.key
    for name in texts:
        type_ = schema[name]
        if type_.name not in _KEY_TYPES and "int" not in type_.name:
            raise _unfit_type(config, step, name, str(type_), "text")
    for name in named["timestamp"]:
        if schema[name].name != "timestamp":
            raise _unfit_type(config, step, name, str(schema[name]), "the time of a message")
    for name in named["partition"]:
        if "int" not in schema[name].name:
            raise _unfit_type(config, step, name, str(schema[name]), "the number of a partition")


def _unfit_type(
    config: KafkaDestinationConfig, step: str, name: str, type_: str, what: str
) -> ConfigError:
    return ConfigError(
        f"step '{step}' uses column '{name}', whose type {type_} cannot be {what}",
        code="E0406",
        step=step,
        help="cast it in a map step before",
    )


def _values(config: KafkaDestinationConfig, schema: Schema) -> Schema:
    """The columns of the values: all, but in the formats of one column those that are nothing else."""
    if config.value_format not in ("raw", "text"):
        return schema
    used: set[str | None] = {*config.key, *config.headers.values(), *config.topic_columns}
    used |= {config.timestamp, config.partition}
    return Schema(tuple(field for field in schema if field.name not in used))


def _cast(frame: pl.DataFrame, name: str | None, to: str, dtype: pl.DataType) -> pl.Series:
    if name is None:
        return _nulls(to, dtype, frame.height)
    return frame[name].cast(dtype).alias(to)


def _nulls(name: str, dtype: pl.DataType, rows: int) -> pl.Series:
    """`pl.repeat` makes a query, which takes 15 times as long for a few rows."""
    return _null(name, dtype).new_from_index(0, rows)


@cache
def _null(name: str, dtype: pl.DataType) -> pl.Series:
    return pl.Series(name, [None], dtype)


def _largest(values: pl.Series) -> int:
    """The number of bytes of the largest value."""
    if values.len() < _FEW:
        return max((len(value) for value in values.to_list() if value is not None), default=0)
    size: Any = values.bin.size().max() if values.null_count() < values.len() else 0
    return int(size or 0)


def _with_header(messages: pl.DataFrame, name: str, value: str) -> pl.DataFrame:
    """The messages with one more header, where they do not have it."""
    one = pl.lit([{"key": name, "value": value.encode()}], dtype=_HEADERS)
    names = pl.col("headers").list.eval(pl.element().struct.field("key"))
    has = pl.col("headers").is_not_null() & names.list.contains(name)
    empty = pl.lit([], dtype=_HEADERS)
    joined = pl.concat_list(pl.col("headers").fill_null(empty), one)
    return messages.with_columns(headers=pl.when(has).then(pl.col("headers")).otherwise(joined))


def _both(headers: pl.Series, more: pl.Series | None) -> pl.Series:
    """The headers of the options, and behind them those of the format."""
    if more is None:
        return headers
    empty = pl.lit([], dtype=_HEADERS)
    frame = pl.DataFrame([headers.alias("headers"), more.cast(_HEADERS).alias("more")])
    joined = pl.concat_list(pl.col("headers", "more").fill_null(empty))
    return frame.select(joined.alias("headers"))["headers"]


def _problems(bad: pl.DataFrame, height: int) -> pl.Series | None:
    """For each row why it cannot be encoded, or NULL."""
    if not bad.height:
        return None
    texts: list[str | None] = [None] * height
    for at, text in zip(bad["message"], bad["error"], strict=True):
        texts[at] = text
    return pl.Series(texts, dtype=pl.String)
