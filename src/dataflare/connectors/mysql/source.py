"""Read a table or a query of a MySQL or MariaDB database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from dataflare.connectors.mysql.config import MysqlSourceConfig
from dataflare.connectors.mysql.connection import Db, Server
from dataflare.connectors.mysql.errors import mysql_errors
from dataflare.connectors.mysql.facts import server_facts
from dataflare.connectors.mysql.incremental import IncrementalReader, check_incremental
from dataflare.connectors.mysql.reader import KeyReader, Reading, StreamReader
from dataflare.connectors.mysql.relation import Relation, find_relation
from dataflare.connectors.mysql.shards import make_splits
from dataflare.connectors.mysql.tables import tables_and_views
from dataflare.model.progress import Split
from dataflare.sdk.catalog import Entry
from dataflare.sdk.source import SplitReader
from dataflare.sdk.sql.config import Incremental
from dataflare.sdk.sql.incremental import State
from dataflare.sdk.sql.source import ServerTableSource, SupportsTables


class MysqlSource(ServerTableSource[Relation], SupportsTables[Relation]):
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

    config: MysqlSourceConfig

    @property
    def server(self) -> Server:
        return Server.of(self.config)

    def errors(self, subject: str) -> AbstractContextManager[None]:
        return mysql_errors(self.server.label, subject)

    def list_tables(self, db: Db) -> Sequence[Entry]:
        return tables_and_views(db, self.server.database)

    def find_in(self, db: Db) -> Relation:
        return find_relation(db, self.server, self.config, self.contract)

    def check_incremental(self, relation: Relation, config: Incremental) -> None:
        check_incremental(relation, config)

    def compares(self, relation: Relation, name: str) -> bool:
        """Numbers. Text is compared by its collation, and a date such as 0000-00-00 is a row error, not a row to
        leave out."""
        column = relation.column(name)
        return column.keyed and (column.type.is_integer or column.type.name == "decimal")

    def cut_in(self, db: Db, relation: Relation) -> Sequence[Split]:
        return make_splits(db, relation, self.config.sharding)

    def server_facts(self, db: Db) -> Mapping[str, str]:
        return server_facts(db)

    def reading(self, relation: Relation) -> Reading:
        return Reading(**self.read_options(relation), server=self.server)

    def open_part(self, relation: Relation, split: Split, start: Mapping[str, Any]) -> SplitReader:
        reader = KeyReader if relation.key else StreamReader
        return reader(self.reading(relation), split.data, start)

    def open_new(self, relation: Relation, config: Incremental, state: State) -> SplitReader:
        return IncrementalReader(self.reading(relation), config, state)
