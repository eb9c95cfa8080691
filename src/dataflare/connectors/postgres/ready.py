"""Tables of a database that rows may go into, and their temporary stages. They are kept from one transaction to the
next, as long as the catalogue has nothing new of them.

Always true: a transaction with rows of a kept table is committed only if its catalogue entries were read after its rows
were merged, when the table was locked against changes, and are the known ones; behind a pooler, which gives each transaction another
session, nothing is kept.
"""

from __future__ import annotations

import psycopg
from msgspec import Struct, field
from msgspec.structs import replace

from dataflare.connectors.postgres import catalog, tables
from dataflare.connectors.postgres.catalog import Table
from dataflare.connectors.postgres.connection import Server
from dataflare.connectors.postgres.errors import error_facts
from dataflare.connectors.postgres.exactness import Limit, limits
from dataflare.connectors.postgres.few import FewRows
from dataflare.connectors.postgres.markers import MAKING, PostgresMarkers
from dataflare.connectors.postgres.merge import GONE, Keys
from dataflare.connectors.postgres.rules import PLACE, copy_rules, deferred
from dataflare.sdk.bisection import Pace
from dataflare.sdk.sql.names import listed, quoted
from dataflare.sdk.sql.store import Target, TransactionEnded
from dataflare.sdk.sql.tables import several_rows

STAGE_PREFIX = "_dataflare_stage_"


class Ready(Struct):
    """A table that rows may go into. asked: what it was made ready for; target: with the columns of all rows so far.
    into: the table, or the staging table of an overwrite. shape: as `catalog.shape` has it; None: it is not kept.
    stage: the temporary table of rows with a key. staged: the number of rows in it that are not merged; few: these rows, if they are sent only with
    the merge; gone: of these, the deletes; has_old: whether it has merged rows. keys: of the rows that are not merged. deferred: deferred constraints. limits: of columns that
    round. pace: how many rows to try at once."""

    asked: Target
    target: Target
    into: Table
    shape: str | None = None
    stage: str | None = None
    staged: int = 0
    few: FewRows | None = None
    gone: int = 0
    has_old: bool = False
    keys: Keys | None = None
    deferred: tuple[str, ...] = ()
    limits: dict[str, Limit] = field(default_factory=dict)
    pace: Pace = field(default_factory=Pace)

    def emptied(self) -> None:
        """Its stage has no rows that are not merged."""
        self.staged = self.gone = 0
        self.few = None
        if self.keys is not None:
            self.keys = Keys(self.target, self.into)


