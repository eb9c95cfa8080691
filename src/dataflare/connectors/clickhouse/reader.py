"""Read a part of a table, or a query, of ClickHouse.

Always true: a sorting key need not be unique, so the position moves on only where the key changes, and no
checkpoint is cut between rows with the same key.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import polars as pl
from msgspec.structs import replace

from dataflare.connectors.clickhouse.connection import Client, Server, literal
from dataflare.connectors.clickhouse.decode import decoded
from dataflare.connectors.clickhouse.errors import clickhouse_errors
from dataflare.connectors.clickhouse.relation import Column, KeyPart
from dataflare.connectors.clickhouse.shards import condition
from dataflare.connectors.clickhouse.types import escaped
from dataflare.sdk.source import Chunk, SourceBatch
from dataflare.sdk.sql import relation as relations
from dataflare.sdk.sql.pages import Page
from dataflare.sdk.sql.relation import with_values
from dataflare.sdk.sql.server_pages import PartPages, ServerPages, behind_key, key_text

_KEY = "__dataflare_k"


class Reading(relations.Reading, frozen=True, kw_only=True):
    """The columns and rows to read: the same for each part of a source."""

    server: Server

    def where(self, *conditions: str) -> str:
        """All conditions. A text that is not UTF-8 passes, because it is a row error."""
        every = [f"({each})" for each in conditions if each]
        if self.filters:
            texts = [c.name for c in self.relation.columns if c.kind.bare.name == "String"]
            pushed = " and ".join(f"({with_values(each, literal)})" for each in self.filters)
            invalid = [
                f"not isValidUTF8({escaped(name)})" for name in texts if escaped(name) in pushed
            ]
            every.append(f"({' or '.join([f'({pushed})', *invalid])})")
        return " and ".join(every) or "1"


class ClickhousePages(ServerPages):
    _reading: Reading

    def errors(self) -> AbstractContextManager[None]:
        return clickhouse_errors(self._reading.server.label, self._reading.relation.label)

    def open_stream(self) -> Iterator[pl.DataFrame]:
        self._db = client = Client(self._reading.server)
        return client.stream(self.query())

    def number(self, sql: str) -> int:
        client = Client(self._reading.server)
        try:
            [(number,)] = client.rows(sql)
        finally:
            client.close()
        return int(number)

    def typed(self, raw: pl.Series, column: Column) -> pl.Series:
        return decoded(raw, column.type, as_text=column.as_text)

    def part(self, data: Mapping[str, Any]) -> str:
        return condition(data, self._reading.relation)

    def advice(self, column: Any, value: Any) -> str:
        match column.type.name:
            case "string" | "json":
                return f"; schema: {{{column.name}: binary}} reads bytes that are not UTF-8"
            case "time":
                return f"; schema: {{{column.name}: string}} reads it as text"
        return ""


class KeyReader(ClickhousePages):
    """A part of a table in the order of its sorting key, from the last key that was read whole."""

    def __init__(self, reading: Reading, data: Mapping[str, Any], start: Mapping[str, Any]) -> None:
        super().__init__(reading, start or {"after": None, "rows": 0})
        self._data = data
        self._parts: Sequence[KeyPart] = reading.relation.parts
        self._rows = int(self._after["rows"])
        """Rows that were read."""
        self._cut = True
        self._next_page: pl.DataFrame | None = None

    def may_reopen(self) -> bool:
        # Rows with one key that were read already are behind the position.
        return self._cut

    def forget(self) -> None:
        super().forget()
        self._next_page = None

    def query(self) -> str:
        reading, relation = self._reading, self._reading.relation
        keys = [f"{part.text()} as {_KEY}{at}" for at, part in enumerate(self._parts)]
        conditions = [self.part(self._data)]
        if self._after["after"] is not None:
            key = zip(self._parts, self._after["after"], strict=True)
            values = [part.value(value) for part, value in key]
            conditions.append(behind_key([part.sql for part in self._parts], values))
        return (
            f"select {', '.join([*keys, *reading.selects()])} from {relation.source} "
            f"where {self.where(*conditions)} order by "
            + ", ".join(part.sql for part in self._parts)
        )

    def _fetch(self, rows: int) -> Page | None:
        raw = self._next_page if self._next_page is not None else self.take(rows)
        self._next_page = None
        if raw is None:
            return None
        names = [f"{_KEY}{at}" for at in range(len(self._parts))]
        if raw.height > rows:
            self._next_page, raw = raw.slice(rows), raw.head(rows)
        else:
            self._next_page = self.take(rows)
        behind = self._next_page
        keys = raw.select(names)
        last = keys.row(-1)
        self._cut = behind is None or behind.select(names).row(0) != last
        position = self._after["after"]
        if self._cut:
            position = [key_text(value) for value in last]
        else:
            # The last key of this page goes on behind it: the position is the key before.
            same = pl.all_horizontal(
                pl.col(name) == value for name, value in zip(names, last, strict=True)
            )
            earlier = keys.filter(~same)
            if earlier.height:
                position = [key_text(value) for value in earlier.row(-1)]
        before, self._rows = self._rows, self._rows + raw.height
        shown = {name: part.sql for name, part in zip(names, self._parts, strict=True)}
        return self.page(raw, {"after": position, "rows": self._rows}, before, shown)

    async def read_chunk(self) -> Chunk:
        chunk = await super().read_chunk()
        return replace(chunk, may_cut=self._cut)

    async def read_batch(self, rows_max: int) -> SourceBatch:
        batch = await super().read_batch(rows_max)
        batch.may_cut = self._cut
        return batch


class StreamReader(PartPages, ClickhousePages):
    """Relations without a key: a query, a view, a table without an order."""
