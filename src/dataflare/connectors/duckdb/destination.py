"""Write a table of a DuckDB file: rows and epoch in one transaction."""

from __future__ import annotations

from dataflare.connectors.duckdb.connection import will_write
from dataflare.connectors.duckdb.store import DuckdbStore
from dataflare.sdk.context import DestinationContext
from dataflare.sdk.destination import Committer
from dataflare.sdk.sql.config import FileSqlOptions
from dataflare.sdk.sql.destination import FileTableDestination
from dataflare.sdk.sql.store import TableStore


class DuckdbDestination(FileTableDestination):
    type = "duckdb"
    of_machine = True
    Config = FileSqlOptions
    summary = "Writes a table of a DuckDB database file, exactly once."
    example = """\
warehouse:
  type: duckdb
  inputs: [orders]
  config: {path: shop.duckdb, table: orders, mode: upsert, key: [order_id]}
"""

    async def committer(self, context: DestinationContext) -> Committer:
        will_write(self.path, self)
        return await super().committer(context)

    def make_store(self) -> TableStore:
        return DuckdbStore(self.path, self.config.busy_timeout)
