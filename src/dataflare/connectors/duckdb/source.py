"""Read a table or a query of a DuckDB file as Arrow; the file is not opened for writing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from dataflare.connectors.duckdb.checksums import DIGESTS, texts
from dataflare.connectors.duckdb.connection import DuckConnection
from dataflare.connectors.duckdb.errors import duckdb_errors
from dataflare.connectors.duckdb.incremental import IncrementalReader, check_incremental
from dataflare.connectors.duckdb.reader import Reading, RowidReader, StreamReader
from dataflare.connectors.duckdb.relation import Column, Relation, find_relation
from dataflare.connectors.duckdb.shards import cut
from dataflare.connectors.duckdb.tables import tables_and_views
from dataflare.model.progress import Split
from dataflare.sdk.catalog import Entry
from dataflare.sdk.source import Replay, SplitReader
from dataflare.sdk.sql.checksums import SupportsChecksums
from dataflare.sdk.sql.config import FileReadOptions, FileSharding, Incremental
from dataflare.sdk.sql.incremental import State
from dataflare.sdk.sql.names import holds_data, missing_file, quoted
from dataflare.sdk.sql.relation import check_readable
from dataflare.sdk.sql.source import FileTableSource, SupportsTables


class DuckdbSource(
    FileTableSource[Relation], SupportsTables[Relation], SupportsChecksums[Relation]
):
    """Rows of a table, view or query."""

    type = "duckdb"
    beside_job = of_machine = True
    Config = FileReadOptions
    summary = "Reads a table or a query of a DuckDB database file."
    example = """\
orders:
  type: duckdb
  config: {path: shop.duckdb, table: orders, incremental: {column: updated_at}}
"""
    dialect = "duckdb"
    digests = DIGESTS
    rows_for_ranges = 1_000_000

    def connect(self) -> DuckConnection:
        path = self.path
        check_readable(path)
        if not holds_data(path):
            raise missing_file(path)
        outside = self.context.policy.folders is None
        timeout = self.config.busy_timeout
        return DuckConnection(path, write=False, busy_timeout_s=timeout, outside=outside)

    def errors(self, subject: str) -> AbstractContextManager[None]:
        return duckdb_errors(self.path, subject)

    def list_tables(self, db: DuckConnection) -> Sequence[Entry]:
        return tables_and_views(db)

    def find_in(self, db: DuckConnection) -> Relation:
        return find_relation(db, self.path, self.config, self.contract)

    def check_incremental(self, relation: Relation, config: Incremental) -> None:
        self.with_db(relation.label, lambda db: check_incremental(db, relation, config))

    def replay_of(self, relation: Relation | None) -> tuple[Replay, str]:
        if relation is not None and not relation.rowid:
            return Replay.NONE, f"{relation.label} has no rowid to continue from"
        return Replay.BY_KEY, "an unfinished range is read again from its last rowid"

    def compares(self, relation: Relation, name: str) -> bool:
        """Not columns that the step's `schema` casts, because DuckDB would compare the values before the
        cast, and not columns that are read as text."""
        column = relation.column(name)
        return not column.cast and (not column.type.is_text or column.declared == "VARCHAR")

    def cut_by_column(self, relation: Relation, sharding: FileSharding) -> Sequence[Split]:
        return self.with_db(relation.label, lambda db: cut(db, relation, sharding))

    def rowids(self, relation: Relation) -> tuple[int, int] | None:
        sql = f"select max(rowid) from {relation.source}"
        ((high,),) = self.with_db(relation.label, lambda db: db.rows(sql))
        return None if high is None else (0, high)

    def texts(self, column: Column) -> Mapping[str, str]:
        return texts(column)

    def identifier(self, name: str) -> str:
        return quoted(name)

    def asked(
        self, db: DuckConnection, relation: Relation, sql: Callable[[str], str]
    ) -> list[tuple[Any, ...]]:
        reading = self.reading(relation)
        reading.bind(db)
        return db.rows(sql(reading.where()))

    def reading(self, relation: Relation) -> Reading:
        return Reading(**self.read_options(relation), path=self.path)

    def open_part(self, relation: Relation, split: Split, start: Mapping[str, Any]) -> SplitReader:
        def make(db: DuckConnection) -> SplitReader:
            reading = self.reading(relation)
            if relation.rowid:
                return RowidReader(reading, db, split.data, start)
            return StreamReader(reading, db, start)

        return self._opened(make)

    def open_new(self, relation: Relation, config: Incremental, state: State) -> SplitReader:
        return self._opened(lambda db: IncrementalReader(self.reading(relation), db, config, state))

    def _opened(self, make: Callable[[DuckConnection], SplitReader]) -> SplitReader:
        db = self.connect()
        try:
            return make(db)
        except BaseException:
            db.close()
            raise
