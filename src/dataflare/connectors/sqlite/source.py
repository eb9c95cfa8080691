"""Read a table or a query of an SQLite file, page by page.

Always true: no lock is held between two pages, so writers of other programs, or of the same run,
never wait longer than one page takes. A table is read by ranges of its rowid or in the order of its
primary key; a relation with neither (a view, a query) is copied once to a temporary table of the
connection, and read from there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from dataflare.connectors.sqlite.config import SqliteSourceConfig
from dataflare.connectors.sqlite.connection import Opened
from dataflare.connectors.sqlite.errors import sqlite_errors
from dataflare.connectors.sqlite.incremental import IncrementalReader, check_incremental
from dataflare.connectors.sqlite.reader import KeyReader, Reading, SpoolReader
from dataflare.connectors.sqlite.relation import Relation, find_relation
from dataflare.connectors.sqlite.shards import cut
from dataflare.connectors.sqlite.tables import tables_and_views
from dataflare.errors import ConfigError
from dataflare.model.progress import Split
from dataflare.sdk.catalog import Entry
from dataflare.sdk.source import Replay, SplitReader
from dataflare.sdk.sql.config import FileSharding, Incremental
from dataflare.sdk.sql.incremental import State
from dataflare.sdk.sql.names import quoted
from dataflare.sdk.sql.relation import check_readable
from dataflare.sdk.sql.source import FileTableSource, SupportsTables, no_parts


class SqliteSource(FileTableSource[Relation], SupportsTables[Relation]):
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

    def connect(self) -> Opened:
        check_readable(self.path)
        with self.errors("opening"):
            return Opened(self.path, mode="ro", busy_timeout_s=self.config.busy_timeout)

    def errors(self, subject: str) -> AbstractContextManager[None]:
        return sqlite_errors(self.path, subject)

    def list_tables(self, db: Opened) -> Sequence[Entry]:
        return tables_and_views(db.db)

    def find_in(self, db: Opened) -> Relation:
        return find_relation(db.db, self.path, self.config, self.contract)

    def check_incremental(self, relation: Relation, config: Incremental) -> None:
        check_incremental(relation, config)

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
        return self.with_db(relation.label, lambda opened: cut(opened.db, relation, sharding))

    def rowids(self, relation: Relation) -> tuple[int, int] | None:
        rowid = quoted(relation.key[0])
        sql = ", ".join(f"(select {end}({rowid}) from {relation.source})" for end in ("min", "max"))
        low, high = self.with_db(
            relation.label, lambda opened: opened.db.frame(f"select {sql}").row(0)
        )
        return None if low is None else (int(low), int(high))

    def reading(self, relation: Relation) -> Reading:
        return Reading(**self.read_options(relation), path=self.path)

    def open_part(self, relation: Relation, split: Split, start: Mapping[str, Any]) -> SplitReader:
        reading = self.reading(relation)
        if relation.key:
            return KeyReader(reading, self.connect(), split.data, start)
        return SpoolReader(reading, self.connect(), start)

    def open_new(self, relation: Relation, config: Incremental, state: State) -> SplitReader:
        return IncrementalReader(self.reading(relation), self.connect(), config, state)
