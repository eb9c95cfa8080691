"""The commit protocol's operations on a DuckDB file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import duckdb
import polars as pl
from msgspec.structs import replace

from dataflare.connectors.duckdb import tables
from dataflare.connectors.duckdb.connection import DuckConnection
from dataflare.connectors.duckdb.errors import duckdb_errors
from dataflare.connectors.duckdb.exactness import loss
from dataflare.connectors.duckdb.limits import beyond, value_texts
from dataflare.connectors.duckdb.rules import Rules, refused_value
from dataflare.connectors.duckdb.types import declared
from dataflare.errors import DataError
from dataflare.formats.text_write import for_python
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
from dataflare.sdk.sql.refusals import Refusal, rowwise, with_row
from dataflare.sdk.sql.shared import now_text
from dataflare.sdk.sql.store import TableStore, Target

_STAGE, _NUMBER = "_dataflare_stage", "__dataflare_number"


class DuckdbStore(TableStore):
    def __init__(self, path: Path, busy_timeout_s: float) -> None:
        self._path, self._busy_timeout_s = path, busy_timeout_s
        self._opened: DuckConnection | None = None
        self._ready: dict[str, set[str]] = {}
        self._uniques: dict[str, tuple[frozenset[str], ...]] = {}
        self._rules: dict[str, Rules] = {}
        self._columns: dict[str, dict[str, str]] = {}

    @property
    def _db(self) -> DuckConnection:
        assert self._opened is not None
        return self._opened

    def begin(self) -> None:
        with duckdb_errors(self._path, "opening"):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._opened = DuckConnection(
                self._path, write=True, busy_timeout_s=self._busy_timeout_s
            )
            self._db.db.execute("begin transaction")

    def commit(self) -> None:
        with duckdb_errors(self._path, "commit"):
            self._db.db.execute("commit")

    def rollback(self) -> None:
        if self._opened is None:
            return
        try:
            self._opened.db.execute("rollback")
        except duckdb.Error:  # there is no transaction: it was committed, or begin failed
            pass

    def close(self) -> None:
        opened, self._opened = self._opened, None
        if opened is not None:
            opened.close()

    def execute(self, statement: str) -> None:
        with duckdb_errors(self._path, "the statement"):
            self._db.db.execute(statement)

    def execute_alone(self, statements: Sequence[str]) -> None:
        opened = DuckConnection(self._path, write=True, busy_timeout_s=self._busy_timeout_s)
        try:
            with duckdb_errors(self._path, "the statement"):
                for statement in statements:
                    opened.db.execute(statement)
        finally:
            opened.close()

    def read_marker(self, target: Target) -> MarkerRows:
        with duckdb_errors(self._path, f"table {MARKER_TABLE}"):
            columns = self._marker_columns()
            if not columns:
                return MarkerRows()
            query, parameters = marker.selection(target, columns)
            return marker.marker_rows(target, self._db.rows(query, list(parameters)))

    def write_marker(self, target: Target, row: MarkerRow) -> None:
        with duckdb_errors(self._path, f"table {MARKER_TABLE}"):
            self._db.db.execute(MARKER_DDL)
            for statement in marker.widening(self._marker_columns()):
                self._db.db.execute(statement)
            marks = ", ".join("?" * len(MARKER_COLUMNS))
            self._db.db.execute(
                f"insert or replace into {MARKER_TABLE} ({listed(MARKER_COLUMNS)}) values ({marks})",
                list(marker.values(target, row, now_text())),
            )

    def supersede(self, target: Target) -> None:
        with duckdb_errors(self._path, f"table {MARKER_TABLE}"):
            self._db.db.execute(
                f"delete from {MARKER_TABLE} "
                "where step = ? and workflow = ? and place = ? and lineage <> ?",
                [target.step, target.workflow, target.place, target.lineage],
            )

    def _marker_columns(self) -> set[str]:
        rows = self._db.rows(
            "select column_name from duckdb_columns() where database_name = current_database() "
            "and schema_name = current_schema() and table_name = ?",
            [MARKER_TABLE],
        )
        return {str(name) for (name,) in rows}

    def is_missing(self, target: Target) -> bool:
        with duckdb_errors(self._path, f"table '{target.table}'"):
            return tables.find_table(self._db, target.table) is None

    def is_empty(self, target: Target) -> bool:
        with duckdb_errors(self._path, f"table '{target.table}'"):
            table = tables.find_table(self._db, target.table)
            return table is None or not self._db.rows(
                f"select 1 from {tables.spelled(target.table)} limit 1", []
            )

    def make_ready(self, target: Target) -> None:
        with duckdb_errors(self._path, f"table '{target.table}'"):
            old = tables.require(self._db, target, self._path)
            table = tables.find_table(self._db, target.written)
            indexes: list[str] = []
            if table is None and old is not None:
                indexes = tables.unique_indexes_like(self._db, target, old)
                for statement in tables.creation_like(self._db, target, old):
                    self._db.db.execute(statement)
                table = tables.find_table(self._db, target.written)
            if table is None:
                statements = tables.creation(target)
            else:
                tables.refuse_other_clocks(target, table)
                statements = tables.widening(target, table, self._path)
            # Columns cannot be added to a table that has an index.
            for statement in [*statements, *indexes]:
                self._db.db.execute(statement)
            if indexes:
                table = tables.find_table(self._db, target.written)
            if target.mode in ("upsert", "mirror"):
                self._make_unique(target)
            self._rules.pop(target.written, None)
            columns = table.columns if table is not None else {}
            self._columns[target.written] = {n.casefold(): type_ for n, type_ in columns.items()}
            self._ready[target.written] = {field.name for field in target.schema}
            self._uniques[target.written] = table.uniques if table is not None else ()

    def _make_unique(self, target: Target) -> None:
        table = tables.find_table(self._db, target.written)
        assert table is not None
        statement = tables.unique_index(target, table)
        if statement is None:
            return
        try:
            self._db.db.execute(statement)
        except duckdb.ConstraintException as error:
            raise DataError(
                f"table '{target.table}' has several rows for one key ({', '.join(target.key)}), "
                f"so mode '{target.mode}' cannot distinguish them",
                code="E0510",
                help="remove the duplicates, or choose other key columns",
            ) from error

    def apply(self, target: Target, frame: pl.DataFrame) -> None:
        types = self._types_of(target, frame)
        self._refuse_loss(target, types, frame)
        if target.mode in ("append", "overwrite"):
            rows = rows_to_append(frame, op=target.op)
            self._insert(target, types, rows, "")
            return
        mirror = target.mode == "mirror"
        changes = fold(frame, target.key, deletes=mirror, sequence=target.sequence)
        if changes.deletes.height:
            self._delete(target, types, changes.deletes)
        if changes.upserts.height:
            self._insert(
                target, types, changes.upserts, _on_conflict(target, changes.upserts.columns)
            )
        if target.sweeps:
            self._note_keys(target, types, changes.upserts, changes.deletes)

    def _refuse_loss(self, target: Target, types: dict[str, DataType], frame: pl.DataFrame) -> None:
        """Raises DataError (E0511), with its row, for a value that the table would change."""
        for name, mask in beyond(frame, target.schema):
            row = frame.filter(mask.fill_null(False)).head(1)
            raise with_row(
                refused_value(target.table, name, value_texts(row, name)[0]),
                for_python(row).row(0, named=True),
                target.key,
            )
        columns = self._columns[target.written]
        suspects = {}
        for name in frame.columns:
            into = columns.get(name.casefold())
            is_lossy = into and name in types and loss(f"s.{quoted(name)}", types[name], into)
            if into and is_lossy:
                suspects[name] = (into, is_lossy)
        if not suspects:
            return
        picked = frame.select(list(suspects)).with_row_index(_NUMBER)
        self._db.db.register(_STAGE, picked.to_arrow())
        try:
            with duckdb_errors(self._path, f"table '{target.table}'"):
                for name, (into, is_lossy) in suspects.items():
                    ((at,),) = self._db.rows(
                        f"select min({_NUMBER}) from {_STAGE} s where {is_lossy}"
                    )
                    if at is not None:
                        error = DataError(
                            f"column '{name}' of table '{target.table}' is {into}, and would change "
                            f"{frame[name][at]}",
                            code="E0511",
                            help=f"convert it with map: cast: {{{name}: ...}}, or declare the column wider",
                        )
                        raise with_row(error, for_python(frame[at]).row(0, named=True), target.key)
        finally:
            self._db.db.unregister(_STAGE)

    def sift(self, target: Target, frame: pl.DataFrame) -> list[Refusal]:
        self._types_of(target, frame)
        rules = self._rules.get(target.written)
        if rules is None:
            rules = self._rules[target.written] = Rules.of(self._db, target)
        with duckdb_errors(self._path, f"table '{target.table}'"):
            refused = rules.refused(self._db, frame)
        rows = rowwise(frame.with_row_index(_NUMBER), target.key)
        good = rows.filter(~pl.col(_NUMBER).is_in([each.row for each in refused])).drop(_NUMBER)
        if good.height:
            self.apply(target, good)
        if refused and target.sweeps:
            # The source has these rows, so the table's rows with their keys stay.
            refused_rows = frame[[each.row for each in refused]].drop_nulls(list(target.key))
            self._note_keys(
                target, self._types_of(target, frame), refused_rows, refused_rows.clear()
            )
        return refused

    def _types_of(self, target: Target, frame: pl.DataFrame) -> dict[str, DataType]:
        """The types of the frame's columns. Adds columns that are new since `open`."""
        dtypes = {n: t for n, t in frame.schema.items() if not n.startswith(RESERVED)}
        types_by_name = {field.name: field.type for field in target.schema}
        types = types_by_name | {
            f.name: types_by_name.get(f.name, f.type) for f in Schema.from_polars(dtypes)
        }
        if not set(dtypes) <= self._ready[target.written]:
            self.make_ready(replace(target, schema=Schema.of(types)))
        return types

    def _insert(
        self, target: Target, types: dict[str, DataType], frame: pl.DataFrame, on_conflict: str
    ) -> None:
        values = ", ".join(_converted(name, types[name]) for name in frame.columns)
        self._run(
            target,
            f"insert into {tables.spelled(target.written)} ({listed(frame.columns)}) "
            f"select {values} from {_STAGE} {on_conflict}",
            frame,
        )

    def _delete(self, target: Target, types: dict[str, DataType], frame: pl.DataFrame) -> None:
        names = [*target.key, *([target.sequence] if target.sequence else [])]
        same = [f"t.{quoted(n)} = {_converted(n, types[n], 's.')}" for n in target.key]
        if target.sequence is not None:
            t, s = f"t.{quoted(target.sequence)}", f"s.{quoted(target.sequence)}"
            same.append(f"({s} >= {t} or {t} is null)")
        self._run(
            target,
            f"delete from {tables.spelled(target.written)} as t using {_STAGE} as s "
            f"where {' and '.join(same)}",
            frame.select(names),
        )

    # -- mirror ------------------------------------------------------------------------------------

    def _note_keys(
        self,
        target: Target,
        types: dict[str, DataType],
        arrived: pl.DataFrame,
        deleted: pl.DataFrame,
    ) -> None:
        self._make_keys(target)
        place, keys_table, key = (
            tables.spelled(target.table),
            tables.spelled(target.keys_table),
            target.key,
        )
        staged = {name: _converted(name, types[name], "s.") for name in key}
        if arrived.height:
            insert = f"insert into {keys_table} ({listed(key)})"
            keys = ", ".join(staged.values())
            self._run(target, f"{insert} select {keys} from {_STAGE} as s", arrived.select(key))
        if deleted.height:
            sql = sweeping.deleted_keys(key, place, keys_table, _STAGE, staged)
            self._run(target, sql, deleted.select(key))

    def _make_keys(self, target: Target) -> None:
        if tables.find_table(self._db, target.keys_table) is None:
            place, keys_table = tables.spelled(target.table), tables.spelled(target.keys_table)
            self._db.db.execute(sweeping.keys_creation(target.key, place, keys_table))

    def sweep(self, target: Target, *, delete: bool) -> int:
        with duckdb_errors(self._path, f"table '{target.table}'"):
            self._make_keys(target)
            place, keys_table, key = (
                tables.spelled(target.table),
                tables.spelled(target.keys_table),
                target.key,
            )
            ((missing, total),) = self._db.rows(sweeping.counts(key, place, keys_table))
            if delete:
                sweeping.refuse_deletes(target, missing, total)
            if missing and delete:
                self._db.db.execute(sweeping.deletion(key, place, keys_table))
            self._db.db.execute(f"drop table {keys_table}")
        return int(missing)

    def clear_keys(self, target: Target) -> None:
        with duckdb_errors(self._path, f"table '{target.table}'"):
            self._db.db.execute(f"drop table if exists {tables.spelled(target.keys_table)}")

    def _run(self, target: Target, sql: str, frame: pl.DataFrame) -> None:
        """Run a statement with the frame as table `_dataflare_stage`."""
        self._db.db.register(_STAGE, frame.to_arrow())
        try:
            with duckdb_errors(self._path, f"table '{target.table}'"):
                self._db.db.execute(sql)
        except DataError as error:
            # The transaction is aborted, and the connection with its registered frame is closed
            # later.
            uniques = self._uniques[target.written]
            raise _with_row(target, uniques, frame, error) from error.__cause__
        self._db.db.unregister(_STAGE)

    def publish(self, target: Target) -> None:
        """Delete the table's rows and insert the staged rows. The staging table is not renamed in
        its place: DuckDB 2.0 loses a foreign key that points to a renamed table."""
        with duckdb_errors(self._path, f"table '{target.table}'"):
            old = tables.find_table(self._db, target.table)
            staging = tables.spelled(target.written)
            if old is None:
                _, name = tables.split_name(target.table)
                self._db.db.execute(f"alter table {staging} rename to {quoted(name)}")
                return
            staged = tables.find_table(self._db, target.written)
            assert staged is not None
            names = listed(staged.columns)
            place = tables.spelled(f"{old.schema}.{old.name}")
            columns = {name.casefold() for name in old.columns}
            for name, type_ in staged.columns.items():
                if name.casefold() not in columns:
                    self._db.db.execute(f"alter table {place} add column {quoted(name)} {type_}")
            self._db.db.execute(f"delete from {place}")
            self._db.db.execute(
                f"insert into {place} ({names}) select {names} from {staging} order by rowid"
            )
            self._db.db.execute(f"drop table {staging}")

    def trim(self, target: Target, rows: int) -> None:
        staging = tables.spelled(target.written)
        with duckdb_errors(self._path, f"table '{target.table}'"):
            if rows == 0:
                self._db.db.execute(f"drop table if exists {staging}")
            elif self.has_staging(target):
                self._db.db.execute(
                    f"delete from {staging} where rowid not in "
                    f"(select rowid from {staging} order by rowid limit {rows})"
                )

    def has_staging(self, target: Target) -> bool:
        with duckdb_errors(self._path, f"table '{target.table}'"):
            return tables.find_table(self._db, target.written) is not None


