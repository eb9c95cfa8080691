"""Read a table of an LMDB file, in the order of its keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
from dataflare_lmdb import (
    environment,
    in_table,
    lmdb_errors,
    schema_of,
    stored_dtype,
    table_names,
    unpack,
)
from pydantic import BaseModel, ConfigDict, Field

from dataflare.model.batch import SharedDataBatch
from dataflare.model.progress import Position, Split
from dataflare.model.types import Schema
from dataflare.sdk.source import (
    EndOfSplit,
    Replay,
    SourceCapabilities,
    SourceConnector,
    SplitReader,
)
from dataflare.sdk.sql import missing_file, missing_table
from dataflare.sdk.threads import in_thread


class LmdbSourceConfig(BaseModel):
    model_config = ConfigDict(extra="forbid")

    path: str = Field(description="the LMDB file")
    table: str = Field(min_length=1, description="the table to read")


class LmdbSource(SourceConnector):
    """Rows in the order of their keys."""

    type = "lmdb"
    Config = LmdbSourceConfig
    summary = "Reads a table of an LMDB file."

    config: LmdbSourceConfig

    def capabilities(self) -> SourceCapabilities:
        return SourceCapabilities(Replay.BY_KEY, "rows after the last key are read", local=True)

    async def validate(self) -> None:
        await self.schema()

    async def schema(self) -> Schema:
        return await in_thread(self._schema)

    def _schema(self) -> Schema:
        path, table = self.context.path(self.config.path), self.config.table
        if not path.exists():
            raise missing_file(path).at(step=self.context.step)
        with lmdb_errors(path), environment(path).begin() as transaction:
            schema = schema_of(transaction, table)
            if schema is None:
                names = table_names(transaction)
                raise missing_table(table, path, names).at(step=self.context.step)
            return schema

    async def splits(self, carried: Mapping[str, Any] | None = None) -> Sequence[Split]:
        return [Split("rows-0")]

    async def open(self, split: Split, position: Position | None) -> SplitReader:
        after = bytes.fromhex(position.value["after"]) if position else b""
        path = self.context.path(self.config.path)
        return LmdbReader(path, self.config.table, await self.schema(), after)


class LmdbReader(SplitReader):
    """after: the last key that was read."""

    def __init__(self, path: Path, table: str, schema: Schema, after: bytes) -> None:
        self._path, self._prefix, self._schema, self._after = path, in_table(table), schema, after

    async def read_batch(self, rows_max: int) -> SharedDataBatch:
        frame = await in_thread(self.read, rows_max)
        if not frame.height:
            raise EndOfSplit
        return SharedDataBatch(frame)

    def read(self, rows_max: int) -> pl.DataFrame:
        rows: list[Any] = []
        with lmdb_errors(self._path), environment(self._path).begin() as transaction:
            cursor = transaction.cursor()
            more = cursor.set_range(self._after or self._prefix)
            if more and self._after and bytes(cursor.key()) == self._after:
                more = cursor.next()
            while more and len(rows) < rows_max and bytes(cursor.key()).startswith(self._prefix):
                self._after = bytes(cursor.key())
                rows.append(unpack(cursor.value()))
                more = cursor.next()
        width = len(self._schema.names)
        rows = [[*row[:width], *[None] * (width - len(row))] for row in rows]
        return pl.DataFrame(
            [
                pl.Series(f.name, [row[at] for row in rows], stored_dtype(f.type)).cast(
                    f.type.to_polars()
                )
                for at, f in enumerate(self._schema)
            ]
        )

    def position(self) -> Position:
        return Position({"after": self._after.hex()})


def read_table(path: Path, table: str) -> pl.DataFrame:
    """All rows of a table, for a notebook or a test."""
    with lmdb_errors(path), environment(path).begin() as transaction:
        schema = schema_of(transaction, table)
    if schema is None:
        raise missing_table(table, path, [])
    return LmdbReader(path, table, schema, b"").read(2**62)
