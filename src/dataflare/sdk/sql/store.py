"""What the commit protocol needs of a database: blocking calls, all in one transaction."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import polars as pl
from msgspec import Struct

from dataflare.errors import DataFlareError
from dataflare.model.types import Schema
from dataflare.sdk.bisection import Refusal
from dataflare.sdk.declarations import Declarations
from dataflare.sdk.max_errors import Bound
from dataflare.sdk.sql.marker import MarkerRow, MarkerRows
from dataflare.sdk.sql.sweeping import Sweep

STAGING_PREFIX = "_dataflare_new_"
KEYS_PREFIX = "_dataflare_seen_"


class Target(Struct, frozen=True):
    """The table that one step writes. schema: the columns of the rows, with `_op` if it is written.
    key: of the modes upsert and mirror. sift: refused rows are left out. complete: with mirror, rows
    that did not arrive in the run are deleted at its end, unless they are more than delete_max: a
    share of the table's rows, or a count. declarations: of the source's columns, for a new table. names:
    the columns that name a row in messages, in every mode. widens: a column that is too narrow for a value becomes
    wider. deleted_at: the column with the time at which a row was deleted, where such rows stay; it is part of schema, and the
    rows that come do not have it. refused_max: the search for refused rows ends beyond so many."""

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
    refused_max: int | None = None
    complete: bool = False
    delete_max: float | int = 0.2
    token: str = ""
    workflow: str = ""
    declarations: Declarations | None = None
    names: tuple[str, ...] = ()
    widens: bool = False
    deleted_at: str | None = None

    @property
    def run(self) -> tuple[str, int, str]:
        """The attempt at a run that writes: lineage, attempt and token."""
        return self.lineage, self.attempt, self.token

    @property
    def bound(self) -> Bound:
        """Of the search for refused rows."""
        return Bound(self.step, self.refused_max)

    @property
    def sweeps(self) -> bool:
        """Whether rows that did not arrive in the run are deleted at its end."""
        return self.mode == "mirror" and self.complete

    @property
    def keys_table(self) -> str:
        """The table of the keys that have arrived in this run."""
        return self._internal(KEYS_PREFIX)

    @property
    def place(self) -> str:
        """The name of the table in the marker; unique in the database."""
        return self.table.casefold()

    @property
    def written(self) -> str:
        """The table into which rows are written: under overwrite a staging table until the end."""
        return self._internal(STAGING_PREFIX) if self.mode == "overwrite" else self.table

    def _internal(self, prefix: str) -> str:
        folder, dot, name = self.table.rpartition(".")
        return f"{folder}{dot}{prefix}{name}_{self.lineage.replace('-', '')[:8]}"


class TransactionEnded(Exception):
    """A store had to end the transaction, such as one whose database commits before it changes a table. It
    has rolled the transaction back and made the change; the rows are applied again from the redo files."""


class TableStore(ABC):
    """One connection to a database, for one transaction at a time. Used by one thread at a time.

    Order: `begin`, then any of the others, then `commit` or `rollback`. A remote store may then
    `begin` again; `close` is the last call. All raise DataFlare's errors; after an error only
    `rollback` and `close` are called.

    A store must write rows, keep a marker and commit both at once. What is not abstract is for
    options that a connector need not have: the modes overwrite and mirror, rows that are left out,
    `before_sql` and `after_sql`.
    """

    remote: ClassVar[bool] = False
    """Whether it is a server. Then rows are sent while they arrive, the connection stays open between
    transactions, and another transaction may be open beside it. A file gets its rows from the redo
    file when an epoch is prepared, and is open from then until the commit."""

    label: str
    """The place of the database, for messages."""

    @abstractmethod
    def begin(self) -> None:
        """Begin a transaction. A file is opened, created if needed, and locked for writing."""

    @abstractmethod
    def commit(self) -> None:
        """Commit all changes since `begin` durably."""

    @abstractmethod
    def rollback(self) -> None:
        """Undo all changes since `begin`. Never raises."""

    @abstractmethod
    def close(self) -> None:
        """Release the connection. Never raises."""

    def is_there(self) -> bool:
        """Whether the database exists: `begin` would not create it. Called before `begin`."""
        return True

    def look(self, target: Target, *, check: bool) -> Sequence[str]:
        """The columns of the existing table; none if it does not exist. check: raise an error if it cannot
        have the target's rows. Opens a connection of its own, closes it, and changes nothing."""
        return ()

    # -- the marker --------------------------------------------------------------------------------

    @abstractmethod
    def read_marker(self, target: Target, *, lock: bool = False) -> MarkerRows:
        """The marker rows of the target; none if there is no marker table. lock: no other transaction
        can change these rows before this one ends."""

    @abstractmethod
    def write_marker(self, target: Target, row: MarkerRow) -> None:
        """Insert or replace the marker row; create or widen the marker table if needed."""

    def read_markers(
        self, targets: Sequence[Target], *, lock: bool = False, manifests: bool = True
    ) -> list[MarkerRows]:
        """The marker rows of several targets of one run. manifests: whether their manifests are needed."""
        return [self.read_marker(target, lock=lock) for target in targets]

    def write_markers(self, rows: Sequence[tuple[Target, MarkerRow]]) -> None:
        """Insert or replace the marker rows of several targets of one run."""
        for target, row in rows:
            self.write_marker(target, row)

    @abstractmethod
    def supersede(self, target: Target) -> None:
        """Delete the marker rows of other lineages of the target's workflow, step and table."""

    @abstractmethod
    def is_missing(self, target: Target) -> bool:
        """Whether the target's table does not exist."""

    @abstractmethod
    def is_empty(self, target: Target) -> bool:
        """Whether the table is missing or has no rows."""

    def take_over(self, target: Target) -> None:
        """A run begins or continues: end the sessions that older attempts left open."""
        return

    def is_lost(self, error: DataFlareError) -> bool:
        """Whether the error says that the connection broke, so that another one may do."""
        return False

    def replace(self, broken: TableStore) -> None:
        """End the session of a store whose connection broke: it may still hold locks. Called after
        `begin`."""
        return

    # -- rows --------------------------------------------------------------------------------------

    @abstractmethod
    def write(self, target: Target, frame: pl.DataFrame, rows_before: int, first: int) -> None:
        """Write rows in the target's mode; creates or widens the table if needed. Under `target.sift`
        refused rows are left out and returned by `refused`; else the first one is raised.

        rows_before: the rows that the run had written before this epoch. first: the number of the
        first row in the epoch.
        """

    def update(self, target: Target, frame: pl.DataFrame) -> None:
        """Change some columns of rows that are there, behind what was written before. frame: the key and these columns,
        each key once. Raises DataError (E0554) for a row that is not there."""
        raise NotImplementedError("a destination whose store has no `update` keeps no value")

    def empty(self, target: Target) -> None:
        """Delete all rows of a mirror's table, with those that were written before; create it if needed."""
        raise NotImplementedError("a destination whose store has no `empty` takes no TRUNCATE")

    def settle(self, target: Target, *, final: bool, left_out: int = 0) -> Sweep | None:
        """All rows of the epoch were written: find every refusal. final: the run ends, so under
        overwrite the new rows replace the table, and under mirror the rows that did not come are
        deleted, unless rows were left out; returns the result of that."""
        return None

    def refused(self, step: str) -> list[Refusal]:
        """The rows that were left out since the last call, by their number in the epoch."""
        return []

    def clear_keys(self, target: Target) -> None:
        """A run with mode mirror begins: forget the keys that arrived in earlier runs."""
        return

    def trim(self, target: Target, rows: int) -> bool:
        """Keep the rows of an overwrite that the run had staged when it had written `rows`. Returns
        whether there was something staged."""
        return False

    # -- a user's statements -----------------------------------------------------------------------

    def execute(self, statement: str) -> None:
        """Run a user's statement in the transaction."""
        raise NotImplementedError(
            "a destination whose store has no `execute` is refused before a run"
        )

    def execute_alone(self, statements: Sequence[str]) -> None:
        """Run each statement on its own. Not between `begin` and `close`."""
        raise NotImplementedError(
            "a destination whose store has no `execute` is refused before a run"
        )

    @classmethod
    def runs_statements(cls) -> bool:
        """Whether the store has `execute` and `execute_alone`."""
        return (
            cls.execute is not TableStore.execute
            and cls.execute_alone is not TableStore.execute_alone
        )