def _on_conflict(target: Target, columns: list[str]) -> str:
    others = [name for name in columns if name not in target.key]
    if not others:
        return f"on conflict ({listed(target.key)}) do nothing"
    sets = ", ".join(f"{quoted(n)} = excluded.{quoted(n)}" for n in others)
    action = f"on conflict ({listed(target.key)}) do update set {sets}"
    if target.sequence is not None:
        _, table = tables.split_name(target.written)
        ours = f"{quoted(table)}.{quoted(target.sequence)}"
        action += f" where excluded.{quoted(target.sequence)} > {ours} or {ours} is null"
    return action


def _converted(name: str, type_: DataType, prefix: str = "") -> str:
    """A column of the frame; it is cast to the declared type if Arrow has no such type."""
    column = prefix + quoted(name)
    return f"cast({column} as {declared(type_)})" if type_.name in ("json", "null") else column


def _with_row(
    target: Target, uniques: tuple[frozenset[str], ...], frame: pl.DataFrame, error: DataError
) -> DataError:
    """The error with the first row that caused it, if the message identifies it."""
    row = None
    if nulls := re.search(r"NOT NULL constraint failed: (?:[^\n.]*\.)?([^\n]+)", error.message):
        if nulls.group(1) in frame.columns:
            row = frame.filter(pl.col(nulls.group(1)).is_null()).head(1)
    elif check := re.search(r"with expression CHECK\((.*)\)$", error.message):
        row = _first_where(frame, f"not ({check.group(1)})")
    elif "uplicate key" in error.message:
        row = _first_double(frame, uniques, error.message)
    if row is None or not row.height:
        return error
    names = target.key or frame.columns[:3]
    key_text = ", ".join(f"{name} = {row[name][0]!r}" for name in names)
    return DataError(
        error.message, code=error.code, help=error.help, notes=[f"the row: {key_text}"]
    )


def _first_double(
    frame: pl.DataFrame, uniques: tuple[frozenset[str], ...], message: str
) -> pl.DataFrame | None:
    """The first row whose key an earlier row of the frame has; else the row with the key in the
    message."""
    for unique in uniques:
        names = [name for name in frame.columns if name in unique]
        if len(names) == len(unique):
            duplicates = frame.filter(~pl.struct(names).is_first_distinct())
            if duplicates.height:
                return duplicates.head(1)
    match = re.search(r'uplicate key "([^:"]+): ([^",]+)"', message)
    if match is None or match.group(1) not in frame.columns:
        return None
    return frame.filter(pl.col(match.group(1)).cast(pl.String) == match.group(2)).head(1)


def _first_where(frame: pl.DataFrame, condition: str) -> pl.DataFrame | None:
    with duckdb.connect() as scratch:
        scratch.register(_STAGE, frame.with_row_index("__dataflare_row").to_arrow())
        try:
            row = scratch.execute(
                f"select min(__dataflare_row) from {_STAGE} where {condition}"
            ).fetchone()
        except duckdb.Error:
            return None
    return None if row is None or row[0] is None else frame.slice(row[0], 1)
