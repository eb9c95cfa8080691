"""A `TableStore` for databases with SQL: tables, modes and mirrors as statements.

Always true: all statements are in the transaction that `begin` opened; values are never part of the
SQL text.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

import polars as pl
from msgspec.structs import replace

from dataflare.errors import DataError
from dataflare.model.types import RESERVED, DataType, Schema
from dataflare.sdk.bisection import Refusal
from dataflare.sdk.max_errors import end_search
from dataflare.sdk.sql import soft_deletes, sweeping, tables
from dataflare.sdk.sql.fold import fold, rows_to_append
from dataflare.sdk.sql.growth import Room, Wider, characters, outgrown
from dataflare.sdk.sql.names import listed, missing_table, quoted
from dataflare.sdk.sql.ready import Ready as Ready
from dataflare.sdk.sql.sql_markers import SqlMarkers
from dataflare.sdk.sql.store import Target
from dataflare.sdk.sql.sweeping import Sweep
from dataflare.sdk.sql.tables import Table, not_there

STAGE = "_dataflare_stage"
"""The name of the rows in the statement of `SqlStore.run_with`."""


class SqlStore(SqlMarkers):
    """A store whose table is written with statements over a frame of rows. A database that is a file."""

    stage: ClassVar[str] = STAGE
    """The rows of `run_with` in SQL."""
    drop_temporary: ClassVar[str] = "drop table"
    before_conflict: ClassVar[str] = ""
    """SQL before ON CONFLICT that keeps it from being parsed as part of a join."""

    def __init__(self) -> None:
        self._ready: dict[str, Ready] = {}
        self._refused: dict[str, list[Refusal]] = {}

    # -- for subclasses ----------------------------------------------------------------------------

    @abstractmethod
    def open_to_read(self) -> None:
        """Open an existing database for reading only, without a transaction."""

    @abstractmethod
    def spelled(self, name: str) -> str:
        """A table's name in full, quoted."""

    def own(self, target: Target) -> str:
        """The written table as the prefix of a column in ON CONFLICT."""
        return self.spelled(target.written)

    def shortened(self, name: str) -> str:
        """A name that the database takes."""
        return name

    @abstractmethod
    def table_names(self) -> list[str]:
        """The names of all tables, for messages."""

    @abstractmethod
    def declared(self, type_: DataType) -> str:
        """The declaration of a new column."""

    def declared_key(self, type_: DataType) -> str:
        """The declaration of a new column of a key."""
        return self.declared(type_)

    def check(self, target: Target, table: Table) -> None:
        """Raise DataError (E0511) if the table cannot have rows of this schema."""
        tables.refuse_generated(target, table)

    def rooms(self, table: Table) -> Mapping[str, Room]:
        """What the columns hold that can become wider, by name."""
        return {}

    def growth(self, table: Table, name: str, wider: Wider) -> str:
        """The statement that makes a column of `rooms` wider."""
        kind = f"varchar({characters(wider)})" if isinstance(wider, int) else self.declared(wider)
        return f"alter table {table.place} alter column {quoted(name)} type {kind}"

    def creation_like(self, target: Target, table: Table) -> Sequence[str]:
        """The statements that create the staging table of an overwrite with the types and rules of the
        table."""
        return self.creation(target)

    def indexes_like(self, target: Target, table: Table) -> Sequence[str]:
        """The statements that create the table's unique indexes on the staging table."""
        return ()

    @abstractmethod
    def run_with(
        self, ready: Ready, types: dict[str, DataType], frame: pl.DataFrame, sql: str
    ) -> None:
        """Run a statement that reads the frame as the table `stage`, with the alias s. types: of the
        frame's columns."""

    def value(self, name: str, type_: DataType) -> str:
        """The SQL of a column of the stage, as it is stored."""
        return f"s.{quoted(name)}"

    def deletion(self, ready: Ready, same: Sequence[str]) -> str:
        """The statement that deletes the rows t of the table that are `same` as a row s of the stage."""
        return (
            f"delete from {self.spelled(ready.target.written)} as t using {self.stage} as s "
            f"where {' and '.join(same)}"
        )

    @abstractmethod
    def apply(self, ready: Ready, frame: pl.DataFrame) -> None:
        """Write the rows with `put`, or raise DataError for the first refused one."""

    @abstractmethod
    def sift(self, ready: Ready, frame: pl.DataFrame) -> list[Refusal]:
        """Write the rows with `put` except the refused ones; returns these by their row in the frame."""

    def look(self, target: Target, *, check: bool) -> Sequence[str]:
        try:
            self.open_to_read()
            with self.errors(f"table '{target.table}'"):
                table = self.require(target)
                if check and table is not None:
                    self.check(target, table)
                    self.widening(target, table)
                return () if table is None else list(table.columns)
        finally:
            self.close()

    # -- tables ------------------------------------------------------------------------------------

    def require(self, target: Target) -> Table | None:
        """The table to write, or None if it must be created. Raises E0604 if it may not be created."""
        table: Table | None = self.find(target.table)
        if table is None and not target.create_table:
            raise missing_table(target.table, self.label, self.table_names())
        if table is not None and table.view:
            raise tables.view_error(target.table, self.label)
        return table

    def creation(self, target: Target) -> list[str]:
        """The statements that create the table of the target."""
        columns = [
            f"{quoted(f.name)} {(self.declared_key if f.name in target.key else self.declared)(f.type)}"
            for f in target.schema
        ]
        if target.key:
            columns.append(f"primary key ({listed(target.key)})")
        return [f"create table {self.spelled(target.written)} ({', '.join(columns)})"]

    def widening(self, target: Target, table: Table) -> list[str]:
        """The statements that add missing columns to the table. Raises an error if it may not grow."""
        missing = tables.missing_columns(target, list(table.columns), table.name, self.label)
        return [
            f"alter table {table.place} add column {quoted(f.name)} {self.declared(f.type)}"
            for f in missing
        ]

    def make_ready(self, target: Target) -> Ready:
        """Create or widen the target's table; for a key, create a unique index."""
        with self.errors(f"table '{target.table}'"):
            old, table = self.require(target), self.find(target.written)
            indexes: Sequence[str] = ()
            if old is not None:
                self.check(target, old)
                if table is None:
                    indexes = self.indexes_like(target, old)
                    self.change(self.spelled(target.written), self.creation_like(target, old))
                    table = self.find(target.written)
            if table is None:
                statements = self.creation(target)
            else:
                self.check(target, table)
                statements = self.widening(target, table)
            # DuckDB adds no column to a table that has an index.
            self.change(self.spelled(target.written), [*statements, *indexes])
            if statements or indexes:
                table = self.find(target.written)
            assert table is not None
            unique = tables.unique_index(target, table, self.shortened) if target.key else None
        if unique is not None:
            try:
                with self.errors(f"table '{target.table}'"):
                    self.change(self.spelled(target.written), [unique])
            except DataError as error:
                raise tables.several_rows(target, target.table) from error
        ready = Ready(target, table, {field.name: field.type for field in target.schema})
        self._ready[target.step] = ready
        return ready

    def _ready_for(self, target: Target, frame: pl.DataFrame) -> Ready:
        """The table for these rows; it gets the columns that are new since `open`."""
        ready = self._ready.get(target.step)
        dtypes = {n: t for n, t in frame.schema.items() if not n.startswith(RESERVED)}
        if ready is not None and dtypes.keys() <= ready.types.keys():
            return ready
        types = ready.types if ready else {field.name: field.type for field in target.schema}
        fresh = Schema.from_polars({n: t for n, t in dtypes.items() if n not in types})
        wider = Schema.of({**types, **{field.name: field.type for field in fresh}})
        return self.make_ready(replace(target, schema=wider))

    def _grown(self, ready: Ready, frame: pl.DataFrame) -> Ready:
        """The table, with columns that hold the values of the rows."""
        if not ready.target.widens:
            return ready
        with self.errors(f"table '{ready.target.table}'"):
            if ready.rooms is None:
                ready.rooms = self.rooms(ready.table)
            wider = outgrown(frame, ready.types, ready.rooms, str.casefold)
            if not wider:
                return ready
            statements = [self.growth(ready.table, *each) for each in wider.items()]
            self.change(self.spelled(ready.target.written), statements)
        return self.make_ready(ready.target)

    # -- rows --------------------------------------------------------------------------------------

    def write(self, target: Target, frame: pl.DataFrame, rows_before: int, first: int) -> None:
        ready = self._grown(self._ready_for(target, frame), frame)
        if not target.sift:
            self.apply(ready, frame)
            return
        refused = self.sift(ready, frame)
        if refused and target.sweeps:
            # The source has these rows, so the table's rows with their keys stay.
            rows = frame[[each.row for each in refused]].drop_nulls(list(target.key))
            self._note_keys(ready, rows, rows.clear())
        of_step = self._refused.setdefault(target.step, [])
        of_step.extend(Refusal(first + each.row, each.error) for each in refused)
        end_search(target.step, len(of_step), target.refused_max)

    def update(self, target: Target, frame: pl.DataFrame) -> None:
        ready, key = self._ready_for(target, frame), list(target.key)
        types = {name: ready.types[name] for name in frame.columns}
        same = " and ".join(f"{self.value(n, types[n])} = t.{quoted(n)}" for n in key)
        place, missing = self.spelled(target.table), "_dataflare_missing"
        absent = (
            f"create temporary table {missing} as select {listed(key, 's.')} from {self.stage} as s "
            f"where not exists (select 1 from {place} as t where {same})"
        )
        self.run_with(ready, types, frame, absent)
        with self.errors(f"table '{target.table}'"):
            lacking = self.rows(f"select * from {missing} limit 1")
            self.run(f"{self.drop_temporary} {missing}")
        if lacking:
            raise not_there(target, lacking[0])
        values = {n: self.value(n, t) for n, t in types.items() if n not in key}
        if values:
            self.run_with(ready, types, frame, self.updating(place, values, same))

    def updating(self, place: str, values: Mapping[str, str], same: str) -> str:
        """The statement that changes columns of the rows t of the table that are `same` as a row s of the stage."""
        sets = ", ".join(f"{quoted(name)} = {value}" for name, value in values.items())
        return f"update {place} as t set {sets} from {self.stage} as s where {same}"

    def empty(self, target: Target) -> None:
        place = self.make_ready(target).table.place
        with self.errors(f"table '{target.table}'"):
            if target.deleted_at is not None:
                self.run(soft_deletes.marking(target, place, "", [], self.now()))
            else:
                self.run(f"delete from {place}")

    def put(self, ready: Ready, frame: pl.DataFrame) -> None:
        """Write the rows in the target's mode."""
        target = ready.target
        if not target.key:
            self.append(ready, rows_to_append(frame, op=target.op))
            return
        changes = fold(frame, target.key, deletes=target.mode == "mirror", sequence=target.sequence)
        if changes.deletes.height:
            self._delete(ready, changes.deletes)
        upserts = changes.upserts
        if target.deleted_at is not None:
            dtype = ready.types[target.deleted_at].to_polars()
            upserts = upserts.with_columns(pl.lit(None, dtype).alias(target.deleted_at))
        if upserts.height:
            self.insert(ready, upserts, self._on_conflict(target, upserts.columns))
        if target.sweeps:
            self._note_keys(ready, changes.upserts, changes.deletes)

    def append(self, ready: Ready, frame: pl.DataFrame) -> None:
        self.insert(ready, frame, "")

    def insert(self, ready: Ready, frame: pl.DataFrame, on_conflict: str) -> None:
        types = {name: ready.types[name] for name in frame.columns}
        values = ", ".join(self.value(name, type_) for name, type_ in types.items())
        tail = f" {self.before_conflict}{on_conflict}" if on_conflict else ""
        into = f"insert into {self.spelled(ready.target.written)} ({listed(types)})"
        self.run_with(ready, types, frame, f"{into} select {values} from {self.stage} as s{tail}")

    def _on_conflict(self, target: Target, columns: Sequence[str]) -> str:
        sets = ", ".join(
            f"{quoted(n)} = excluded.{quoted(n)}" for n in columns if n not in target.key
        )
        if not sets:
            return f"on conflict ({listed(target.key)}) do nothing"
        action = f"on conflict ({listed(target.key)}) do update set {sets}"
        if target.sequence is not None:
            ours = f"{self.own(target)}.{quoted(target.sequence)}"
            action += f" where excluded.{quoted(target.sequence)} > {ours} or {ours} is null"
        return action

    def _delete(self, ready: Ready, frame: pl.DataFrame) -> None:
        key, sequence = ready.target.key, ready.target.sequence
        types = {n: ready.types[n] for n in [*key, *([sequence] if sequence else [])]}
        same = [f"{self.value(n, types[n])} = t.{quoted(n)}" for n in key]
        if sequence is not None:
            s, t = f"s.{quoted(sequence)}", f"t.{quoted(sequence)}"
            same.append(f"({s} >= {t} or {t} is null)")
        sql = self.deletion(ready, same)
        if ready.target.deleted_at is not None:
            place = self.spelled(ready.target.written)
            unmarked = " and ".join([*same, soft_deletes.is_there(ready.target)])
            marked = {ready.target.deleted_at: self.now()}
            sql = self.updating(place, marked, unmarked)
        self.run_with(ready, types, frame.select(list(types)), sql)

    def settle(self, target: Target, *, final: bool, left_out: int = 0) -> Sweep | None:
        if not final:
            return None
        ready = self._ready.get(target.step) or self.make_ready(target)
        if target.sweeps:
            return Sweep(self._sweep(ready, delete=not left_out), left_out)
        if target.mode == "overwrite":
            with self.errors(f"table '{target.table}'"):
                self.publish(ready)
            del self._ready[target.step]
        return None

    def refused(self, step: str) -> list[Refusal]:
        return self._refused.pop(step, [])

    # -- mirror ------------------------------------------------------------------------------------

    def _keys_table(self, ready: Ready) -> str:
        """The table of the keys that have arrived; created if it is missing."""
        target = ready.target
        keys_table = self.spelled(target.keys_table)
        if not ready.has_keys and self.find(target.keys_table) is None:
            place = self.spelled(target.table)
            self.change(keys_table, [self.keys_creation(target, place, keys_table)])
        ready.has_keys = True
        return keys_table

    def keys_creation(self, target: Target, place: str, keys_table: str) -> str:
        """The statement that creates the table of keys."""
        return sweeping.keys_creation(target.key, place, keys_table)

    def index_keys(self, target: Target) -> None:
        """Create an index of the table of keys, if the database needs one to be quick."""
        return

    def _note_keys(self, ready: Ready, arrived: pl.DataFrame, deleted: pl.DataFrame) -> None:
        target, key = ready.target, ready.target.key
        with self.errors(f"table '{target.table}'"):
            keys_table = self._keys_table(ready)
        types = {name: ready.types[name] for name in key}
        staged = {name: self.value(name, type_) for name, type_ in types.items()}
        if arrived.height:
            insert = f"insert into {keys_table} ({listed(key)})"
            sql = f"{insert} select {', '.join(staged.values())} from {self.stage} as s"
            self.run_with(ready, types, arrived.select(key), sql)
        if deleted.height:
            self.index_keys(target)
            place = self.spelled(target.table)
            sql = sweeping.deleted_keys(self, key, place, keys_table, self.stage, staged)
            self.run_with(ready, types, deleted.select(key), sql)

    def _sweep(self, ready: Ready, *, delete: bool) -> int:
        target = ready.target
        with self.errors(f"table '{target.table}'"):
            keys_table, place = self._keys_table(ready), self.spelled(target.table)
            self.index_keys(target)
            missing = sweeping.sweep(self, target, place, keys_table, delete=delete)
            ready.has_keys = False
        return missing

    def clear_keys(self, target: Target) -> None:
        with self.errors(f"table '{target.table}'"):
            place = self.spelled(target.keys_table)
            self.change(place, [f"drop table if exists {place}"])

    # -- overwrite ---------------------------------------------------------------------------------

    def publish(self, ready: Ready) -> None:
        """Replace the table by the staging table: delete its rows and insert the staged ones."""
        target, staged = ready.target, ready.table
        old = self.find(target.table)
        if old is None:
            self.rename(staged, target)
            return
        names = listed(staged.columns)
        columns = {name.casefold() for name in old.columns}
        for name, type_ in staged.columns.items():
            if name.casefold() not in columns:
                self.run(f"alter table {old.place} add column {quoted(name)} {type_}")
        self.run(f"delete from {old.place}")
        self.run(
            f"insert into {old.place} ({names}) select {names} from {staged.place} order by rowid"
        )
        self.run(f"drop table {staged.place}")

    def rename(self, staged: Table, target: Target) -> None:
        """Give the staging table the name of the target, which does not exist."""
        name = target.table.rpartition(".")[2] if staged.schema else target.table
        self.run(f"alter table {staged.place} rename to {quoted(name)}")

    def trim(self, target: Target, rows: int) -> bool:
        with self.errors(f"table '{target.table}'"):
            staged = self.find(target.written)
            if staged is None:
                return False
            if rows == 0:
                self.run(f"drop table {staged.place}")
            else:
                self.run(
                    f"delete from {staged.place} where rowid > (select rowid from {staged.place} "
                    f"order by rowid limit 1 offset {rows - 1})"
                )
        return True