class ReadyTables(PostgresMarkers):
    """The part of a store for tables that rows may go into."""

    def __init__(self, server: Server, lineage: str, attempt: int, *, aside: bool = False) -> None:
        super().__init__(server, lineage, attempt, aside=aside)
        self._ready: dict[str, Ready] = {}
        self._kept: dict[str, Ready] = {}
        """Of transactions that were committed."""
        self._stages = 0
        self._session = 0
        """The server's process id of the session that this transaction is in."""

    @property
    def _is_direct(self) -> bool:
        """Whether the session is the connection's own. A pooler tells a process id of its own."""
        return self._session != 0 and self._session == self.backend

    def enter(self, session: int) -> None:
        """A transaction has begun in the session with this process id."""
        if session != self._session:
            self._kept.clear()
        self._session = session

    def keep_ready(self) -> None:
        """The transaction was committed."""
        for step, ready in self._ready.items():
            if ready.shape is not None:
                self._kept[step] = ready

    def kept(self, target: Target) -> Ready | None:
        """The table as an earlier transaction left it, if that is known."""
        ready = self._kept.get(target.step)
        if ready is None or ready.asked != target:
            return None
        if ready.stage is None and self.is_altered(ready):
            return None  # its rows do not wait for a merge
        ready.emptied()  # an earlier transaction may have been rolled back
        ready.has_old = False
        return ready

    def is_altered(self, ready: Ready) -> bool:
        """Whether the catalogue has something new of a kept table."""
        if ready.shape is None or self._kept.get(ready.target.step) is not ready:
            return False
        with self.errors(f"table '{ready.target.table}'"):
            return catalog.shape(self._db, ready.into.oid) != ready.shape

    def settled(self, ready: Ready, shape: str | None) -> None:
        """The rows are in the table, whose catalogue entry is `shape`. Raises TransactionEnded if that is another one
        than was known."""
        if ready.shape is not None and shape != ready.shape:
            raise TransactionEnded

    def _drop_kept_stage(self, step: str) -> None:
        kept = self._kept.get(step)
        if kept is not None and kept.stage is not None:
            self.run(f"drop table if exists {kept.stage}")

    def make_ready(self, target: Target, asked: Target) -> Ready:
        """Create or widen the table for the rows, and the other tables that are needed. target: with the columns of
        rows that were not known when the table was asked for."""
        with self.errors(f"table '{target.table}'"):
            self._folders.pop(target.table, None)
            self._drop_kept_stage(target.step)
            table = tables.require(self._db, self._server, target)
            if table is not None:
                tables.refuse_misfits(target, table)
            if target.mode == "overwrite":
                return self._with_staging(target, table, asked)
            if table is None:
                table = self._make_table(target)
            statements = tables.widening(target, table, self._server)
            for statement in statements:
                self.run(statement)
            if statements:
                table = self._existing(target)
            if target.mode in ("upsert", "mirror"):
                self._make_unique(target, table)
            shape = None
            if self._is_direct:
                # In this order: what is altered in between, makes the next transaction look again.
                shape, known = catalog.shape(self._db, table.oid), table.oid
                table = self._existing(target)
                shape = shape if table.oid == known else None
            ready = Ready(asked, target, table, shape, limits=limits(table))
            if target.key or table.row_security:
                self._make_stage(ready)
            if target.sift:
                ready.deferred = deferred(self._db, table)
        return ready

    def _make_table(self, target: Target) -> Table:
        """The new table. If two runs create it at the same time, the second waits for the first
        one's transaction, and finds the table."""
        self.run(MAKING)
        table = catalog.find_table(self._db, target.table)
        if table is None:
            folder, name = catalog.new_place(self._db, target.table)
            self.run(tables.creation(target, folder or "public", name))
            table = self._existing(target)
        return table

    def _existing(self, target: Target) -> Table:
        table = catalog.find_table(self._db, target.table)
        assert table is not None
        return table

    def _with_staging(self, target: Target, table: Table | None, asked: Target) -> Ready:
        folder, name = self._place(target)
        assert folder is not None
        staging = tables.staging_name(target, name)
        staging_table = catalog.find_exact(self._db, folder, staging)
        if staging_table is None:
            place = f"{quoted(folder)}.{quoted(staging)}"
            self.run(tables.staging_creation(target, table, place))
            if target.sift and table is not None:
                staging_table = catalog.find_exact(self._db, folder, staging)
                assert staging_table is not None
                copy_rules(self._db, table, staging_table)
        else:
            for statement in tables.widening(
                replace(target, create_table=True), staging_table, self._server
            ):
                self.run(statement)
        into = catalog.find_exact(self._db, folder, staging)
        assert into is not None
        late = deferred(self._db, into) if target.sift else ()
        return Ready(asked, target, into, deferred=late, limits=limits(into))

    def _make_unique(self, target: Target, table: Table) -> None:
        statement = tables.unique_index(target, table)
        if statement is None:
            return
        try:
            self.run(statement)
        except psycopg.errors.UniqueViolation as error:
            raise several_rows(target, table.label, [error_facts(error).detail]) from error

    def _make_stage(self, ready: Ready) -> None:
        self._stages += 1
        if ready.target.key:
            ready.keys = Keys(ready.target, ready.into)
        ready.stage = quoted(f"{STAGE_PREFIX}{self._stages}")
        columns = listed(field.name for field in ready.target.schema)
        end = "drop" if ready.shape is None else "delete rows"
        self._db.execute(
            f"create temporary table {ready.stage} on commit {end} as select {columns}, "
            f"0::bigint as {PLACE}, false as {GONE} from {ready.into.sql} with no data"
        )

    def _place(self, target: Target) -> tuple[str | None, str]:
        """The schema and the name of the table, also if it does not exist."""
        table = self.find(target.table)
        return (table.folder, table.name) if table else catalog.new_place(self._db, target.table)
