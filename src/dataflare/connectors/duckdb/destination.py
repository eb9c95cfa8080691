"""Write a table of a DuckDB file: rows and epoch in one transaction."""

from __future__ import annotations

import os

from dataflare.connectors.duckdb import tables
from dataflare.connectors.duckdb.connection import DuckConnection, will_write
from dataflare.connectors.duckdb.errors import duckdb_errors
from dataflare.connectors.duckdb.store import DuckdbStore
from dataflare.connectors.sql.config import TableDestinationConfig
from dataflare.connectors.sql.destination import TableDestination
from dataflare.connectors.sql.names import missing_file
from dataflare.connectors.sql.store import TableStore, Target
from dataflare.errors import SystemError_
from dataflare.model.types import Schema
from dataflare.sdk.context import DestinationContext
from dataflare.sdk.destination import Committer


class DuckdbDestination(TableDestination):
    type = "duckdb"
    Config = TableDestinationConfig
    summary = "Write a table of a DuckDB database file, exactly once"
    example = """\
type: duckdb
inputs: [orders]
config: {path: shop.duckdb, table: orders, mode: upsert, key: [order_id]}
"""

    async def committer(self, context: DestinationContext) -> Committer:
        will_write(self.path, self)
        return await super().committer(context)

    def _make_store(self) -> TableStore:
        return DuckdbStore(self.path, self.config.busy_timeout)

    def _look(self, schema: Schema) -> None:
        path = self.path
        if not path.exists():
            self._look_at_folder()
            return
        if path.is_dir():
            raise SystemError_(f"{path} is a folder, not a database", code="E0602")
        if not os.access(path, os.W_OK):
            raise SystemError_(f"{path} may not be written: it is read-only", code="E0602")
        target = Target(
            "", "", 0, self.config.table, self.config.mode, schema,
            tuple(self.config.key), create_table=self.config.create_table,
        )  # fmt: skip
        opened = DuckConnection(path, write=False, busy_timeout_s=self.config.busy_timeout)
        try:
            with duckdb_errors(path, f"table '{self.config.table}'"):
                found = tables.require(opened, target, path)
                if found is not None and self.config.mode != "overwrite":
                    tables.widening(target, found, path)
        finally:
            opened.close()

    def _look_at_folder(self) -> None:
        if not self.config.create_table:
            raise missing_file(self.path)
        folder = self.path.parent
        while not folder.exists():
            folder = folder.parent
        if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
            raise SystemError_(f"permission denied: {folder}", code="E0602")
