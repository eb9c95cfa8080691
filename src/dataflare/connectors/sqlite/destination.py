"""Write a table of an SQLite file: rows and epoch in one transaction."""

from __future__ import annotations

from dataflare.connectors.sqlite.store import SqliteStore
from dataflare.sdk.context import DestinationContext
from dataflare.sdk.destination import Committable, Writer
from dataflare.sdk.sql.config import FileSqlOptions
from dataflare.sdk.sql.destination import FileTableDestination
from dataflare.sdk.sql.store import TableStore


class SqliteDestination(FileTableDestination):
    type = "sqlite"
    of_machine = True
    takes_empty_names = True
    Config = FileSqlOptions
    summary = "Writes a table of an SQLite database file, exactly once."
    example = """\
warehouse:
  type: sqlite
  inputs: [orders]
  config: {path: shop.db, table: orders, mode: upsert, key: [order_id]}
"""

    async def open(self, context: DestinationContext, restored: Committable | None) -> Writer:
        writer = await super().open(context, restored)
        writer.float_losses = ("nan", "infinite inside", "minus zero")
        return writer

    def make_store(self) -> TableStore:
        return SqliteStore(self.path, self.config.busy_timeout)
