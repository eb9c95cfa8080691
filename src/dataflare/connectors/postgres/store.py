"""The commit protocol's operations on PostgreSQL, in one open transaction.

Always true:
- rows of append go straight into the table, by COPY; rows with a key go into a temporary stage, by COPY or a few of
  them with the message that merges them, and reach the table in one statement when the epoch is prepared, so that rows others may want are locked
  no longer than that;
- overwrite fills a staging table of its own, and moves its rows over at the end: the table keeps its
  rights, indexes and the views over it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import partial

import polars as pl
from msgspec.structs import replace

from dataflare.connectors.postgres import catalog, tables
from dataflare.connectors.postgres.connection import Server
from dataflare.connectors.postgres.copying import Copier, Orphans, Sender
from dataflare.connectors.postgres.few import few_rows
from dataflare.connectors.postgres.markers import MAKING
from dataflare.connectors.postgres.merge import GONE, Merge
from dataflare.connectors.postgres.ready import Ready, ReadyTables
from dataflare.connectors.postgres.rules import PLACE, bound_of, is_orphan
from dataflare.connectors.postgres.types import PgType
from dataflare.connectors.postgres.updating import update
from dataflare.errors import DataError, DataFlareError
from dataflare.model.batch import KIND_COLUMN
from dataflare.model.types import DataType, Schema
from dataflare.sdk.bisection import Refusal
from dataflare.sdk.sql import soft_deletes, sweeping
from dataflare.sdk.sql.fold import last_of_each, refuse_null_keys, rows_to_append
from dataflare.sdk.sql.growth import outgrown
from dataflare.sdk.sql.names import listed, quoted
from dataflare.sdk.sql.store import Target, TransactionEnded
from dataflare.sdk.sql.sweeping import Sweep

_CHECK = "set constraints all immediate"


class PostgresStore(ReadyTables):
    """One connection and its transactions."""

    def __init__(self, server: Server, lineage: str, attempt: int, *, aside: bool = False) -> None:
        super().__init__(server, lineage, attempt, aside=aside)
        self._refused: dict[str, list[Refusal]] = {}
        self._orphans: dict[str, list[Orphans]] = {}
        self._sender = Sender()
        self._beginning = ""

    def errors(self, subject: str) -> AbstractContextManager[None]:
        """For each use of the connection: wait for the rows in progress first."""
        self._sender.drain()
        return super().errors(subject)

    def look(self, target: Target, *, check: bool) -> Sequence[str]:
        try:
            with self.errors(f"table '{target.table}'"):
                self._server.begin(self._db, "read only")
                table = tables.require(self._db, self._server, target)
                if check and table is not None:
                    tables.refuse_misfits(target, table)
                    tables.widening(target, table, self._server)
                return () if table is None else list(table.columns)
        finally:
            self.close()

    def begin(self) -> None:
        with self.errors("beginning"):
            if not self._beginning:
                self._beginning = self._server.beginning(self._db)
            cursor = self._db.execute(self._beginning)
            cursor.nextset()
            row = cursor.fetchone()
            assert row is not None
            self.enter(row[0])

    def commit(self) -> None:
        with self.errors("commit"):
            self.run("commit")
        self.keep_ready()
        self._forget()

    def rollback(self) -> None:
        """Never raises."""
        self._forget()
        self._sender.stop()
        if self._connection is None:
            return
        try:
            self._connection.execute("rollback")
        except Exception:  # the connection is lost with its transaction
            pass

    def _forget(self) -> None:
        for each in (self._ready, self._refused, self._orphans):
            each.clear()

    def close(self) -> None:
        """Never raises."""
        self._sender.stop()
        try:
            if self._connection is not None:
                self._connection.close()
        except Exception:
            pass

    def execute(self, statement: str) -> None:
        with self.errors("the statement"):
            self._db.execute(statement.encode())

    def execute_alone(self, statements: Sequence[str]) -> None:
        for statement in statements:
            self.execute(statement)

    # -- rows --------------------------------------------------------------------------------------

    def write(self, target: Target, frame: pl.DataFrame, rows_before: int, first: int) -> None:
        """A later call may raise the server's error for these rows."""
        ready = self._ready_for(target, frame)
        types = self._types(ready.target, frame)
        if ready.stage is not None and not ready.staged:
            few = few_rows(self._db, ready, frame, first, types)
            if few is not None:
                ready.few, ready.staged, ready.gone = few, few.count, few.gone
                self._clear_old(ready)
                return
        self._send_few(ready)
        self._send(ready, types, frame, rows_before, first)

    def _send_few(self, ready: Ready) -> None:
        """Send by COPY the rows that wait for the merge."""
        few = ready.few
        if few is not None:
            ready.emptied()
            self._send(ready, self._types(ready.target, few.frame), few.frame, 0, few.first)

    def _clear_old(self, ready: Ready) -> None:
        if ready.has_old:
            with self.errors("the stage"):
                self.run(f"truncate {ready.stage}")
            ready.has_old = False

    def _send(
        self,
        ready: Ready,
        types: dict[str, DataType],
        frame: pl.DataFrame,
        rows_before: int,
        first: int,
    ) -> None:
        target = ready.target
        numbers = pl.int_range(first, first + frame.height, dtype=pl.Int64, eager=True)
        if ready.stage is None:
            rows = rows_to_append(frame, op=target.op)
            if target.mode == "overwrite":
                rows = rows.with_columns(pl.lit(rows_before, pl.Int64).alias(tables.BEFORE_COLUMN))
                types = {**types, tables.BEFORE_COLUMN: DataType("int64")}
            self._copy(ready, ready.into.sql, rows, types, numbers)
            return
        rows = self._staged(target, frame.with_columns(numbers.alias(PLACE)))
        if not rows.height:
            return
        self._clear_old(ready)
        types = {**types, PLACE: DataType("int64"), GONE: DataType("bool")}
        self._copy(ready, ready.stage, rows, types, rows[PLACE])
        ready.staged += rows.height
        ready.gone += int(rows[GONE].sum())
        if ready.keys is not None:
            ready.keys.add(rows, distinct=not target.sift and target.sequence is None)

    def _staged(self, target: Target, frame: pl.DataFrame) -> pl.DataFrame:
        """The rows for the stage, with GONE. One row for each key, except if other rows of the key
        may be needed: by their sequence, or if the last one is refused."""
        if not target.key:
            return rows_to_append(frame, op=target.op).with_columns(pl.lit(False).alias(GONE))
        mirror = target.mode == "mirror"
        if target.sift:
            events = Merge.events(frame, target.key, deletes=mirror)
            keyless = pl.any_horizontal(pl.col(name).is_null() for name in target.key)
            for number in events.filter(keyless)[PLACE]:
                error = DataError(
                    f"table '{target.table}' refuses a row: it has no key",
                    code="E0510",
                    help="give the row a key, or set error_handling: {on_error: dead_letter}",
                )
                self._refused.setdefault(target.step, []).append(Refusal(number, error))
            return events.filter(~keyless)
        if target.sequence is not None:
            events = Merge.events(frame, target.key, deletes=mirror)
            refuse_null_keys(frame, target.key)
            return events
        return last_of_each(frame, target.key, deletes=mirror, gone=GONE)

    def _ready_for(self, target: Target, frame: pl.DataFrame) -> Ready:
        """The tables for these columns. If there are new columns, the staged rows are merged
        first."""
        ready = self._ready.get(target.step)
        names = [n for n in frame.columns if n != KIND_COLUMN]
        if ready is None and (kept := self.kept(target)) is not None:
            ready = self._ready[target.step] = kept
        if ready is None and target.widens:
            ready = self._ready[target.step] = self.make_ready(target, target)
        if ready is not None and all(name in ready.target.schema for name in names):
            return self._grown(ready, frame)
        types = {f.name: f.type for f in (ready.target if ready else target).schema}
        fresh = Schema.from_polars({n: frame.schema[n] for n in names if n not in types})
        wider = Schema.of([*types.items(), *((f.name, f.type) for f in fresh)])
        if ready is not None:
            self._unstage(ready)
        return self._remade(replace(target, schema=wider), target, frame)

    def _remade(self, target: Target, asked: Target, frame: pl.DataFrame) -> Ready:
        ready = self._ready[target.step] = self.make_ready(target, asked)
        return self._grown(ready, frame)

    def _grown(self, ready: Ready, frame: pl.DataFrame) -> Ready:
        """The table, with columns that hold the values of the rows."""
        if not ready.target.widens:
            return ready
        types = {field.name: field.type for field in ready.target.schema}
        wider = outgrown(frame, types, tables.rooms(ready.into))
        if not wider:
            return ready
        self._unstage(ready)
        with self.errors(f"table '{ready.target.table}'"):
            for name, each in wider.items():
                self.run(tables.growth(ready.into, name, each))
        return self._remade(ready.target, ready.asked, frame)

    def _unstage(self, ready: Ready) -> None:
        """Merge the staged rows, and forget the stage."""
        self._merge(ready)
        if ready.stage is not None:
            with self.errors("the stage"):
                self.run(f"drop table {ready.stage}")
        del self._ready[ready.target.step]

    def _types(self, target: Target, frame: pl.DataFrame) -> dict[str, DataType]:
        names = [n for n in frame.columns if n != KIND_COLUMN]
        if target.op and "_op" in target.schema and "_op" not in names:
            names.append("_op")
        return {name: target.schema[name] for name in names}

    def _copy(
        self,
        ready: Ready,
        place: str,
        rows: pl.DataFrame,
        types: dict[str, DataType],
        numbers: pl.Series,
    ) -> None:
        target = ready.target
        errors = partial(super().errors, f"table '{target.table}'")
        targets: dict[str, PgType] = {n: c.type for n, c in ready.into.columns.items()}
        copier = Copier(self._db, errors, place, types, targets, ready.deferred, ready.limits)
        if target.sift:
            self._sender.drain()
            refusals, cells = copier.sift(rows, ready.pace, bound_of(target))
            refused = [Refusal(numbers[each.row], each.error) for each in refusals]
            self._refused.setdefault(target.step, []).extend(refused)
            if cells.height:
                lone = [each for each in refused if is_orphan(each.error)]
                self._orphans.setdefault(target.step, []).append(Orphans(copier, cells, lone))
            return
        names = target.key or target.schema.names[:3]
        self._sender.send(copier, rows, names, target.step)

    def update(self, target: Target, frame: pl.DataFrame) -> None:
        ready = self._ready_for(target, frame)
        self._merge(ready)
        self._sender.drain()
        errors = partial(self.errors, f"table '{target.table}'")
        update(self._db, ready.target, ready.into, frame, ready.limits, errors)

    def empty(self, target: Target) -> None:
        ready = self._ready.get(target.step) or self.kept(target)
        ready = self._ready[target.step] = ready or self.make_ready(target, target)
        self._sender.drain()
        # Others may read the table until the commit.
        with self.errors(f"table '{target.table}'"):
            if target.deleted_at is not None:
                self.run(soft_deletes.marking(target, ready.into.sql, "", [], self.now()))
            else:
                self.run(f"delete from {ready.into.sql}")
        ready.has_old |= ready.staged > 0
        ready.emptied()

    def settle(self, target: Target, *, final: bool, left_out: int = 0) -> Sweep | None:
        sweep = None
        ready = self._ready.get(target.step)
        if ready is None and final:
            ready = self._ready[target.step] = self.make_ready(target, target)
        is_checked = ready is not None and self._merge(ready, checks=True) and not target.sweeps
        if ready is not None:
            self._send_orphans(target.step)
            if final and target.sweeps:
                sweep = Sweep(self._sweep(ready, delete=not left_out), left_out)
            if final and target.mode == "overwrite":
                self._publish(ready)
        if not is_checked:
            with self.errors(f"table '{target.table}'"):
                self.run(_CHECK)
                if ready is not None and ready.shape is not None:
                    self.settled(ready, catalog.shape(self._db, ready.into.oid))
        return sweep

    def refused(self, step: str) -> list[Refusal]:
        return sorted(self._refused.pop(step, []), key=lambda refusal: refusal.row)

    def _send_orphans(self, step: str) -> None:
        """Send rows again that needed another row: it may have arrived after them."""
        waiting = self._orphans.pop(step, [])
        self._sender.drain()
        lone = {refusal.row for orphans in waiting for refusal in orphans.refusals}
        while any(orphans.retry() for orphans in waiting if orphans.refusals):
            pass
        lone -= {refusal.row for orphans in waiting for refusal in orphans.refusals}
        if lone:
            self._refused[step] = [r for r in self._refused[step] if r.row not in lone]

    def _merge(self, ready: Ready, *, checks: bool = False) -> bool:
        """Put the staged rows into the table. checks: and check deferred constraints. Returns whether that was done.
        Raises TransactionEnded if the table has been altered since an earlier transaction."""
        if ready.stage is None or not ready.staged:
            return False
        merge = Merge(
            ready.target,
            ready.into,
            ready.stage,
            unique=ready.keys is not None and ready.keys.unique,
            deferred=ready.deferred,
        )
        errors = partial(self.errors, f"table '{ready.target.table}'")
        # A row that could not be staged is not a refusal of the merge: the transaction is aborted.
        self._sender.drain()
        try:
            with errors():
                # The table is locked by now, so what the catalogue says of it holds until the commit.
                shape = merge.run(
                    self._db,
                    first=ready.few.insertion if ready.few is not None else None,
                    deletes=ready.gone > 0,
                    last=_CHECK if checks else None,
                    query=catalog.shape_query(ready.into.oid) if ready.shape is not None else None,
                )
        except DataFlareError as error:
            if not self.is_lost(error) and self.is_altered(ready):
                raise TransactionEnded from error
            if not isinstance(error, DataError):
                raise
            if ready.few is not None:
                self._send_few(ready)  # COPY says which row the server refuses
                return self._merge(ready, checks=checks)
            refused = merge.sift(self._db, errors, ready.pace, first_only=not ready.target.sift)
            if not ready.target.sift:
                notes = merge.row_at(self._db, refused[0].row) if refused else []
                error.notes[:0] = notes
                raise
            self._refused.setdefault(ready.target.step, []).extend(refused)
            checks = False
        else:
            self.settled(ready, shape)
        if ready.target.sweeps:
            self._note_keys(ready)
        ready.has_old = True
        ready.emptied()
        return checks

    # -- mirror ------------------------------------------------------------------------------------

    def _keys_table(self, ready: Ready) -> str:
        """The table of the keys that have arrived; created if it is missing."""
        into, target = ready.into, ready.target
        name = tables.keys_table_name(target, into.name)
        keys_table = f"{quoted(into.folder)}.{quoted(name)}"
        if catalog.find_exact(self._db, into.folder, name) is None:
            self.run(sweeping.keys_creation(target.key, into.sql, keys_table))
        return keys_table

    def _note_keys(self, ready: Ready) -> None:
        """Note the staged keys. The source has the keys of refused rows too."""
        key, place, stage = ready.target.key, ready.into.sql, ready.stage or ""
        with self.errors(f"table '{ready.target.table}'"):
            keys_table = self._keys_table(ready)
            self._db.execute(
                f"insert into {keys_table} ({listed(key)}) "
                f"select distinct {listed(key)} from {stage} where not {GONE}"
            )
            staged = {name: f"s.{quoted(name)}" for name in key}
            deleted = f"(select {listed(key)} from {stage} where {GONE})"
            if self.rows(f"select 1 from {stage} where {GONE} limit 1"):
                self.run(sweeping.deleted_keys(self, key, place, keys_table, deleted, staged))

    def _sweep(self, ready: Ready, *, delete: bool) -> int:
        target, place = ready.target, ready.into.sql
        with self.errors(f"table '{target.table}'"):
            keys_table = self._keys_table(ready)
            self.run(f"analyze {keys_table}")
            return sweeping.sweep(self, target, place, keys_table, delete=delete)

    def clear_keys(self, target: Target) -> None:
        with self.errors(f"table '{target.table}'"):
            table = catalog.find_table(self._db, target.table)
            if table is not None:
                name = tables.keys_table_name(target, table.name)
                self.run(f"drop table if exists {quoted(table.folder)}.{quoted(name)}")

    # -- overwrite ---------------------------------------------------------------------------------

    def _publish(self, ready: Ready) -> None:
        """Delete the table's rows and insert the staged rows."""
        target = ready.target
        with self.errors(f"table '{target.table}'"):
            table = catalog.find_table(self._db, target.table)
            if table is not None:
                tables.empty(self._db, table)
            _, name = catalog.new_place(self._db, target.table)
            if table is None:
                self.run(MAKING)
                table = catalog.find_table(self._db, target.table)
            for statement in tables.taking_over(target, ready.into, table, name):
                self.run(statement)
            table = self._existing(target)
            names = listed(name for name in ready.into.columns if name != tables.BEFORE_COLUMN)
            self._db.execute(
                f"insert into {table.sql} ({names}) overriding system value "
                f"select {names} from {ready.into.sql}"
            )
            self.run(f"drop table {ready.into.sql}")
        del self._ready[target.step]

    def trim(self, target: Target, rows: int) -> bool:
        with self.errors(f"table '{target.table}'"):
            folder, name = self._place(target)
            staging = tables.staging_name(target, name)
            table = catalog.find_exact(self._db, folder, staging) if folder else None
            if table is None:
                return False
            if rows == 0:
                self.run(f"drop table {table.sql}")
            else:
                before = quoted(tables.BEFORE_COLUMN)
                self.run(f"delete from {table.sql} where {before} >= %s", [rows])
        return True
