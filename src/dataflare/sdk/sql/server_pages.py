"""Readers of a server: the stream of one statement on a connection of its own, divided into pages.

Always true: a page's rows are those that follow the position, in the order of the key if there is one. If a
connection is lost and the rest can be read without losing or doubling a row, the error allows to open the part
again immediately; otherwise the job returns to its checkpoint.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import polars as pl

from dataflare.errors import DataFlareError
from dataflare.sdk.sql.config import Incremental
from dataflare.sdk.sql.incremental import State
from dataflare.sdk.sql.names import quoted
from dataflare.sdk.sql.originals import text_or_hex
from dataflare.sdk.sql.pages import Page
from dataflare.sdk.sql.relation import Reading
from dataflare.sdk.sql.server_errors import is_lost
from dataflare.sdk.sql.table_pages import CountedPages, NewRowsOfStream, StreamPages
from dataflare.sdk.threads import in_thread


class ServerPages(StreamPages):
    """What a connector says of its server. _db: the connection, once the stream is open."""

    def __init__(self, reading: Reading, start: Mapping[str, Any]) -> None:
        super().__init__(reading, start)
        self._db: Any = None

    @abstractmethod
    def errors(self) -> AbstractContextManager[None]:
        """Convert the library's exceptions inside into DataFlare's errors."""

    @abstractmethod
    def open_stream(self) -> Iterator[pl.DataFrame]:
        """Run `query` on a new connection, and keep the connection in `_db`. Its `abort` ends it from any thread;
        `abort` and `close` never raise."""

    @abstractmethod
    def typed(self, raw: pl.Series, column: Any) -> pl.Series:
        """The values with the column's type; NULL for one that does not fit."""

    @abstractmethod
    def part(self, data: Mapping[str, Any]) -> str:
        """The condition for the rows of a part. data: of its split."""

    def spelled(self, name: str) -> str:
        """A name as an identifier."""
        return quoted(name)

    def may_reopen(self) -> bool:
        """Whether `query`, run again now, returns exactly the rows that are not read yet."""
        return False

    def forget(self) -> None:
        """Drop the buffered rows."""
        self._frames.clear()

    def original(self, values: pl.Series, row: int) -> Any:
        if values.dtype == pl.Binary:
            return text_or_hex(values[row])
        return super().original(values, row)

    def decode(self, raw: pl.DataFrame, place: int, column: Any) -> tuple[pl.Series, pl.Series]:
        fetched = raw[f"c{place}"]
        values = self.typed(fetched, column)
        return values, values.is_null() & fetched.is_not_null()

    def pull(self) -> pl.DataFrame | None:
        try:
            with self.errors():
                if self._stream is None:
                    self._stream = self.open_stream()
                return next(self._stream, None)
        except DataFlareError as error:
            was_open = self._stream is not None
            self._close()
            # The buffered rows are after the position, so they are read again.
            self.forget()
            if was_open and is_lost(error) and self.may_reopen():
                # A new connection is enough: the first retry needs no policy and no wait.
                error.retry_after_s = 0.0
            raise

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


class KeyPages(ServerPages):
    """A part of a table in the order of its key, from the last key that was read. Combined with a class of
    ServerPages. The position is {"after": the key, "rows": how many were read}."""

    def __init__(self, reading: Reading, data: Mapping[str, Any], start: Mapping[str, Any]) -> None:
        super().__init__(reading, start or {"after": None, "rows": 0})
        self._data = data
        self._keys: dict[str, str] = {}
        self._key_columns: list[str] = []
        """Columns that are selected only for the position."""
        for place, name in enumerate(reading.relation.key):
            column, alias = reading.relation.column(name), f"__dataflare_k{place}"
            if column in reading.columns and self.shows(column):
                alias = f"c{reading.columns.index(column)}"
            else:
                self._key_columns.append(f"{self.key_sql(column)} as {alias}")
            self._keys[alias] = name

    def shows(self, column: Any) -> bool:
        """Whether the output has the column of the key in the form that the position needs."""
        return True

    def key_sql(self, column: Any) -> str:
        """A column of the key in SQL, for the position."""
        return self.spelled(column.name)

    @abstractmethod
    def key_json(self, value: Any) -> Any:
        """A fetched value of the key, for the position."""

    @abstractmethod
    def behind(self, key: Sequence[Any]) -> str:
        """The condition for the rows behind a key of a position."""

    def may_reopen(self) -> bool:
        return True

    def query(self) -> str:
        reading, relation = self._reading, self._reading.relation
        conditions = [self.part(self._data)]
        if self._after["after"] is not None:
            conditions.append(self.behind(self._after["after"]))
        return (
            f"select {', '.join([*self._key_columns, *reading.selects()])} from {relation.source} "
            f"where {self.where(*conditions)} order by {', '.join(map(self.spelled, relation.key))}"
        )

    def _fetch(self, rows: int) -> Page | None:
        raw = self.take(rows)
        if raw is None:
            return None
        before = int(self._after["rows"])
        last = [self.key_json(raw[alias][-1]) for alias in self._keys]
        return self.page(raw, {"after": last, "rows": before + raw.height}, before, self._keys)


class PartPages(CountedPages, ServerPages):
    """A part of a relation without a key. Combined with a class of ServerPages."""

    def __init__(self, reading: Reading, data: Mapping[str, Any], start: Mapping[str, Any]) -> None:
        super().__init__(reading, start or {"rows": 0})
        self._data = data

    def may_reopen(self) -> bool:
        return not self._after["rows"]

    def parts(self) -> tuple[Sequence[str], str]:
        return self._reading.selects(), self.where(self.part(self._data))


class NewRowsOfServer(NewRowsOfStream, ServerPages):
    """The rows since the last run, in order. Combined with a class of ServerPages."""

    def __init__(self, reading: Reading, config: Incremental, state: State) -> None:
        super().__init__(reading, state.to_json())
        column = reading.relation.column(config.column)
        self.watch(config, state, self.first_value(column, config.initial_value))

    @abstractmethod
    def first_value(self, column: Any, value: Any) -> Any:
        """The config's first value in the comparable form of cursors."""

    def may_reopen(self) -> bool:
        return self._row == 0

    def typed_cursor(self, values: pl.Series) -> pl.Series:
        return self.typed(values, self._column)

    def count(self, condition: str) -> int:
        with self.errors():
            return super().count(condition)


def key_text(value: bytes) -> Any:
    """A value of a key for the position: text, or the bytes in hexadecimal."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"hex": value.hex()}


def behind_key(names: Sequence[str], values: Sequence[str]) -> str:
    """The condition for rows behind a key, so that the server reads a range of its index: for two columns,
    k1 >= a and (k1 > a or (k1 = a and k2 > b))."""
    later = f"{names[-1]} > {values[-1]}"
    for name, value in zip(reversed(names[:-1]), reversed(values[:-1]), strict=True):
        later = f"({name} > {value} or ({name} = {value} and {later}))"
    return later if len(names) == 1 else f"{names[0]} >= {values[0]} and {later}"
