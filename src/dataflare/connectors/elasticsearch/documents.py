"""Rows as the lines of a bulk request, columnar.

Always true: of the rows that are made at once, each _id of an index comes once, so that documents which the server has
to be given again later are never older than what it has.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from datetime import UTC, datetime

import orjson
import polars as pl
from msgspec import Struct, field

from dataflare.connectors.elasticsearch.config import ElasticsearchDestinationConfig
from dataflare.connectors.elasticsearch.index_names import index_of, is_allowed
from dataflare.connectors.elasticsearch.types import METADATA
from dataflare.formats.text_write import NdjsonText, plain
from dataflare.model.batch import KIND_COLUMN
from dataflare.model.types import INT64, RESERVED, DataType, Schema
from dataflare.sdk.sql.fold import OP_COLUMN, fold, rows_to_append

_INDEX, _ID, _VERSION = f"{RESERVED}index", f"{RESERVED}id", f"{RESERVED}version"
WHY = f"{RESERVED}why"
_ID_MAX = 512


class Documents(Struct):
    """items: the lines of each document. rows: theirs, in the same order. indexes: those they go to. refused: rows
    that cannot be documents, with the reason in `WHY`. left: the places of the items that no server has taken yet."""

    items: Sequence[bytes]
    rows: pl.DataFrame
    indexes: Sequence[str]
    refused: pl.DataFrame
    left: list[int] = field(default_factory=list)


class DocumentMaker:
    """schema: of the rows."""

    def __init__(self, config: ElasticsearchDestinationConfig, schema: Schema) -> None:
        self._config = config
        self._marks = config.deleted_at
        names = [name for name in schema.names if name not in METADATA]
        names += [] if self._marks is None else [self._marks]
        self._fields = [*names, OP_COLUMN] if config.changelog else names
        self._names = schema.names
        self._index = index_of(config, schema).alias(_INDEX)
        self._id = _id_of(config.ids, schema)
        sequence = config.sequence
        self._version = None if sequence is None else _version_of(sequence, schema[sequence])

    def make(self, frame: pl.DataFrame) -> Documents:
        """The documents of some rows."""
        marked = self._marked(frame)
        refused = marked.filter(pl.col(WHY).is_not_null()).select(*self._names, WHY)
        good = (
            marked.filter(pl.col(WHY).is_null()).drop(WHY) if refused.height else marked.drop(WHY)
        )
        writes, deletes = self._folded(good)
        if self._config.op == "delete":
            writes, deletes = writes.clear(), writes
        items = self._deletions(deletes)
        if self._marks is not None:
            writes = writes.with_columns(pl.lit(None, pl.Null).alias(self._marks))
        if writes.height:
            pairs = zip(self._actions(self._config.op, writes), self._sources(writes), strict=True)
            items += [action + source for action, source in pairs]
        rows = pl.concat([deletes.select(self._names), writes.select(self._names)])
        indexes = pl.concat([deletes[_INDEX], writes[_INDEX]]).unique().sort().to_list()
        return Documents(items, rows, indexes, refused, list(range(len(items))))

    def _marked(self, frame: pl.DataFrame) -> pl.DataFrame:
        """The rows with index, _id and version, and why they cannot be documents."""
        frame = frame.with_columns(self._index)
        columns = ", ".join(self._config.index_columns)
        whys = [
            pl.when(pl.col(_INDEX).is_null()).then(
                pl.lit(f"the name of its index is NULL, because of {columns}")
            ),
            pl.when(~is_allowed(pl.col(_INDEX))).then(
                pl.lit("no index can have the name '") + pl.col(_INDEX) + pl.lit("'")
            ),
        ]
        if self._id is not None:
            frame = frame.with_columns(self._id.alias(_ID))
            size = pl.col(_ID).str.len_bytes()
            whys += [
                pl.when(pl.col(_ID).is_null()).then(
                    pl.lit(f"it has no _id: {', '.join(self._config.ids)} is NULL")
                ),
                pl.when(size == 0).then(pl.lit("its _id is an empty text")),
                pl.when(size > _ID_MAX).then(
                    pl.format("its _id has {} bytes, and at most 512 are allowed", size)
                ),
            ]
        if self._version is not None:
            frame = frame.with_columns(self._version.alias(_VERSION))
            name = self._config.sequence
            whys += [
                pl.when(pl.col(_VERSION).is_null()).then(
                    pl.lit(f"it has no version: {name} is NULL, or too great")
                ),
                pl.when(pl.col(_VERSION) < 0).then(
                    pl.lit(f"its version is below 0: {name} is ") + pl.col(_VERSION).cast(pl.String)
                ),
            ]
        return frame.with_columns(pl.coalesce(whys).alias(WHY))

    def _folded(self, frame: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
        """The rows to write and those to delete, each _id of an index once."""
        config = self._config
        if config.mode == "append":
            frame = rows_to_append(frame, op=config.changelog is not None)
        if self._id is None:
            return frame, frame.clear()
        if config.op == "create":
            frame = frame.unique(subset=[_INDEX, _ID], keep="first", maintain_order=True)
            return frame, frame.clear()
        version = None if self._version is None else _VERSION
        if KIND_COLUMN not in frame.columns and version is None:
            frame = frame.unique(subset=[_INDEX, _ID], keep="last", maintain_order=True)
            return frame, frame.clear()
        changes = fold(frame, [_INDEX, _ID], deletes=config.mode == "mirror", sequence=version)
        return changes.upserts, changes.deletes

    def _actions(self, op: str, frame: pl.DataFrame) -> list[bytes]:
        """The first line of each document."""
        parts = [pl.col(_INDEX).alias("_index")]
        if self._id is not None:
            parts.append(pl.col(_ID).alias("_id"))
        if self._version is not None:
            parts += [pl.col(_VERSION).alias("version"), pl.lit("external").alias("version_type")]
        if self._config.routing is not None:
            parts.append(pl.col(self._config.routing).cast(pl.String).alias("routing"))
        if op == "update":
            parts.append(pl.lit(3).alias("retry_on_conflict"))
        return _lines(frame.select(pl.struct(parts).alias(op)))

    def _deletions(self, frame: pl.DataFrame) -> list[bytes]:
        """The lines that delete documents, or mark them."""
        if self._marks is None or not frame.height:
            return self._actions("delete", frame)
        source = marking(self._marks)
        return [action + source for action in self._actions("update", frame)]

    def _sources(self, frame: pl.DataFrame) -> list[bytes]:
        """The second line of each document."""
        if not self._fields:
            sources = [b"{}\n"] * frame.height
        else:
            text = NdjsonText().encode(frame.select(self._fields))
            sources = text.splitlines(keepends=True) if b"\r" not in text else _cut(text)
        if self._config.op != "update":
            return sources
        # A mirror knows the documents that it has written by the number of the write, so each is one.
        noop = b',"detect_noop":false' if self._config.mode == "mirror" else b""
        end = b',"doc_as_upsert":true' + noop + b"}\n"
        return [b'{"doc":' + line[:-1] + end for line in sources]


def marking(column: str) -> bytes:
    """The line behind an update's that lets a document stay as a deleted one, with the time in a field."""
    now = datetime.now(UTC).isoformat(timespec="microseconds")
    return orjson.dumps({"doc": {column: now}}) + b"\n"


