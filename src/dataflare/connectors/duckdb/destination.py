"""Write a table of a DuckDB file: rows and epoch in one transaction."""

from __future__ import annotations

from collections.abc import Sequence

from dataflare.connectors.duckdb import tables
from dataflare.connectors.duckdb.connection import DuckConnection, will_write
from dataflare.connectors.duckdb.errors import duckdb_errors
from dataflare.connectors.duckdb.store import DuckdbStore
from dataflare.model.types import Schema
from dataflare.sdk.context import DestinationContext
from dataflare.sdk.destination import Committer
from dataflare.sdk.sql.config import TableDestinationConfig
from dataflare.sdk.sql.destination import TableDestination
from dataflare.sdk.sql.store import TableStore


class DuckdbDestination(TableDestination):
    type = "duckdb"
    Config = TableDestinationConfig
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

    def _make_store(self) -> TableStore:
        return DuckdbStore(self.path, self.config.busy_timeout)

    def _look(self, schema: Schema, *, check: bool = True) -> Sequence[str]:
        if not self._is_there():
            return ()
        path, target = self.path, self._target(None, schema)
        opened = DuckConnection(path, write=False, busy_timeout_s=self.config.busy_timeout)
        try:
            with duckdb_errors(path, f"table '{self.config.table}'"):
                table = tables.require(opened, target, path)
                if check and table is not None and self.config.mode != "overwrite":
                    tables.refuse_other_clocks(target, table)
                    tables.widening(target, table, path)
                return () if table is None else list(table.columns)
        finally:
            opened.close()
