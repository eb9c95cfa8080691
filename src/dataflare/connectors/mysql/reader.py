"""Read a part of a table, or a query, as the stream of one statement, divided into pages.

Always true: a page's rows are those that follow the position, in the order of the key if there is one. A part
sees the table as it is when its reading begins. If a connection is lost and the rest can be read without
losing or doubling a row, the error allows to open the part again immediately; otherwise the job returns to its
checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import polars as pl

from dataflare.connectors.mysql.connection import Db, Server, literal
from dataflare.connectors.mysql.decode import decoded
from dataflare.connectors.mysql.errors import is_lost, mysql_errors
from dataflare.connectors.mysql.relation import Column, backticked
from dataflare.connectors.mysql.shards import condition
from dataflare.errors import DataFlareError
from dataflare.sdk.sql import relation as relations
from dataflare.sdk.sql.originals import text_or_hex
from dataflare.sdk.sql.pages import Page
from dataflare.sdk.sql.table_pages import CountedPages, StreamPages
from dataflare.sdk.threads import in_thread

if TYPE_CHECKING:
    from dataflare.expr.sql import SqlText


class Reading(relations.Reading, frozen=True, kw_only=True):
    """The columns and rows to read: the same for each part of a source."""

    server: Server

    def where(self, *conditions: str) -> str:
        """All conditions."""
        every = [c for c in conditions if c] + [f"({_with_values(each)})" for each in self.filters]
        return " and ".join(every) or "true"

    def selects(self) -> list[str]:
        """Output column i as `c<i>`."""
        return [f"{column.selected()} as c{place}" for place, column in enumerate(self.columns)]


def _with_values(condition: SqlText) -> str:
    pieces = condition.text.split("?")
    parts = [pieces[0]]
    for value, piece in zip(condition.params, pieces[1:], strict=True):
        parts.append(literal(value) + piece)
    return "".join(parts)


class MysqlPages(StreamPages):
    """One statement in a transaction of its own."""

    _reading: Reading

    def __init__(self, reading: Reading, start: Mapping[str, Any]) -> None:
        super().__init__(reading, start)
        self._db: Db | None = None

    def _may_reopen(self) -> bool:
        """Whether `query`, run again now, returns exactly the rows that are not read yet."""
        return False

    def original(self, values: pl.Series, row: int) -> Any:
        return text_or_hex(values[row]) if values.dtype == pl.Binary else values[row]

    def advice(self, column: Any, value: Any) -> str:
        match column.type.name:
            case "bool":
                return f"; schema: {{{column.name}: int8}} reads other numbers than 0 and 1"
            case "time":
                return f"; schema: {{{column.name}: duration}} reads more than a day"
            case "date" | "timestamp":
                return f"; schema: {{{column.name}: string}} reads it as text"
        return ""

    async def aclose(self) -> None:
        # Do not wait for a statement that runs for minutes.
        db = self._db
        if db is not None:
            await in_thread(db.abort)
        await super().aclose()

    def _close(self) -> None:
        db, self._db, self._stream = self._db, None, None
        if db is not None:
            db.close()

    def pull(self) -> pl.DataFrame | None:
        reading = self._reading
        try:
            with mysql_errors(reading.server.label, reading.relation.label):
                if self._stream is None:
                    self._stream = self._open()
                return next(self._stream, None)
        except DataFlareError as error:
            was_open = self._stream is not None
            self._close()
            # The buffered rows are after the position, so they are read again.
            self._frames.clear()
            if was_open and is_lost(error) and self._may_reopen():
                # A new connection is enough: the first retry needs no policy and no wait.
                error.retry_after_s = 0.0
            raise

    def _open(self) -> Iterator[pl.DataFrame]:
        reading = self._reading
        self._db = db = reading.server.connect(f"dataflare {reading.step}")
        db.run("set session transaction isolation level repeatable read")
        db.run("start transaction with consistent snapshot, read only")
        return db.stream(self.query())

    def decode(self, raw: pl.DataFrame, place: int, column: Column) -> tuple[pl.Series, pl.Series]:
        fetched = raw[f"c{place}"]
        values = decoded(fetched, column.type, as_text=column.as_text)
        return values, values.is_null() & fetched.is_not_null()


class KeyReader(MysqlPages):
    """A part of a table in the order of its key, from the last key that was read."""

    def __init__(self, reading: Reading, data: Mapping[str, Any], start: Mapping[str, Any]) -> None:
        super().__init__(reading, start or {"after": None, "rows": 0})
        self._data = data
        self._keys: dict[str, str] = {}
        self._key_columns: list[str] = []
        """Columns that are selected only for the position."""
        for place, name in enumerate(reading.relation.key):
            column, alias = reading.relation.column(name), f"__dataflare_k{place}"
            if column in reading.columns:
                alias = f"c{reading.columns.index(column)}"
            else:
                self._key_columns.append(f"{backticked(name)} as {alias}")
            self._keys[alias] = name

    def _may_reopen(self) -> bool:
        return True

    def query(self) -> str:
        reading, relation = self._reading, self._reading.relation
        conditions = [condition(self._data, relation)]
        if self._after["after"] is not None:
            conditions.append(after(relation, self._after["after"]))
        return (
            f"select {', '.join([*self._key_columns, *reading.selects()])} from {relation.source} "
            f"where {reading.where(*conditions)} order by "
            + ", ".join(map(backticked, relation.key))
        )

    def _fetch(self, rows: int) -> Page | None:
        raw = self.take(rows)
        if raw is None:
            return None
        before = int(self._after["rows"])
        last = [_key_text(raw[alias][-1]) for alias in self._keys]
        return self.page(raw, {"after": last, "rows": before + raw.height}, before, self._keys)


def _key_text(value: bytes) -> Any:
    """A value of a key for the position: text, or the bytes in hexadecimal."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"hex": value.hex()}


def _key_value(column: Column, text: Any) -> str:
    """A value of the position as SQL, of the type of its column: text would be compared as a float."""
    value = bytes.fromhex(text["hex"]) if isinstance(text, Mapping) else text
    if column.type.name == "binary":
        return literal(value if isinstance(value, bytes) else value.encode())
    if column.type.is_integer or column.type.name == "decimal":
        return str(value)
    return literal(value)


def after(relation: Any, texts: Sequence[Any]) -> str:
    """The condition for rows after a key, so that the server reads a range of its index: for two columns,
    k1 >= a and (k1 > a or (k1 = a and k2 > b))."""
    columns = [relation.column(name) for name in relation.key]
    names = [backticked(column.name) for column in columns]
    values = [_key_value(c, text) for c, text in zip(columns, texts, strict=True)]
    later = f"{names[-1]} > {values[-1]}"
    for name, value in zip(reversed(names[:-1]), reversed(values[:-1]), strict=True):
        later = f"({name} > {value} or ({name} = {value} and {later}))"
    return later if len(names) == 1 else f"{names[0]} >= {values[0]} and {later}"


class StreamReader(CountedPages, MysqlPages):
    """Relations without a key: a query, a view."""

    def __init__(self, reading: Reading, data: Mapping[str, Any], start: Mapping[str, Any]) -> None:
        super().__init__(reading, start or {"rows": 0})
        self._data = data

    def _may_reopen(self) -> bool:
        return not self._after["rows"]

    def query(self) -> str:
        text = super().query()
        # OFFSET needs a LIMIT here.
        return text.replace(" offset ", f" limit {2**63} offset ") if self._after["rows"] else text

    def parts(self) -> tuple[Sequence[str], str]:
        reading = self._reading
        return reading.selects(), reading.where(condition(self._data, reading.relation))
