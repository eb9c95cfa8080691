"""From messages to the commands of Redis that write them."""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from dataflare.connectors.redis.destination_config import RedisDestinationConfig
from dataflare.formats.far_times import far_columns
from dataflare.formats.messages.contract import Encoded, Encoder, no_bad
from dataflare.formats.messages.fields import pack, unpack
from dataflare.formats.text_write import json_text, plain
from dataflare.model.types import Schema

Command = tuple[bytes | str | int, ...]


class FieldsEncoder(Encoder):
    """Rows to named fields of text, packed; bytes stay bytes, and NULL is left out."""

    def encode(self, rows: pl.DataFrame) -> Encoded:
        schema = Schema.from_polars(rows.schema)
        far = far_columns(rows, schema)
        columns = []
        for field in schema:
            value = pl.col(field.name)
            if field.type.name == "binary":
                columns.append(value)
                continue
            text = plain(value, field.type, far=field.name in far)
            if field.type.name in ("list", "struct"):
                text = json_text(text)
            columns.append(text.cast(pl.String).cast(pl.Binary).alias(field.name))
        cells = rows.select(columns)
        names = [name.encode() for name in cells.columns]
        values = [
            pack((name, cell) for name, cell in zip(names, row, strict=True) if cell is not None)
            for row in cells.iter_rows()
        ]
        return Encoded(pl.Series(values, dtype=pl.Binary), no_bad())


def commands_of(config: RedisDestinationConfig, messages: pl.DataFrame) -> Iterator[Command]:
    """The commands for each message, in order. messages: as `sdk.brokers.rows.MESSAGES`."""
    for target, value, is_delete in messages.select("target", "value", "is_delete").iter_rows():
        if is_delete or config.kind == "hash":
            yield ("DEL", target)
        if not is_delete:
            yield from _written(config, target, value)


def transaction_of(config: RedisDestinationConfig, messages: pl.DataFrame) -> Iterator[Command]:
    """Fewer commands that leave the same behind. Only in a transaction, because it deletes all keys first.
    Each command has two answers there, and these took half of the time of an epoch of hashes."""
    if config.kind not in ("hash", "json"):
        yield from commands_of(config, messages)
        return
    last = messages.unique("target", keep="last", maintain_order=True)
    cleared = last if config.kind == "hash" else last.filter("is_delete")
    if cleared.height:
        yield ("DEL", *cleared["target"])
    kept = last.filter(~pl.col("is_delete")).select("target", "value")
    for target, value in kept.iter_rows():
        yield from _written(config, target, value)


def _written(config: RedisDestinationConfig, target: str, value: bytes) -> Iterator[Command]:
    """What writes a message that is not a delete; a hash is empty before it."""
    ttl = None if config.ttl is None else int(config.ttl)
    match config.kind:
        case "stream":
            limit: Command = () if config.maxlen is None else ("MAXLEN", "~", config.maxlen)
            fields = _flat(value) if config.field is None else (config.field, value)
            yield ("XADD", target, *limit, "*", *fields)
        case "list":
            yield ("RPUSH", target, value)
        case "hash":
            yield ("HSET", target, *_flat(value))
            if ttl is not None:
                yield ("EXPIRE", target, ttl)
        case "json":
            yield ("SET", target, value, *(() if ttl is None else ("EX", ttl)))


def _flat(value: bytes) -> Command:
    return tuple(part for pair in unpack(value) for part in pair)


def unfit(config: RedisDestinationConfig) -> list[pl.Expr]:
    """Why a message cannot be written, or NULL."""
    is_kept = ~pl.col("is_delete")
    reasons: list[pl.Expr] = [
        pl.when(is_kept & pl.col("value").is_null()).then(pl.lit("its value is NULL")),
        pl.when(pl.col("target") == "").then(pl.lit("its key is empty")),
    ]
    if config.kind == "hash" or (config.kind == "stream" and config.field is None):
        empty = pl.col("value") == pl.lit(pack(()))
        reasons.append(pl.when(is_kept & empty).then(pl.lit("all its columns are NULL")))
    return reasons
