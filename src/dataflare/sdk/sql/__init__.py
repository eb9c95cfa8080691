"""A kit for connectors of databases: a source of tables, and a destination that writes exactly once.

Never connects to a database itself: a connector brings its `TableStore` and its readers. Depends on `sdk`
for the contracts and on `model` for rows and types; docs/extend/databases.md shows how to stand on it.
"""

from __future__ import annotations

from dataflare.sdk.bisection import Pace, Refusal
from dataflare.sdk.sql.config import (
    FileReadOptions,
    FileSqlOptions,
    FileTableOptions,
    ReadOptions,
    SqlOptions,
    TableOptions,
)
from dataflare.sdk.sql.destination import (
    FileTableDestination,
    ServerTableDestination,
    TableDestination,
)
from dataflare.sdk.sql.fold import Changes, fold, rows_to_append
from dataflare.sdk.sql.marker import MarkerRow, MarkerRows, marker_rows
from dataflare.sdk.sql.marker import values as marker_values
from dataflare.sdk.sql.names import (
    at_step,
    listed,
    missing_column,
    missing_file,
    missing_table,
    quoted,
)
from dataflare.sdk.sql.refusals import rowwise, sift, with_row
from dataflare.sdk.sql.session import Session, shared_session
from dataflare.sdk.sql.sql_markers import SqlMarkers
from dataflare.sdk.sql.sql_store import Ready, SqlStore
from dataflare.sdk.sql.store import TableStore, Target, TransactionEnded
from dataflare.sdk.sql.sweeping import Sweep, refuse_deletes
from dataflare.sdk.sql.tables import Table, missing_columns

__all__ = [
    "Changes",
    "FileReadOptions",
    "FileSqlOptions",
    "FileTableDestination",
    "FileTableOptions",
    "MarkerRow",
    "MarkerRows",
    "Pace",
    "ReadOptions",
    "Ready",
    "Refusal",
    "ServerTableDestination",
    "Session",
    "SqlMarkers",
    "SqlOptions",
    "SqlStore",
    "Sweep",
    "Table",
    "TableDestination",
    "TableOptions",
    "TableStore",
    "Target",
    "TransactionEnded",
    "at_step",
    "fold",
    "listed",
    "marker_rows",
    "marker_values",
    "missing_column",
    "missing_columns",
    "missing_file",
    "missing_table",
    "quoted",
    "refuse_deletes",
    "rows_to_append",
    "rowwise",
    "shared_session",
    "sift",
    "with_row",
]
