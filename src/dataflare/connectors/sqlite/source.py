"""Read a table or a query of an SQLite file, page by page.

Always true: no lock is held between two pages, so writers of other programs, or of the same run,
never wait longer than one page takes. A table is read by ranges of its rowid or in the order of its
primary key; a relation with neither (a view, a query) is copied once to a temporary table of the
connection, and read from there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from dataflare.connectors.sqlite.config import SqliteSourceConfig
from dataflare.connectors.sqlite.connection import Connection, Opened
from dataflare.connectors.sqlite.errors import sqlite_errors
from dataflare.connectors.sqlite.incremental import IncrementalReader, check_incremental
from dataflare.connectors.sqlite.reader import KeyReader, Reading, SpoolReader
from dataflare.connectors.sqlite.relation import Relation, find_relation
from dataflare.connectors.sqlite.shards import cut
from dataflare.connectors.sqlite.tables import tables_and_views
from dataflare.errors import ConfigError
from dataflare.model.progress import Split
from dataflare.sdk.catalog import Entry, SupportsCatalog
from dataflare.sdk.source import Replay, SplitReader
from dataflare.sdk.sql.config import FileSharding
from dataflare.sdk.sql.incremental import State
from dataflare.sdk.sql.names import quoted
from dataflare.sdk.sql.relation import check_readable
from dataflare.sdk.sql.source import UNCHOSEN_TABLE, FileTableSource, no_parts
from dataflare.sdk.threads import in_thread

T = TypeVar("T")


class SqliteSource(FileTableSource[Relation], SupportsCatalog):
    """Rows of a table, view or query."""

    type = "sqlite"
    Config = SqliteSourceConfig
    summary = "Reads a table or a query of an SQLite database file."
    example = """\
orders:
  type: sqlite
  config: {path: shop.db, table: orders, incremental: {column: updated_at}}
"""
    config: SqliteSourceConfig
    dialect = "sqlite"
    rows_for_ranges = 100_000
    unchosen = UNCHOSEN_TABLE

    async def catalog(self) -> Sequence[Entry]:
        return await in_thread(self._with_db, "its tables", tables_and_views)

    def find(self) -> Relation:
        relation = self._with_db(
            self.label, lambda db: find_relation(db, self.path, self.config, self.contract)
        )
        if self.config.incremental is not None:
            check_incremental(relation, self.config.incremental)
        return relation

    def replay_of(self, relation: Relation | None) -> tuple[Replay, str]:
        replay, reason = super().replay_of(relation)
        return replay, reason.replace("its last key", "its last rowid or key")

    def compares(self, relation: Relation, name: str) -> bool:
        """SQLite compares columns of declared numbers and text as DataFlare does."""
        return relation.column(name).exact

    def undivided(self, relation: Relation, sharding: FileSharding) -> ConfigError | None:
        if not relation.key:
            return no_parts(relation.label, "rowid or key", "leave 'sharding' out")
        if sharding.column is None and not relation.rowid:
            return no_parts(relation.label, "rowid", "name a 'column' in 'sharding'")
        return None

    def cut_by_column(self, relation: Relation, sharding: FileSharding) -> Sequence[Split]:
        return self._with_db(relation.label, lambda db: cut(db, relation, sharding))

    def rowids(self, relation: Relation) -> tuple[int, int] | None:
        rowid = quoted(relation.key[0])
        sql = ", ".join(f"(select {end}({rowid}) from {relation.source})" for end in ("min", "max"))
        low, high = self._with_db(relation.label, lambda db: db.frame(f"select {sql}").row(0))
        return None if low is None else (int(low), int(high))

    def open_part(self, relation: Relation, split: Split, start: Mapping[str, Any]) -> SplitReader:
        reading = self._reading(relation)
        if relation.key:
            return KeyReader(reading, self._connect(), split.data, start)
        return SpoolReader(reading, self._connect(), start)

    def open_new(self, relation: Relation, state: State) -> SplitReader:
        assert self.config.incremental is not None
        reading = self._reading(relation)
        return IncrementalReader(reading, self._connect(), self.config.incremental, state)

    def _reading(self, relation: Relation) -> Reading:
        return Reading(
            path=self.path,
            step=self.context.step,
            relation=relation,
            output=self.output(relation),
            filters=self._filters,
            rows_max=self.config.batch_size,
        )

    def _with_db(self, subject: str, ask: Callable[[Connection], T]) -> T:
        """The result of `ask` with a connection."""
        opened = self._connect()
        try:
            with sqlite_errors(self.path, subject):
                return ask(opened.db)
        finally:
            opened.close()

    def _connect(self) -> Opened:
        check_readable(self.path)
        with sqlite_errors(self.path, "opening"):
            return Opened(self.path, mode="ro", busy_timeout_s=self.config.busy_timeout)
