"""The commit protocol's operations on an SQLite file. The journal mode of an existing database is
not changed: the program that created the file has chosen it. A new file has SQLite's default, a
single file that can be copied. Foreign keys are not enforced, as is SQLite's default.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
from msgspec.structs import replace

from dataflare.connectors.sqlite import tables
from dataflare.connectors.sqlite.connection import Connection, Opened
from dataflare.connectors.sqlite.errors import sqlite_errors
from dataflare.connectors.sqlite.exactness import as_text, refuse_loss
from dataflare.connectors.sqlite.types import stored, type_of_declaration
from dataflare.errors import DataError
from dataflare.model.types import RESERVED, DataType, Schema
from dataflare.sdk.sql import marker, sweeping
from dataflare.sdk.sql.fold import fold, rows_to_append
from dataflare.sdk.sql.marker import (
    MARKER_COLUMNS,
    MARKER_DDL,
    MARKER_TABLE,
    MarkerRow,
    MarkerRows,
)
from dataflare.sdk.sql.names import listed, quoted
from dataflare.sdk.sql.refusals import Pace, Refusal, rowwise, sift, with_row
from dataflare.sdk.sql.shared import now_text
from dataflare.sdk.sql.store import TableStore, Target

_STAGE, _NUMBER = "_dataflare_stage", "__dataflare_number"
_INT64_MAX = 2**63 - 1


class SqliteStore(TableStore):
    def __init__(self, path: Path, busy_timeout_s: float) -> None:
        self._path, self._busy_timeout_s = path, busy_timeout_s
        self._opened: Opened | None = None
        self._ready: dict[str, set[str]] = {}
        self._pace: dict[str, Pace] = {}
        self._declared: dict[str, dict[str, str]] = {}

    @property
    def _db(self) -> Connection:
        assert self._opened is not None
        return self._opened.db

    def begin(self) -> None:
        with sqlite_errors(self._path, "opening"):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._opened = Opened(self._path, mode="rwc", busy_timeout_s=self._busy_timeout_s)
            # Replacing a table must not fail because a view names it.
            self._db.execute("pragma legacy_alter_table = on")
            self._db.execute("pragma cache_size = -32768")
            self._db.execute("begin immediate")

    def commit(self) -> None:
        with sqlite_errors(self._path, "commit"):
            self._db.execute("commit")

    def rollback(self) -> None:
        if self._opened is None:
            return
        try:
            self._db.execute("rollback")
        except (
            Exception
        ):  # there is no transaction: it was committed, or SQLite has rolled it back itself
            pass

    def close(self) -> None:
        opened, self._opened = self._opened, None
        if opened is not None:
            opened.close()

    def execute(self, statement: str) -> None:
        with sqlite_errors(self._path, "the statement"):
            self._db.execute(statement)

    def execute_alone(self, statements: Sequence[str]) -> None:
        with sqlite_errors(self._path, "the statement"):
            opened = Opened(self._path, mode="rwc", busy_timeout_s=self._busy_timeout_s)
            try:
                for statement in statements:
                    opened.db.execute(statement)
            finally:
                opened.close()

    def read_marker(self, target: Target) -> MarkerRows:
        with sqlite_errors(self._path, f"table {MARKER_TABLE}"):
            columns = self._marker_columns()
            if not columns:
                return MarkerRows()
            query, parameters = marker.selection(target, columns)
            return marker.marker_rows(target, self._db.frame(query, tuple(parameters)).rows())

    def write_marker(self, target: Target, row: MarkerRow) -> None:
        with sqlite_errors(self._path, f"table {MARKER_TABLE}"):
            self._db.execute(MARKER_DDL)
            for statement in marker.widening(self._marker_columns()):
                self._db.execute(statement)
            marks = ", ".join("?" * len(MARKER_COLUMNS))
            self._db.execute(
                f"insert or replace into {MARKER_TABLE} ({listed(MARKER_COLUMNS)}) values ({marks})",
                marker.values(target, row, now_text()),
            )

    def supersede(self, target: Target) -> None:
        with sqlite_errors(self._path, f"table {MARKER_TABLE}"):
            self._db.execute(
                f"delete from {MARKER_TABLE} "
                "where step = ? and workflow = ? and place = ? and lineage <> ?",
                (target.step, target.workflow, target.place, target.lineage),
            )

    def _marker_columns(self) -> set[str]:
        columns = self._db.frame("select name from pragma_table_info(?)", (MARKER_TABLE,))
        return {str(name) for (name,) in columns.rows()}

    def is_missing(self, target: Target) -> bool:
        with sqlite_errors(self._path, f"table '{target.table}'"):
            return tables.find_table(self._db, target.table) is None

    def is_empty(self, target: Target) -> bool:
        with sqlite_errors(self._path, f"table '{target.table}'"):
            table = tables.find_table(self._db, target.table)
            if table is None:
                return True
            return not self._db.frame(f"select 1 from {quoted(table.name)} limit 1").height

    def make_ready(self, target: Target) -> None:
        with sqlite_errors(self._path, f"table '{target.table}'"):
            old = tables.require(self._db, target, self._path)
            table = tables.find_table(self._db, target.written)
            if table is None and old is not None:
                for statement in tables.creation_like(self._db, target, old):
                    self._db.execute(statement)
                if old.rowid:
                    for statement in tables.unique_indexes_like(self._db, target, old):
                        self._db.execute(statement)
                table = tables.find_table(self._db, target.written)
            if old is not None:
                tables.refuse_misfits(target, old)
            if table is None:
                statements = tables.creation(target)
            else:
                tables.refuse_misfits(target, table)
                statements = tables.widening(target, table, self._path)
            for statement in statements:
                self._db.execute(statement)
            if target.mode in ("upsert", "mirror"):
                self._make_unique(target)
            self._ready[target.written] = {field.name for field in target.schema}
            ready_table = tables.find_table(self._db, target.written)
            columns = ready_table.columns if ready_table is not None else {}
            self._declared[target.written] = {n.casefold(): t for n, t in columns.items()}

    def _make_unique(self, target: Target) -> None:
        table = tables.find_table(self._db, target.written)
        assert table is not None
        statement = tables.unique_index(target, table)
        if statement is None:
            return
        try:
            with sqlite_errors(self._path, f"table '{target.table}'"):
                self._db.execute(statement)
        except DataError as error:
            raise DataError(
                f"table '{target.table}' has several rows for one key ({', '.join(target.key)}), "
                f"so mode '{target.mode}' cannot distinguish them",
                code="E0510",
                help="remove the duplicates, or choose other key columns",
            ) from error

    def apply(self, target: Target, frame: pl.DataFrame) -> None:
        for refusal in self._sifted(target, frame, first_only=True):
            row = frame.row(refusal.row, named=True)
            raise with_row(refusal.error, row, target.key) from refusal.error.__cause__

    def sift(self, target: Target, frame: pl.DataFrame) -> list[Refusal]:
        refused = self._sifted(target, frame)
        if refused and target.sweeps:
            # The source has these rows, so the table's rows with their keys stay.
            rows = frame[[each.row for each in refused]].drop_nulls(list(target.key))
            self._note_keys(target, self._schema_of(target, frame), rows, rows.clear())
        return refused

    def _sifted(
        self, target: Target, frame: pl.DataFrame, *, first_only: bool = False
    ) -> list[Refusal]:
        schema = self._schema_of(target, frame)
        rows = rowwise(frame.with_row_index(_NUMBER), target.key)
        numbers, rows = rows[_NUMBER], rows.drop(_NUMBER)

        def attempt(first: int, behind: int) -> None:
            self._db.execute("savepoint _dataflare_rows")
            try:
                with sqlite_errors(self._path, f"table '{target.table}'"):
                    self._write(target, schema, rows.slice(first, behind - first))
            except DataError:
                self._db.execute("rollback to _dataflare_rows")
                self._db.execute("release _dataflare_rows")
                raise
            self._db.execute("release _dataflare_rows")

        pace = self._pace.setdefault(target.written, Pace())
        refused = sift(rows.height, attempt, pace, first_only=first_only)
        return [Refusal(numbers[each.row], each.error) for each in refused]

    def _write(self, target: Target, schema: Schema, frame: pl.DataFrame) -> None:
        if target.mode in ("append", "overwrite"):
            self._append(target, schema, rows_to_append(frame, op=target.op))
            return
        mirror = target.mode == "mirror"
        changes = fold(frame, target.key, deletes=mirror, sequence=target.sequence)
        if changes.deletes.height:
            self._delete(target, schema, changes.deletes)
        if changes.upserts.height:
            self._upsert(target, schema, changes.upserts)
        if target.sweeps:
            self._note_keys(target, schema, changes.upserts, changes.deletes)

    def _schema_of(self, target: Target, frame: pl.DataFrame) -> Schema:
        """The types of the frame's columns. Adds columns that are new since `open`."""
        types = {n: t for n, t in frame.schema.items() if not n.startswith(RESERVED)}
        types_by_name = {field.name: field.type for field in target.schema}
        schema = Schema.of(
            [(f.name, types_by_name.get(f.name, f.type)) for f in Schema.from_polars(types)]
        )
        if not set(types) <= self._ready[target.written]:
            ready = self._ready[target.written]
            wider = {f.name: f.type for f in (*target.schema, *schema)}
            self.make_ready(replace(target, schema=Schema.of(wider)))
            self._ready[target.written] |= ready
        return schema

    def _append(self, target: Target, schema: Schema, frame: pl.DataFrame) -> None:
        types = {n: target.schema[n] if n in target.schema else schema[n] for n in frame.columns}
        encoded = self._encode(target, types, frame)
        if any(type_.name == "uint64" for type_ in types.values()):
            self._stage(encoded)
            self._db.execute(_insert(target, types, ""))
            return
        self._db.append(target.written, encoded)

    def _upsert(self, target: Target, schema: Schema, frame: pl.DataFrame) -> None:
        types = {name: schema[name] for name in frame.columns}
        others = [name for name in frame.columns if name not in target.key]
        action = "do nothing"
        if others:
            action = "do update set " + ", ".join(
                f"{quoted(n)} = excluded.{quoted(n)}" for n in others
            )
            if target.sequence is not None:
                ours = f"{quoted(target.written)}.{quoted(target.sequence)}"
                action += f" where excluded.{quoted(target.sequence)} > {ours} or {ours} is null"
        sql = _insert(target, types, f"on conflict ({listed(target.key)}) {action}")
        self._stage(self._encode(target, types, frame))
        self._db.execute(sql)

    def _delete(self, target: Target, schema: Schema, frame: pl.DataFrame) -> None:
        names = [*target.key, *([target.sequence] if target.sequence else [])]
        types = {name: schema[name] for name in names}
        self._stage(self._encode(target, types, frame.select(names)))
        same = [f"{_converted(n, types[n])} = t.{quoted(n)}" for n in target.key]
        if target.sequence is not None:
            s = target.sequence
            same.append(f"(s.{quoted(s)} >= t.{quoted(s)} or t.{quoted(s)} is null)")
        # cross join fixes the order: for each staged key, a lookup in the table's index.
        keys = ", ".join(f"t.{quoted(n)}" for n in target.key)
        self._db.execute(
            f"delete from {quoted(target.written)} where ({listed(target.key)}) in (select {keys} "
            f"from temp.{_STAGE} as s cross join {quoted(target.written)} as t "
            f"where {' and '.join(same)})"
        )

    # -- mirror ------------------------------------------------------------------------------------

    def _note_keys(
        self, target: Target, schema: Schema, arrived: pl.DataFrame, deleted: pl.DataFrame
    ) -> None:
        self._make_keys(target)
        place, keys_table, key = quoted(target.table), quoted(target.keys_table), target.key
        types = {name: schema[name] for name in key}
        staged = {name: _converted(name, type_) for name, type_ in types.items()}
        if arrived.height:
            self._stage(self._encode(target, types, arrived.select(key)))
            self._db.execute(
                f"insert into {keys_table} ({listed(key)}) "
                f"select {', '.join(staged.values())} from temp.{_STAGE} as s"
            )
        if deleted.height:
            self._index_keys(target)
            self._stage(self._encode(target, types, deleted.select(key)))
            self._db.execute(
                sweeping.deleted_keys(key, place, keys_table, f"temp.{_STAGE}", staged)
            )

    def _make_keys(self, target: Target) -> None:
        if tables.find_table(self._db, target.keys_table) is None:
            place, keys_table = quoted(target.table), quoted(target.keys_table)
            self._db.execute(sweeping.keys_creation(target.key, place, keys_table))

    def _index_keys(self, target: Target) -> None:
        name = quoted(f"{target.keys_table}_key")
        self._db.execute(
            f"create index if not exists {name} on {quoted(target.keys_table)} ({listed(target.key)})"
        )

    def sweep(self, target: Target, *, delete: bool) -> int:
        with sqlite_errors(self._path, f"table '{target.table}'"):
            self._make_keys(target)
            self._index_keys(target)
            place, keys_table, key = quoted(target.table), quoted(target.keys_table), target.key
            missing, total = self._db.frame(sweeping.counts(key, place, keys_table)).row(0)
            if delete:
                sweeping.refuse_deletes(target, int(missing), int(total))
            if missing and delete:
                self._db.execute(sweeping.deletion(key, place, keys_table))
            self._db.execute(f"drop table {keys_table}")
        return int(missing)

    def clear_keys(self, target: Target) -> None:
        with sqlite_errors(self._path, f"table '{target.table}'"):
            self._db.execute(f"drop table if exists {quoted(target.keys_table)}")

    def _stage(self, encoded: pl.DataFrame) -> None:
        self._db.execute(f"drop table if exists temp.{_STAGE}")
        self._db.stage(_STAGE, encoded)

    def _encode(
        self, target: Target, types: dict[str, DataType], frame: pl.DataFrame
    ) -> pl.DataFrame:
        for name, type_ in types.items():
            if type_.name == "uint64":
                self._refuse_too_great(target, frame[name])
        declared = self._declared[target.written]
        encoded = frame.select(
            as_text(stored(pl.col(n), t), t, declared.get(n.casefold(), "")).alias(n)
            for n, t in types.items()
        )
        for name, type_ in types.items():
            refuse_loss(encoded[name], type_, declared.get(name.casefold(), ""), target.table)
        return encoded

    def _refuse_too_great(self, target: Target, column: pl.Series) -> None:
        greatest: Any = column.max()
        if greatest is None or greatest <= _INT64_MAX:
            return
        table = tables.find_table(self._db, target.written)
        declaration = table.columns.get(column.name, "") if table is not None else ""
        type_ = type_of_declaration(declaration)
        if type_ is not None and type_.name == "int64":
            raise DataError(
                f"column '{column.name}' of table '{target.table}' is {declaration}, and "
                f"{greatest} is too large for it",
                code="E0511",
                help="declare the column wider, or set error_handling: {on_error: dead_letter}",
            )

    def publish(self, target: Target) -> None:
        with sqlite_errors(self._path, f"table '{target.table}'"):
            old = tables.find_table(self._db, target.table)
            if old is not None and not old.rowid:
                self._move_over(target, old)
                return
            statements: Sequence[str] = tables.dependents(self._db, target.table)
            for index in tables.indexes(self._db, target.written):
                self._db.execute(f"drop index {quoted(index)}")
            self._db.execute(f"drop table if exists {quoted(target.table)}")
            name = target.table if old is None else old.name
            self._db.execute(f"alter table {quoted(target.written)} rename to {quoted(name)}")
            for statement in statements:
                self._db.execute(statement)

    def _move_over(self, target: Target, old: tables.Table) -> None:
        """Move the staged rows into a table without rowids; such a table cannot be a staging
        table."""
        staged = tables.find_table(self._db, target.written)
        assert staged is not None
        names, place = listed(staged.columns), quoted(old.name)
        columns = {name.casefold() for name in old.columns}
        for name, type_ in staged.columns.items():
            if name.casefold() not in columns:
                self._db.execute(f"alter table {place} add column {quoted(name)} {type_}")
        self._db.execute(f"delete from {place}")
        self._db.execute(
            f"insert into {place} ({names}) "
            f"select {names} from {quoted(staged.name)} order by rowid"
        )
        self._db.execute(f"drop table {quoted(staged.name)}")

    def trim(self, target: Target, rows: int) -> None:
        staging = quoted(target.written)
        with sqlite_errors(self._path, f"table '{target.table}'"):
            if rows == 0:
                self._db.execute(f"drop table if exists {staging}")
            elif self.has_staging(target):
                self._db.execute(
                    f"delete from {staging} where rowid > (select rowid from {staging} "
                    f"order by rowid limit 1 offset {rows - 1})"
                )

    def has_staging(self, target: Target) -> bool:
        return tables.find_table(self._db, target.written) is not None


def _insert(target: Target, types: dict[str, DataType], on_conflict: str) -> str:
    """Insert from the stage. Without the condition, `on conflict` would be parsed as part of a
    join."""
    values = ", ".join(_converted(name, type_) for name, type_ in types.items())
    into = f"insert into {quoted(target.written)} ({listed(types)})"
    return f"{into} select {values} from temp.{_STAGE} as s where true {on_conflict}"


def _converted(name: str, type_: DataType) -> str:
    """A staged column in its stored form: numbers beyond int64 stay text, others become
    integers."""
    column = f"s.{quoted(name)}"
    if type_.name != "uint64":
        return column
    small = f"length({column}) < 19 or (length({column}) = 19 and {column} <= '{_INT64_MAX}')"
    return f"case when {small} then cast({column} as integer) else {column} end"
