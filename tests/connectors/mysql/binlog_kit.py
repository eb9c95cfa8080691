"""Read the changes of a table by hand, and apply them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import polars as pl
from mysql_kit import Database, drain
from optional_packages import package

from dataflare.model.batch import KIND_COLUMN, RowKind

package("numpy")
GONE = (RowKind.UPDATE_BEFORE, RowKind.DELETE)


class Plain(Database):
    """Without TLS, a connection takes a tenth of the time."""

    @property
    def dsn(self) -> str:
        return self.server.dsn(self.name, ssl_mode="disabled")

    def client(self) -> Any:
        return self.server.client(self.name, ssl_disabled=True)

    def execute(self, *statements: str) -> None:
        with self.client() as db, db.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        with self.client() as db, db.cursor() as cursor:
            cursor.execute(sql)
            return list(cursor.fetchall())


class Follower:
    """Runs that go on where the last one ended, each to the end of the log. refusing: a step behind it that takes no
    TRUNCATE. warnings: of the last run."""

    def __init__(self, database: Database, table: str, **config: Any) -> None:
        self.database, self.table, self.config = database, table, config
        self.carried: Any = None
        self.refusing: str | None = None
        self.warnings: list[str] = []

    def source(self, **more: Any) -> Any:
        changes = {"stop": "latest", **self.config.get("cdc", {}), **more}
        return self.database.source(table=self.table, **{**self.config, "cdc": changes})

    async def read(self, rows_max: int = 1_000) -> list[tuple[Any, ...]]:
        """The rows that the next run gives, each with its kind in front."""
        source = self.source()
        await source.schema()
        if self.refusing is not None:
            source.not_truncated = {None: self.refusing}
        [split] = await source.splits(self.carried)
        opened, readers = source.open, []

        async def open_split(*values: Any) -> Any:
            readers.append(await opened(*values))
            return readers[-1]

        source.open = open_split
        frames, position = await drain(source, split, None, rows_max)
        self.warnings = [text for reader in readers for text in reader.warnings]
        self.carried = source.carry({split.id: position})
        await source.aclose()
        return rows_of(frames)


def rows_of(frames: Sequence[pl.DataFrame]) -> list[tuple[Any, ...]]:
    found = []
    for frame in frames:
        kinds = [RowKind(kind) for kind in frame[KIND_COLUMN].to_list()]
        rows = frame.drop(KIND_COLUMN).rows()
        found += [(kind, *row) for kind, row in zip(kinds, rows, strict=True)]
    return found


def left(changes: Iterable[tuple[Any, ...]]) -> Counter[tuple[Any, ...]]:
    """The rows that are there behind the changes. Each row that goes must be there."""
    there: Counter[tuple[Any, ...]] = Counter()
    for kind, *row in changes:
        if kind in GONE:
            assert there[tuple(row)] > 0, f"{row} goes, and is not there"
            there[tuple(row)] -= 1
        else:
            there[tuple(row)] += 1
    return +there
