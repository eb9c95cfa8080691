"""The database operations that the commit protocol uses: a few blocking calls, all in one
transaction."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import polars as pl
from msgspec import Struct

from dataflare.model.types import Schema
from dataflare.sdk.declarations import Declarations
from dataflare.sdk.sql.marker import MarkerRow, MarkerRows
from dataflare.sdk.sql.refusals import Refusal

STAGING_PREFIX = "_dataflare_new_"
KEYS_PREFIX = "_dataflare_seen_"


class Target(Struct, frozen=True):
    """The table that one step writes. schema: the columns of the rows, with `_op` if it is written.
    sift: refused rows are left out. complete: with mirror, rows that did not arrive in the run are
    deleted at its end, unless they are more than delete_max: a share of the table's rows, or a
    count. declarations: of the source's columns, for a new table."""

    step: str
    lineage: str
    attempt: int
    table: str
    mode: str
    schema: Schema
    key: tuple[str, ...] = ()
    sequence: str | None = None
    op: bool = False
    create_table: bool = True
    sift: bool = False
    complete: bool = False
    delete_max: float | int = 0.2
    token: str = ""
    workflow: str = ""
    declarations: Declarations | None = None

    @property
    def sweeps(self) -> bool:
        """Whether rows that did not arrive in the run are deleted at its end."""
        return self.mode == "mirror" and self.complete

    @property
    def keys_table(self) -> str:
        """The table of the keys that have arrived in this run."""
        folder, dot, name = self.table.rpartition(".")
        return f"{folder}{dot}{KEYS_PREFIX}{name}_{self.lineage.replace('-', '')[:8]}"

    @property
    def place(self) -> str:
        """The name of the table in the marker; unique in the database."""
        return self.table.casefold()

    @property
    def written(self) -> str:
        """The table into which rows are written: under overwrite a staging table until the end."""
        if self.mode != "overwrite":
            return self.table
        folder, dot, name = self.table.rpartition(".")
        return f"{folder}{dot}{STAGING_PREFIX}{name}_{self.lineage.replace('-', '')[:8]}"


class TableStore(ABC):
    """One connection to a database file, for one transaction. Used by one thread at a time.

    Order: `begin`, then any of the others, then `commit` or `rollback`, then `close`. All raise
    DataFlare's errors; after an error only `rollback` and `close` are called.
    """

    @abstractmethod
    def begin(self) -> None:
        """Open the file, create it if needed, and take the write lock."""

    @abstractmethod
    def commit(self) -> None:
        """Commit all changes since `begin` durably."""

    @abstractmethod
    def rollback(self) -> None:
        """Undo all changes since `begin`. Never raises."""

    @abstractmethod
    def close(self) -> None:
        """Close the file. Never raises."""

    @abstractmethod
    def execute(self, statement: str) -> None:
        """Run a user's statement in the transaction."""

    @abstractmethod
    def execute_alone(self, statements: Sequence[str]) -> None:
        """Open the file, run each statement on its own, and close it. Not between `begin` and `close`."""

    @abstractmethod
    def read_marker(self, target: Target) -> MarkerRows:
        """The marker rows of the target; none if there is no marker table."""

    @abstractmethod
    def write_marker(self, target: Target, stored: MarkerRow) -> None:
        """Insert or replace the marker row; create or widen the marker table if needed."""

    @abstractmethod
    def supersede(self, target: Target) -> None:
        """Delete the marker rows of other lineages of the target's workflow, step and table."""

    @abstractmethod
    def is_missing(self, target: Target) -> bool:
        """Whether the target's table does not exist."""

    @abstractmethod
    def is_empty(self, target: Target) -> bool:
        """Whether the table is missing or has no rows."""

    @abstractmethod
    def make_ready(self, target: Target) -> None:
        """Create or widen the target's table; for a key, create a unique index."""

    @abstractmethod
    def apply(self, target: Target, frame: pl.DataFrame) -> None:
        """Write one frame of rows in the target's mode."""

    @abstractmethod
    def sift(self, target: Target, frame: pl.DataFrame) -> list[Refusal]:
        """Write one frame of rows, except those that the database refuses; returns the refused
        ones."""

    @abstractmethod
    def publish(self, target: Target) -> None:
        """Replace the table by the staging table."""

    @abstractmethod
    def sweep(self, target: Target, *, delete: bool) -> int:
        """Count the rows whose key did not arrive in this run, and with `delete` delete them. Raises
        DataError (E0512) if it would delete too many."""

    @abstractmethod
    def clear_keys(self, target: Target) -> None:
        """A run begins: remove all keys of earlier runs."""

    @abstractmethod
    def trim(self, target: Target, rows: int) -> None:
        """Keep only the first `rows` rows of the staging table; 0 drops it."""

    @abstractmethod
    def has_staging(self, target: Target) -> bool:
        """Whether the staging table exists."""
