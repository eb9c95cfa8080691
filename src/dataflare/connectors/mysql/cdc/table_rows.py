"""The rows of tables as they were at a place of the log.

Always true: the rows are those of all transactions before the place, and of no other; no lock is held.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import polars as pl
import pymysql

from dataflare.connectors.mysql.cdc.checks import located
from dataflare.connectors.mysql.cdc.images import Flags
from dataflare.connectors.mysql.cdc.place import Place
from dataflare.connectors.mysql.connection import Db, Server, literal
from dataflare.connectors.mysql.errors import number_of
from dataflare.connectors.mysql.reader import KeyReader, MysqlPages, Reading, StreamReader
from dataflare.connectors.mysql.relation import Relation, backticked

_NO_TABLE = 1146
_NUMBER = "__dataflare_n"
_KEYS = 500
"""How many keys the server compares with one statement."""


class Snapshot:
    """A transaction that sees the database as it is when this is made. Raises pymysql's errors."""

    def __init__(self, server: Server, step: str) -> None:
        self.db: Db = server.connect(f"dataflare {step}")
        try:
            # With it, MariaDB compares the text of a union by another collation than that of its column.
            self.db.run("set session optimizer_switch = 'condition_pushdown_for_derived=off'")
            self.db.run("set session transaction isolation level repeatable read")
            self.db.run("start transaction with consistent snapshot, read only")
            status = dict(self.db.rows("show status like 'binlog_snapshot%'"))
            file, offset = status["Binlog_snapshot_file"], int(status["Binlog_snapshot_position"])
            self.place: Place = located(self.db, file, offset)
        except BaseException:
            self.db.close()
            raise

    def hold(self, relation: Relation) -> None:
        """From here on the table keeps its columns until the snapshot ends. One that is not there is left alone."""
        try:
            self.db.rows(f"select 1 from {relation.source} limit 0")
        except pymysql.MySQLError as error:
            if number_of(error) != _NO_TABLE:
                raise

    def close(self) -> None:
        self.db.close()


class _OfSnapshot(MysqlPages):
    """Rows on the connection of a snapshot, which other tables are read from too."""

    _snapshot: Snapshot

    def may_reopen(self) -> bool:
        return False

    def open_stream(self) -> Iterator[pl.DataFrame]:
        self._db = self._snapshot.db
        return self._snapshot.db.stream(self.query())

    async def aclose(self) -> None:
        if self._ended:
            self._db = None
        await super().aclose()

    def _close(self) -> None:
        self._db, self._stream = None, None


class KeyedRows(_OfSnapshot, KeyReader):
    """Rows of a snapshot in the order of their key."""

    def __init__(self, reading: Reading, start: Mapping[str, Any], snapshot: Snapshot) -> None:
        super().__init__(reading, {}, start)
        self._snapshot = snapshot

    def numbers_behind(self, keys: Sequence[Sequence[Any]], after: Sequence[Any]) -> set[int]:
        """The numbers of keys that the server orders behind this one."""
        return {
            first + number
            for first in range(0, len(keys), _KEYS)
            for number in self._behind_of(keys[first : first + _KEYS], after)
        }

    def _behind_of(self, keys: Sequence[Sequence[Any]], after: Sequence[Any]) -> list[int]:
        relation = self._reading.relation
        names = ", ".join(map(backticked, relation.key))
        # The empty half gives the whole the types and collations of the columns.
        rows = " union all ".join(
            f"select {number}, {', '.join(map(literal, key))}" for number, key in enumerate(keys)
        )
        found = self._snapshot.db.rows(
            f"select {_NUMBER} from (select 0 as {_NUMBER}, {names} from {relation.source} where false "
            f"union all {rows}) as d where {self.behind(after)}"
        )
        return [int(number) for (number,) in found]


def keys_behind(rows: KeyedRows, after: Sequence[Any], keys: pl.DataFrame) -> Flags:
    """Which keys are behind this one."""
    column = keys.to_series()
    if keys.width == 1 and column.dtype.is_integer():
        return (column > int(after[0])).to_numpy()
    different = keys.unique(maintain_order=True)
    found = rows.numbers_behind(different.rows(), after)
    flags = [number in found for number in range(different.height)]
    joined = keys.join(
        different.with_columns(pl.Series("b", flags, dtype=pl.Boolean)),
        on=keys.columns, how="left", nulls_equal=True, maintain_order="left",
    )  # fmt: skip
    return joined["b"].to_numpy()


class UnkeyedRows(_OfSnapshot, StreamReader):
    """Rows of a snapshot of a table without a key."""

    def __init__(self, reading: Reading, snapshot: Snapshot) -> None:
        super().__init__(reading, {}, {})
        self._snapshot = snapshot
