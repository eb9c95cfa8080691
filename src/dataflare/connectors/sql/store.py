"""What the commit protocol needs of a database: a handful of blocking calls, all in one transaction."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import polars as pl
from msgspec import Struct

from dataflare.connectors.sql.marker import MarkerRows, Stored
from dataflare.connectors.sql.refusals import Refusal
from dataflare.model.types import Schema

STAGING_PREFIX = "_dataflare_new_"
SEEN_PREFIX = "_dataflare_seen_"


class Target(Struct, frozen=True):
    """What one step writes where. schema: the columns that arrive, with `_op` where it is written.
    sift: rows that are refused are left out. complete: of mirror, a row that has not come by the end of
    the run is deleted, unless these are more than delete_max: a share of the table's rows, or a count."""

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

    @property
    def sweeps(self) -> bool:
        """Whether rows that have not come by the end of the run are deleted."""
        return self.mode == "mirror" and self.complete

    @property
    def seen(self) -> str:
        """The table of the keys that have come in this run."""
        folder, dot, name = self.table.rpartition(".")
        return f"{folder}{dot}{SEEN_PREFIX}{name}_{self.lineage.replace('-', '')[:8]}"

    @property
    def place(self) -> str:
        """The table, as the marker tells it from others of its database."""
        return self.table.casefold()

    @property
    def written(self) -> str:
        """The table that takes the rows: under overwrite a staging table until the end."""
        if self.mode != "overwrite":
            return self.table
        folder, dot, name = self.table.rpartition(".")
        return f"{folder}{dot}{STAGING_PREFIX}{name}_{self.lineage.replace('-', '')[:8]}"


class TableStore(ABC):
    """One connection to a database file, for one transaction. Used by one thread at a time.

    Order: `begin`, then any of the others, then `commit` or `rollback`, then `close`. All raise our
    errors; after an error only `rollback` and `close` are called.
    """

    @abstractmethod
    def begin(self) -> None:
        """Open the file, making it if need be, and take the write lock."""

    @abstractmethod
    def commit(self) -> None:
        """Make durable all since `begin`."""

    @abstractmethod
    def rollback(self) -> None:
        """Undo all since `begin`. Never raises."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the file. Never raises."""

    @abstractmethod
    def execute(self, statement: str) -> None:
        """Run a user's statement in the transaction."""

    @abstractmethod
    def execute_alone(self, statements: Sequence[str]) -> None:
        """Open the file, run each statement on its own, and close it. Not between `begin` and `close`."""

    @abstractmethod
    def read_marker(self, target: Target) -> MarkerRows:
        """What the marker table says of the target; nothing when there is no marker table."""

    @abstractmethod
    def write_marker(self, target: Target, stored: Stored) -> None:
        """Insert or replace the marker row, making or widening the table if need be."""

    @abstractmethod
    def supersede(self, target: Target) -> None:
        """Delete the marker rows of other lineages of the target's workflow, step and table."""

    @abstractmethod
    def is_missing(self, target: Target) -> bool:
        """Whether there is no table of the target's name."""

    @abstractmethod
    def is_empty(self, target: Target) -> bool:
        """Whether the table is missing or has no rows."""

    @abstractmethod
    def make_ready(self, target: Target) -> None:
        """Make or widen the table that `target` writes; for a key, a unique index."""

    @abstractmethod
    def apply(self, target: Target, frame: pl.DataFrame) -> None:
        """Write one frame of rows as the target's mode says."""

    @abstractmethod
    def sift(self, target: Target, frame: pl.DataFrame) -> list[Refusal]:
        """Write one frame of rows but for those that the database refuses, and return these."""

    @abstractmethod
    def publish(self, target: Target) -> None:
        """Put the staging table in the table's place."""

    @abstractmethod
    def sweep(self, target: Target) -> None:
        """Delete the rows whose key has not come in this run. Raises DataError (E0512) where these are too
        many."""

    @abstractmethod
    def forget_seen(self, target: Target) -> None:
        """A run begins: no key has come yet."""

    @abstractmethod
    def trim(self, target: Target, rows: int) -> None:
        """Leave the first `rows` rows in the staging table; 0 drops it."""

    @abstractmethod
    def has_staging(self, target: Target) -> bool:
        """Whether the staging table exists."""
