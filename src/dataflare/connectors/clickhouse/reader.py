"""Read a part of a table, or a query, as the stream of one statement, divided into pages.

Always true: a page's rows are those that follow the position, in the order of the sorting key if there is one.
A sorting key need not be unique: the position moves on only where the key changes, and no checkpoint is cut
between rows with the same key. If a connection is lost and the rest can be read without losing or doubling a
row, the error allows to open the part again immediately; otherwise the job returns to its checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import polars as pl
from msgspec.structs import replace

from dataflare.connectors.clickhouse.connection import Client, Server, literal
from dataflare.connectors.clickhouse.decode import decoded
from dataflare.connectors.clickhouse.errors import clickhouse_errors, is_lost
from dataflare.connectors.clickhouse.relation import Column, KeyPart
from dataflare.connectors.clickhouse.shards import condition
from dataflare.connectors.clickhouse.types import escaped
from dataflare.errors import DataFlareError
from dataflare.sdk.source import Chunk, SourceBatch
from dataflare.sdk.sql import relation as relations
from dataflare.sdk.sql.originals import text_or_hex
from dataflare.sdk.sql.pages import Page
from dataflare.sdk.sql.table_pages import CountedPages, StreamPages
from dataflare.sdk.threads import in_thread

if TYPE_CHECKING:
    from dataflare.expr.sql import SqlText

_KEY = "__dataflare_k"


class Reading(relations.Reading, frozen=True, kw_only=True):
    """The columns and rows to read: the same for each part of a source."""

    server: Server

    def where(self, *conditions: str) -> str:
        """All conditions. A text that is not UTF-8 passes, because it is a row error."""
        every = [f"({each})" for each in conditions if each]
        if self.filters:
            texts = [c.name for c in self.relation.columns if c.kind.bare.name == "String"]
            pushed = " and ".join(f"({with_values(each)})" for each in self.filters)
            invalid = [
                f"not isValidUTF8({escaped(name)})" for name in texts if escaped(name) in pushed
            ]
            every.append(f"({' or '.join([f'({pushed})', *invalid])})")
        return " and ".join(every) or "1"

    def selects(self) -> list[str]:
        """Output column i as `c<i>`."""
        return [f"{column.selected()} as c{place}" for place, column in enumerate(self.columns)]


def with_values(condition: SqlText) -> str:
    pieces = condition.text.split("?")
    parts = [pieces[0]]
    for value, piece in zip(condition.params, pieces[1:], strict=True):
        parts.append(literal(value) + piece)
    return "".join(parts)


class ClickhousePages(StreamPages):
    """The stream of one statement."""

    _reading: Reading

    def __init__(self, reading: Reading, start: Mapping[str, Any]) -> None:
        super().__init__(reading, start)
        self._client: Client | None = None

    def _may_reopen(self) -> bool:
        """Whether `query`, run again now, returns exactly the rows that are not read yet."""
        return False

    def original(self, values: pl.Series, row: int) -> Any:
        if values.dtype == pl.Binary:
            return text_or_hex(values[row])
        return super().original(values, row)

    def advice(self, column: Any, value: Any) -> str:
        match column.type.name:
            case "string" | "json":
                return f"; schema: {{{column.name}: binary}} reads bytes that are not UTF-8"
            case "time":
                return f"; schema: {{{column.name}: string}} reads it as text"
        return ""

    async def aclose(self) -> None:
        # Do not wait for a statement that runs for minutes.
        client = self._client
        if client is not None:
            await in_thread(client.abort)
        await super().aclose()

    def _close(self) -> None:
        client, self._client, self._stream = self._client, None, None
        if client is not None:
            client.close()

    def pull(self) -> pl.DataFrame | None:
        reading = self._reading
        try:
            with clickhouse_errors(reading.server.label, reading.relation.label):
                if self._stream is None:
                    self._stream = self._open()
                return next(self._stream, None)
        except DataFlareError as error:
            was_open = self._stream is not None
            self._close()
            # The buffered rows are after the position, so they are read again.
            self._forget()
            if was_open and is_lost(error) and self._may_reopen():
                # A new connection is enough: the first retry needs no policy and no wait.
                error.retry_after_s = 0.0
            raise

    def _forget(self) -> None:
        self._frames.clear()

    def _open(self) -> Iterator[pl.DataFrame]:
        self._client = client = Client(self._reading.server)
        return client.stream(self.query())

    def decode(self, raw: pl.DataFrame, place: int, column: Column) -> tuple[pl.Series, pl.Series]:
        fetched = raw[f"c{place}"]
        values = decoded(fetched, column.type, as_text=column.as_text)
        return values, values.is_null() & fetched.is_not_null()


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

    def _may_reopen(self) -> bool:
        # Rows with one key that were read already are behind the position.
        return self._cut

    def _forget(self) -> None:
        super()._forget()
        self._next_page = None

    def query(self) -> str:
        reading, relation = self._reading, self._reading.relation
        keys = [f"{part.text()} as {_KEY}{at}" for at, part in enumerate(self._parts)]
        conditions = [condition(self._data, relation)]
        if self._after["after"] is not None:
            conditions.append(after(self._parts, self._after["after"]))
        return (
            f"select {', '.join([*keys, *reading.selects()])} from {relation.source} "
            f"where {reading.where(*conditions)} order by "
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
            position = [_key_text(value) for value in last]
        else:
            # The last key of this page goes on behind it: the position is the key before.
            same = pl.all_horizontal(
                pl.col(name) == value for name, value in zip(names, last, strict=True)
            )
            earlier = keys.filter(~same)
            if earlier.height:
                position = [_key_text(value) for value in earlier.row(-1)]
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


def _key_text(value: bytes) -> Any:
    """A value of a key for the position: text, or the bytes in hexadecimal."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"hex": value.hex()}


def after(parts: Sequence[KeyPart], texts: Sequence[Any]) -> str:
    """The condition for rows after a key, so that the server reads a range of its index: for two parts,
    k1 >= a and (k1 > a or (k1 = a and k2 > b))."""
    values = [part.value(text) for part, text in zip(parts, texts, strict=True)]
    names = [part.sql for part in parts]
    later = f"{names[-1]} > {values[-1]}"
    for name, value in zip(reversed(names[:-1]), reversed(values[:-1]), strict=True):
        later = f"({name} > {value} or ({name} = {value} and {later}))"
    return later if len(names) == 1 else f"{names[0]} >= {values[0]} and {later}"


class StreamReader(CountedPages, ClickhousePages):
    """Relations without a key: a query, a view, a table without an order."""

    def __init__(self, reading: Reading, data: Mapping[str, Any], start: Mapping[str, Any]) -> None:
        super().__init__(reading, start or {"rows": 0})
        self._data = data

    def _may_reopen(self) -> bool:
        return not self._after["rows"]

    def parts(self) -> tuple[Sequence[str], str]:
        reading = self._reading
        return reading.selects(), reading.where(condition(self._data, reading.relation))
