"""The commit protocol's calls on an SQLite file.

The journal mode of a database is left as it is: it belongs to whoever made the file, and a new file
keeps SQLite's default, one file that can be copied. Foreign keys are not enforced, as SQLite's
default is.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
from msgspec.structs import replace

from dataflare.connectors.sql import marker, sweeping
from dataflare.connectors.sql.fold import appended, fold
from dataflare.connectors.sql.marker import (
    MARKER_COLUMNS,
    MARKER_DDL,
    MARKER_TABLE,
    MarkerRows,
    Stored,
)
from dataflare.connectors.sql.names import listed, quoted
from dataflare.connectors.sql.refusals import Pace, Refusal, rowwise, sift, with_row
from dataflare.connectors.sql.shared import now_text
from dataflare.connectors.sql.store import TableStore, Target
from dataflare.connectors.sqlite import tables
from dataflare.connectors.sqlite.connection import Connection, Opened
from dataflare.connectors.sqlite.errors import sqlite_errors
from dataflare.connectors.sqlite.exactness import as_text, refuse_loss
from dataflare.connectors.sqlite.types import meant, stored
from dataflare.errors import DataError
from dataflare.model.types import RESERVED, DataType, Schema

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
            # Swapping a table in must not fail because a view names it.
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
        except Exception:  # there is none: it was committed, or SQLite has rolled it back by itself
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

    def write_marker(self, target: Target, stored: Stored) -> None:
        with sqlite_errors(self._path, f"table {MARKER_TABLE}"):
            self._db.execute(MARKER_DDL)
            for statement in marker.widening(self._marker_columns()):
                self._db.execute(statement)
            marks = ", ".join("?" * len(MARKER_COLUMNS))
            self._db.execute(
                f"insert or replace into {MARKER_TABLE} ({listed(MARKER_COLUMNS)}) values ({marks})",
                marker.values(target, stored, now_text()),
            )

    def supersede(self, target: Target) -> None:
        with sqlite_errors(self._path, f"table {MARKER_TABLE}"):
            self._db.execute(
                f"delete from {MARKER_TABLE} "
                "where step = ? and workflow = ? and place = ? and lineage <> ?",
                (target.step, target.workflow, target.place, target.lineage),
            )

    def _marker_columns(self) -> set[str]:
        found = self._db.frame("select name from pragma_table_info(?)", (MARKER_TABLE,))
        return {str(name) for (name,) in found.rows()}

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
            found = tables.find_table(self._db, target.written)
            if found is None and old is not None:
                for statement in tables.creation_like(self._db, target, old):
                    self._db.execute(statement)
                if old.rowid:
                    for statement in tables.unique_indexes_like(self._db, target, old):
                        self._db.execute(statement)
                found = tables.find_table(self._db, target.written)
            if old is not None:
                tables.refuse_misfits(target, old)
            if found is None:
                statements = tables.creation(target)
            else:
                tables.refuse_misfits(target, found)
                statements = tables.widening(target, found, self._path)
            for statement in statements:
                self._db.execute(statement)
            if target.mode in ("upsert", "mirror"):
                self._make_unique(target)
            self._ready[target.written] = {field.name for field in target.schema}
            made = tables.find_table(self._db, target.written)
            columns = made.columns if made is not None else {}
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
                f"so mode '{target.mode}' cannot tell them apart",
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
            # The source has them, so what the table holds of them stays.
            rows = frame[[each.row for each in refused]].drop_nulls(list(target.key))
            self._note_seen(target, self._schema_of(target, frame), rows, rows.clear())
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
        found = sift(rows.height, attempt, pace, first_only=first_only)
        return [Refusal(numbers[each.row], each.error) for each in found]

    def _write(self, target: Target, schema: Schema, frame: pl.DataFrame) -> None:
        if target.mode in ("append", "overwrite"):
            self._append(target, schema, appended(frame, op=target.op))
            return
        mirror = target.mode == "mirror"
        changes = fold(frame, target.key, deletes=mirror, sequence=target.sequence)
        if changes.deletes.height:
            self._delete(target, schema, changes.deletes)
        if changes.upserts.height:
            self._upsert(target, schema, changes.upserts)
        if target.sweeps:
            self._note_seen(target, schema, changes.upserts, changes.deletes)

    def _schema_of(self, target: Target, frame: pl.DataFrame) -> Schema:
        """The types of the frame's columns. Columns that came up since `open` are added."""
        found = {n: t for n, t in frame.schema.items() if not n.startswith(RESERVED)}
        known = {field.name: field.type for field in target.schema}
        schema = Schema.of([(f.name, known.get(f.name, f.type)) for f in Schema.from_polars(found)])
        if not set(found) <= self._ready[target.written]:
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
        then = "do nothing"
        if others:
            then = "do update set " + ", ".join(
                f"{quoted(n)} = excluded.{quoted(n)}" for n in others
            )
            if target.sequence is not None:
                ours = f"{quoted(target.written)}.{quoted(target.sequence)}"
                then += f" where excluded.{quoted(target.sequence)} > {ours} or {ours} is null"
        sql = _insert(target, types, f"on conflict ({listed(target.key)}) {then}")
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
        # cross join fixes the order: for each staged key a look into the table's index.
        keys = ", ".join(f"t.{quoted(n)}" for n in target.key)
        self._db.execute(
            f"delete from {quoted(target.written)} where ({listed(target.key)}) in (select {keys} "
            f"from temp.{_STAGE} as s cross join {quoted(target.written)} as t "
            f"where {' and '.join(same)})"
        )

    # -- mirror ------------------------------------------------------------------------------------

    def _note_seen(
        self, target: Target, schema: Schema, came: pl.DataFrame, gone: pl.DataFrame
    ) -> None:
        self._make_seen(target)
        place, seen, key = quoted(target.table), quoted(target.seen), target.key
        types = {name: schema[name] for name in key}
        staged = {name: _converted(name, type_) for name, type_ in types.items()}
        if came.height:
            self._stage(self._encode(target, types, came.select(key)))
            self._db.execute(
                f"insert into {seen} ({listed(key)}) "
                f"select {', '.join(staged.values())} from temp.{_STAGE} as s"
            )
        if gone.height:
            self._index_seen(target)
            self._stage(self._encode(target, types, gone.select(key)))
            self._db.execute(sweeping.gone_keys(key, place, seen, f"temp.{_STAGE}", staged))

    def _make_seen(self, target: Target) -> None:
        if tables.find_table(self._db, target.seen) is None:
            place, seen = quoted(target.table), quoted(target.seen)
            self._db.execute(sweeping.seen_creation(target.key, place, seen))

    def _index_seen(self, target: Target) -> None:
        name = quoted(f"{target.seen}_key")
        self._db.execute(
            f"create index if not exists {name} on {quoted(target.seen)} ({listed(target.key)})"
        )

    def sweep(self, target: Target) -> None:
        with sqlite_errors(self._path, f"table '{target.table}'"):
            self._make_seen(target)
            self._index_seen(target)
            place, seen, key = quoted(target.table), quoted(target.seen), target.key
            gone, total = self._db.frame(sweeping.counts(key, place, seen)).row(0)
            sweeping.refuse_too_many(target, int(gone), int(total))
            if gone:
                self._db.execute(sweeping.deletion(key, place, seen))
            self._db.execute(f"drop table {seen}")

    def forget_seen(self, target: Target) -> None:
        with sqlite_errors(self._path, f"table '{target.table}'"):
            self._db.execute(f"drop table if exists {quoted(target.seen)}")

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
        made = frame.select(
            as_text(stored(pl.col(n), t), t, declared.get(n.casefold(), "")).alias(n)
            for n, t in types.items()
        )
        for name, type_ in types.items():
            refuse_loss(made[name], type_, declared.get(name.casefold(), ""), target.table)
        return made

    def _refuse_too_great(self, target: Target, column: pl.Series) -> None:
        greatest: Any = column.max()
        if greatest is None or greatest <= _INT64_MAX:
            return
        table = tables.find_table(self._db, target.written)
        declaration = table.columns.get(column.name, "") if table is not None else ""
        type_ = meant(declaration)
        if type_ is not None and type_.name == "int64":
            raise DataError(
                f"column '{column.name}' of table '{target.table}' is {declaration}, and "
                f"{greatest} is too great for it",
                code="E0511",
                help="declare the column wider, or set error_handling: {on_error: dead_letter}",
            )

    def publish(self, target: Target) -> None:
        with sqlite_errors(self._path, f"table '{target.table}'"):
            old = tables.find_table(self._db, target.table)
            if old is not None and not old.rowid:
                self._move_over(target, old)
                return
            again: Sequence[str] = tables.dependents(self._db, target.table)
            for index in tables.indexes(self._db, target.written):
                self._db.execute(f"drop index {quoted(index)}")
            self._db.execute(f"drop table if exists {quoted(target.table)}")
            name = target.table if old is None else old.name
            self._db.execute(f"alter table {quoted(target.written)} rename to {quoted(name)}")
            for statement in again:
                self._db.execute(statement)

    def _move_over(self, target: Target, old: tables.Table) -> None:
        """The staged rows into a table without rowids, which they cannot be staged in."""
        staged = tables.find_table(self._db, target.written)
        assert staged is not None
        names, place = listed(staged.columns), quoted(old.name)
        known = {name.casefold() for name in old.columns}
        for name, type_ in staged.columns.items():
            if name.casefold() not in known:
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


def _insert(target: Target, types: dict[str, DataType], then: str) -> str:
    """Insert from the stage. The condition keeps `on conflict` from being read as part of a join."""
    values = ", ".join(_converted(name, type_) for name, type_ in types.items())
    into = f"insert into {quoted(target.written)} ({listed(types)})"
    return f"{into} select {values} from temp.{_STAGE} as s where true {then}"


def _converted(name: str, type_: DataType) -> str:
    """A staged column as it is stored: numbers beyond int64 stay text, the others become integers."""
    column = f"s.{quoted(name)}"
    if type_.name != "uint64":
        return column
    small = f"length({column}) < 19 or (length({column}) = 19 and {column} <= '{_INT64_MAX}')"
    return f"case when {small} then cast({column} as integer) else {column} end"
