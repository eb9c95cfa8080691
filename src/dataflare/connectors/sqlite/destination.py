"""Write a table of an SQLite file: rows and epoch in one transaction."""

from __future__ import annotations

import os

from dataflare.connectors.sql.config import TableDestinationConfig
from dataflare.connectors.sql.destination import TableDestination
from dataflare.connectors.sql.names import missing_file
from dataflare.connectors.sql.store import TableStore, Target
from dataflare.connectors.sqlite import tables
from dataflare.connectors.sqlite.connection import Opened
from dataflare.connectors.sqlite.errors import sqlite_errors
from dataflare.connectors.sqlite.store import SqliteStore
from dataflare.errors import SystemError_
from dataflare.model.types import Schema


class SqliteDestination(TableDestination):
    type = "sqlite"
    Config = TableDestinationConfig
    summary = "Write a table of an SQLite database file, exactly once"
    example = """\
type: sqlite
inputs: [orders]
config: {path: shop.db, table: orders, mode: upsert, key: [order_id]}
"""

    def _make_store(self) -> TableStore:
        return SqliteStore(self.path, self.config.busy_timeout)

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
        with sqlite_errors(path, f"table '{self.config.table}'"):
            opened = Opened(path, mode="ro", busy_timeout_s=self.config.busy_timeout)
            try:
                found = tables.require(opened.db, target, path)
                if found is not None and self.config.mode != "overwrite":
                    tables.refuse_misfits(target, found)
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
