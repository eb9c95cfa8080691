"""The commit protocol's operations on a DuckDB file."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import duckdb
import polars as pl

from dataflare.connectors.duckdb import tables
from dataflare.connectors.duckdb.connection import DuckConnection
from dataflare.connectors.duckdb.errors import duckdb_errors
from dataflare.connectors.duckdb.exactness import loss
from dataflare.connectors.duckdb.limits import beyond, value_texts
from dataflare.connectors.duckdb.rules import Rules, refused_value
from dataflare.connectors.duckdb.types import declared, room_of, type_of_declaration
from dataflare.errors import DataError
from dataflare.formats.text_write import python_row
from dataflare.model.types import DataType
from dataflare.sdk.bisection import Refusal
from dataflare.sdk.sql.growth import Room
from dataflare.sdk.sql.names import holds_data, quoted
from dataflare.sdk.sql.refusals import rowwise, with_row
from dataflare.sdk.sql.sql_store import Ready, SqlStore
from dataflare.sdk.sql.store import Target
from dataflare.sdk.sql.tables import Table, refuse_generated, refuse_other_clocks

_STAGE, _NUMBER = "_dataflare_stage", "__dataflare_number"


class DuckdbStore(SqlStore):
    def __init__(self, path: Path, busy_timeout_s: float) -> None:
        super().__init__()
        self._path, self._busy_timeout_s = path, busy_timeout_s
        self.label = str(path)
        self._opened: DuckConnection | None = None
        self._rules: dict[str, tuple[Ready, Rules]] = {}

    @property
    def _db(self) -> DuckConnection:
        assert self._opened is not None
        return self._opened

    def is_there(self) -> bool:
        return holds_data(self._path)

    def begin(self) -> None:
        with self.errors("opening"):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._open(write=True)
            self.run("begin transaction")

    def open_to_read(self) -> None:
        self._open(write=False)

    def _open(self, *, write: bool) -> None:
        self._opened = DuckConnection(self._path, write=write, busy_timeout_s=self._busy_timeout_s)

    def commit(self) -> None:
        with self.errors("commit"):
            self.run("commit")

    def rollback(self) -> None:
        if self._opened is None:
            return
        try:
            self.run("rollback")
        except duckdb.Error:  # there is no transaction: it was committed, or begin failed
            pass

    def close(self) -> None:
        opened, self._opened = self._opened, None
        if opened is not None:
            opened.close()

    def execute(self, statement: str) -> None:
        with self.errors("the statement"):
            self.run(statement)

    def execute_alone(self, statements: Sequence[str]) -> None:
        self._open(write=True)
        for statement in statements:
            self.execute(statement)

    # -- SQL ---------------------------------------------------------------------------------------

    def errors(self, subject: str) -> AbstractContextManager[None]:
        return duckdb_errors(self._path, subject)

    def run(self, sql: str, params: Sequence[Any] = ()) -> None:
        self._db.db.execute(sql, list(params))

    def rows(self, sql: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return self._db.rows(sql, list(params))

    def find(self, name: str) -> Table | None:
        return tables.find_table(self._db, name)

    def place_of(self, table: Table) -> str:
        return table.place

    def marker_columns(self, place: str) -> set[str]:
        rows = self.rows(
            "select column_name from duckdb_columns() where database_name = current_database() "
            "and schema_name = current_schema() and table_name = ?",
            [place],
        )
        return {str(name) for (name,) in rows}

    def spelled(self, name: str) -> str:
        return tables.spelled(name)

    def own(self, target: Target) -> str:
        return quoted(tables.split_name(target.written)[1])

    def table_names(self) -> list[str]:
        return tables.table_names(self._db)

    def declared(self, type_: DataType) -> str:
        return declared(type_)

    def check(self, target: Target, table: Table) -> None:
        # DuckDB would make an instant of a wall clock by the zone of the session.
        refuse_generated(target, table)
        refuse_other_clocks(target, table, type_of_declaration)

    def rooms(self, table: Table) -> Mapping[str, Room]:
        """None of a table with an index, whose columns DuckDB does not change."""
        if table.key or table.uniques:
            return {}
        found = {name: room_of(text) for name, text in table.columns.items()}
        return {name: room for name, room in found.items() if room is not None}

    def creation(self, target: Target) -> list[str]:
        schema, _ = tables.split_name(target.table)
        first = [] if schema == "main" else [f"create schema if not exists {quoted(schema)}"]
        return [*first, *super().creation(target)]

    def creation_like(self, target: Target, table: Table) -> Sequence[str]:
        return tables.creation_like(self._db, target, table) or self.creation(target)

    def indexes_like(self, target: Target, table: Table) -> Sequence[str]:
        return tables.unique_indexes_like(self._db, target, table)

    def value(self, name: str, type_: DataType) -> str:
        """A column is cast to the declared type if Arrow has no such type."""
        column = f"s.{quoted(name)}"
        return f"cast({column} as {declared(type_)})" if type_.name in ("json", "null") else column

    # -- rows --------------------------------------------------------------------------------------

    def apply(self, ready: Ready, frame: pl.DataFrame) -> None:
        self._refuse_loss(ready, frame)
        self.put(ready, frame)

    def _refuse_loss(self, ready: Ready, frame: pl.DataFrame) -> None:
        """Raises DataError (E0511), with its row, for a value that the table would change."""
        for name, mask in beyond(frame, ready.target.schema):
            row = frame.filter(mask.fill_null(False)).head(1)
            raise with_row(
                refused_value(ready.target.table, name, value_texts(row, name)[0]),
                python_row(row),
                ready.target.names,
            )
        target = ready.target
        columns = {n.casefold(): type_ for n, type_ in ready.table.columns.items()}
        suspects = {}
        for name in frame.columns:
            into = columns.get(name.casefold())
            is_lossy = (
                into and name in ready.types and loss(f"s.{quoted(name)}", ready.types[name], into)
            )
            if into and is_lossy:
                suspects[name] = (into, is_lossy)
        if not suspects:
            return
        picked = frame.select(list(suspects)).with_row_index(_NUMBER)
        self._db.db.register(_STAGE, picked.to_arrow())
        try:
            with self.errors(f"table '{target.table}'"):
                for name, (into, is_lossy) in suspects.items():
                    ((at,),) = self.rows(f"select min({_NUMBER}) from {_STAGE} s where {is_lossy}")
                    if at is not None:
                        error = DataError(
                            f"column '{name}' of table '{target.table}' is {into}, and would change "
                            f"{frame[name][at]}",
                            code="E0511",
                            help=f"convert it with map: cast: {{{name}: ...}}, or declare the column wider",
                        )
                        raise with_row(error, python_row(frame, at), target.names)
        finally:
            self._db.db.unregister(_STAGE)

    def sift(self, ready: Ready, frame: pl.DataFrame) -> list[Refusal]:
        with self.errors(f"table '{ready.target.table}'"):
            rules_of, rules = self._rules.get(ready.target.step, (None, None))
            if rules is None or rules_of is not ready:
                rules = Rules.of(self._db, ready.target)
                self._rules[ready.target.step] = ready, rules
            refused = rules.refused(self._db, frame)
        rows = rowwise(frame.with_row_index(_NUMBER), ready.target.key)
        good = rows.filter(~pl.col(_NUMBER).is_in([each.row for each in refused])).drop(_NUMBER)
        if good.height:
            self.apply(ready, good)
        return refused

    def run_with(
        self, ready: Ready, types: dict[str, DataType], frame: pl.DataFrame, sql: str
    ) -> None:
        self._db.db.register(_STAGE, frame.to_arrow())
        try:
            with self.errors(f"table '{ready.target.table}'"):
                self.run(sql)
        except DataError as error:
            # The transaction is aborted, and the connection with its registered frame is closed
            # later.
            uniques = ready.table.uniques
            raise _with_row(ready.target, uniques, frame, error) from error.__cause__
        self._db.db.unregister(_STAGE)


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
    names = target.names or frame.columns[:3]
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
