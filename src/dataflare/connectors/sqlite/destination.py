"""Write a table of an SQLite file: rows and epoch in one transaction."""

from __future__ import annotations

from collections.abc import Sequence

from dataflare.connectors.sqlite import tables
from dataflare.connectors.sqlite.connection import Opened
from dataflare.connectors.sqlite.errors import sqlite_errors
from dataflare.connectors.sqlite.store import SqliteStore
from dataflare.model.types import Schema
from dataflare.sdk.context import DestinationContext
from dataflare.sdk.destination import Committable, Writer
from dataflare.sdk.sql.config import TableDestinationConfig
from dataflare.sdk.sql.destination import TableDestination
from dataflare.sdk.sql.store import TableStore


class SqliteDestination(TableDestination):
    type = "sqlite"
    Config = TableDestinationConfig
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

    def _make_store(self) -> TableStore:
        return SqliteStore(self.path, self.config.busy_timeout)

    def _look(self, schema: Schema, *, check: bool = True) -> Sequence[str]:
        if not self._is_there():
            return ()
        path, target = self.path, self._target(None, schema)
        with sqlite_errors(path, f"table '{self.config.table}'"):
            opened = Opened(path, mode="ro", busy_timeout_s=self.config.busy_timeout)
            try:
                table = tables.require(opened.db, target, path)
                if check and table is not None and self.config.mode != "overwrite":
                    tables.refuse_misfits(target, table)
                    tables.widening(target, table, path)
                return () if table is None else list(table.columns)
            finally:
                opened.close()