def _lines(frame: pl.DataFrame) -> list[bytes]:
    out = io.BytesIO()
    frame.lazy().sink_ndjson(out)
    return _cut(out.getvalue())


def _cut(text: bytes) -> list[bytes]:
    """Lines with their ends; only a line feed ends one."""
    return [line + b"\n" for line in text.split(b"\n")[:-1]]


def _id_of(columns: Sequence[str], schema: Schema) -> pl.Expr | None:
    """The _id of each row; NULL where a column of it is NULL."""
    if not columns:
        return None
    texts = {name: _text_of(name, schema[name]) for name in columns}
    if len(columns) == 1:
        return texts[columns[0]]
    whole = pl.struct(texts[name].alias(name) for name in columns).struct.json_encode()
    # A struct of texts is an object: its values alone are the list.
    pairs = pl.concat_list(texts[name] for name in columns)
    listed = pl.struct(pairs.alias("v")).struct.json_encode().str.slice(5)
    listed = listed.str.head(listed.str.len_chars() - 1)
    empty = pl.any_horizontal(pl.col(name).is_null() for name in columns)
    return pl.when(~empty & whole.is_not_null()).then(listed)


def _text_of(name: str, type_: DataType) -> pl.Expr:
    return plain(pl.col(name), type_, far=type_.is_temporal).cast(pl.String)


def _version_of(name: str, type_: DataType) -> pl.Expr:
    """A column as the number that a version is; times in microseconds."""
    value = pl.col(name)
    if type_.name == "date":
        value = value.cast(pl.Int32)
    elif type_.name == "timestamp":
        value = value.to_physical()
    return value.cast(INT64.to_polars(), strict=False)
