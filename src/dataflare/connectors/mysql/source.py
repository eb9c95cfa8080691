"""Read a table or a query of a MySQL or MariaDB database."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from dataflare.connectors.mysql.config import MysqlSourceConfig
from dataflare.connectors.mysql.connection import Db, Server
from dataflare.connectors.mysql.errors import mysql_errors
from dataflare.connectors.mysql.facts import source_facts
from dataflare.connectors.mysql.incremental import IncrementalReader, check_incremental
from dataflare.connectors.mysql.reader import KeyReader, Reading, StreamReader
from dataflare.connectors.mysql.relation import Relation, find_relation
from dataflare.connectors.mysql.shards import make_splits
from dataflare.connectors.mysql.tables import tables_and_views
from dataflare.model.progress import Split
from dataflare.sdk.catalog import Entry, SupportsCatalog
from dataflare.sdk.source import SplitReader
from dataflare.sdk.sql.incremental import State
from dataflare.sdk.sql.source import UNCHOSEN_TABLE, TableSource
from dataflare.sdk.threads import in_thread

T = TypeVar("T")


class MysqlSource(TableSource[Relation], SupportsCatalog):
    """Rows of a table, view or query."""

    type = "mysql"
    Config = MysqlSourceConfig
    summary = "Read a table or a query of a MySQL or MariaDB database"
    example = """\
type: mysql
config:
  connection_string: mysql://reader@localhost:3306/shop
  table: orders
"""
    dialect = "mysql"
    unchosen = UNCHOSEN_TABLE

    config: MysqlSourceConfig

    async def catalog(self) -> Sequence[Entry]:
        return await in_thread(self._with_db, "its tables", self._tables)

    def _tables(self, db: Db) -> Sequence[Entry]:
        return tables_and_views(db, self._server.database)

    def find(self) -> Relation:
        relation = self._with_db(
            self.label, lambda db: find_relation(db, self._server, self.config, self.contract)
        )
        if self.config.incremental is not None:
            check_incremental(relation, self.config.incremental)
        return relation

    def compares(self, relation: Relation, name: str) -> bool:
        """Numbers. Text is compared by its collation, and a date such as 0000-00-00 is a row error, not a row to
        leave out."""
        column = relation.column(name)
        return column.keyed and (column.type.is_integer or column.type.name == "decimal")

    def cut(self, relation: Relation) -> Sequence[Split]:
        sharding = self.config.sharding
        return self._with_db(relation.label, lambda db: make_splits(db, relation, sharding))

    def cut_by(self) -> str:
        sharding = self.config.sharding
        return "" if sharding is None else sharding.label("the key")

    def open_part(
        self, relation: Relation, split: Split, start: Mapping[str, object]
    ) -> SplitReader:
        reading = self._reading(relation)
        if relation.key:
            return KeyReader(reading, split.data, start)
        return StreamReader(reading, split.data, start)

    def open_new(self, relation: Relation, state: State) -> SplitReader:
        assert self.config.incremental is not None
        return IncrementalReader(self._reading(relation), self.config.incremental, state)

    def _reading(self, relation: Relation) -> Reading:
        return Reading(
            server=self._server,
            step=self.context.step,
            relation=relation,
            output=self.output(relation),
            filters=self._filters,
            rows_max=self.config.batch_size,
        )

    async def inspect(self) -> Mapping[str, str]:
        """Facts about the server and the relation, for `dataflare check`. Raises an error if it
        cannot be read."""
        relation = await self.look()
        return await in_thread(source_facts, self._server, relation, self._replay()[0])

    @property
    def _server(self) -> Server:
        return Server.of(self.config)

    def _with_db(self, subject: str, ask: Callable[[Db], T]) -> T:
        """The result of `ask` with a connection."""
        server = self._server
        db = server.connect(f"dataflare {self.context.step}")
        try:
            with mysql_errors(server.label, subject):
                return ask(db)
        finally:
            db.close()
