"""The commit protocol's operations on an SQLite file. The journal mode of an existing database is
not changed: the program that created the file has chosen it. A new file has SQLite's default, a
single file that can be copied. Foreign keys are not enforced, as is SQLite's default.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import polars as pl

from dataflare.connectors.sqlite import tables
from dataflare.connectors.sqlite.connection import Connection, Opened
from dataflare.connectors.sqlite.errors import sqlite_errors
from dataflare.connectors.sqlite.exactness import as_text, refuse_loss
from dataflare.connectors.sqlite.tables import Table
from dataflare.connectors.sqlite.types import declared, stored, type_of_declaration
from dataflare.errors import DataError
from dataflare.formats.text_write import python_row
from dataflare.model.types import DataType
from dataflare.sdk.bisection import Pace, Refusal
from dataflare.sdk.sql.names import holds_data, listed, quoted
from dataflare.sdk.sql.refusals import rowwise, sift, with_row
from dataflare.sdk.sql.sql_store import Ready, SqlStore
from dataflare.sdk.sql.store import Target
from dataflare.sdk.sql.tables import refuse_bytes_in_json

_STAGE, _NUMBER = "_dataflare_stage", "__dataflare_number"
_INT64_MAX = 2**63 - 1


class SqliteStore(SqlStore):
    stage = f"temp.{_STAGE}"
    before_conflict = "where true "

    def __init__(self, path: Path, busy_timeout_s: float) -> None:
        super().__init__()
        self._path, self._busy_timeout_s = path, busy_timeout_s
        self.label = str(path)
        self._opened: Opened | None = None
        self._pace: dict[str, Pace] = {}

    @property
    def _db(self) -> Connection:
        assert self._opened is not None
        return self._opened.db

    def is_there(self) -> bool:
        return holds_data(self._path)

    def begin(self) -> None:
        with self.errors("opening"):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._opened = Opened(self._path, mode="rwc", busy_timeout_s=self._busy_timeout_s)
            # Replacing a table must not fail because a view names it.
            self._db.execute("pragma legacy_alter_table = on")
            self._db.execute("pragma cache_size = -32768")
            self._db.execute("begin immediate")

    def open_to_read(self) -> None:
        with self.errors("opening"):
            self._opened = Opened(self._path, mode="ro", busy_timeout_s=self._busy_timeout_s)

    def commit(self) -> None:
        with self.errors("commit"):
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
        with self.errors("the statement"):
            self._db.execute(statement)

    def execute_alone(self, statements: Sequence[str]) -> None:
        with self.errors("the statement"):
            self._opened = Opened(self._path, mode="rwc", busy_timeout_s=self._busy_timeout_s)
            for statement in statements:
                self._db.execute(statement)

    # -- SQL ---------------------------------------------------------------------------------------

    def errors(self, subject: str) -> AbstractContextManager[None]:
        return sqlite_errors(self._path, subject)

    def run(self, sql: str, params: Sequence[Any] = ()) -> None:
        self._db.execute(sql, params)

    def rows(self, sql: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return self._db.frame(sql, params).rows()

    def find(self, name: str) -> Table | None:
        return tables.find_table(self._db, name)

    def place_of(self, table: Table) -> str:
        return table.place

    def marker_columns(self, place: str) -> set[str]:
        return {
            str(name) for (name,) in self.rows("select name from pragma_table_info(?)", [place])
        }

    def spelled(self, name: str) -> str:
        return quoted(name)

    def table_names(self) -> list[str]:
        return tables.table_names(self._db)

    def declared(self, type_: DataType) -> str:
        return declared(type_)

    def require(self, target: Target) -> Table | None:
        refuse_bytes_in_json(target, "SQLite", lambda type_: type_.name in ("list", "struct"))
        table = super().require(target)
        assert table is None or isinstance(table, Table)
        return table

    def check(self, target: Target, table: Any) -> None:
        tables.refuse_misfits(target, table)

    def creation_like(self, target: Target, table: Any) -> Sequence[str]:
        return tables.creation_like(self._db, target, table) or self.creation(target)

    def indexes_like(self, target: Target, table: Any) -> Sequence[str]:
        return tables.unique_indexes_like(self._db, target, table)

    def value(self, name: str, type_: DataType) -> str:
        """Numbers beyond int64 stay text, others become integers."""
        column = f"s.{quoted(name)}"
        if type_.name != "uint64":
            return column
        small = f"length({column}) < 19 or (length({column}) = 19 and {column} <= '{_INT64_MAX}')"
        return f"case when {small} then cast({column} as integer) else {column} end"

    def deletion(self, ready: Ready, same: Sequence[str]) -> str:
        # cross join fixes the order: for each staged key, a lookup in the table's index.
        key, written = ready.target.key, quoted(ready.target.written)
        return (
            f"delete from {written} where ({listed(key)}) in (select {listed(key, 't.')} "
            f"from {self.stage} as s cross join {written} as t where {' and '.join(same)})"
        )

    def index_keys(self, target: Target) -> None:
        name, place = quoted(f"{target.keys_table}_key"), quoted(target.keys_table)
        self.run(f"create index if not exists {name} on {place} ({listed(target.key)})")

    # -- rows --------------------------------------------------------------------------------------

    def apply(self, ready: Ready, frame: pl.DataFrame) -> None:
        for refusal in self._sifted(ready, frame, first_only=True):
            row = python_row(frame, refusal.row)
            raise with_row(refusal.error, row, ready.target.names) from refusal.error.__cause__

    def sift(self, ready: Ready, frame: pl.DataFrame) -> list[Refusal]:
        return self._sifted(ready, frame)

    def _sifted(
        self, ready: Ready, frame: pl.DataFrame, *, first_only: bool = False
    ) -> list[Refusal]:
        rows = rowwise(frame.with_row_index(_NUMBER), ready.target.key)
        numbers, rows = rows[_NUMBER], rows.drop(_NUMBER)

        def attempt(first: int, behind: int) -> None:
            self.run("savepoint _dataflare_rows")
            try:
                with self.errors(f"table '{ready.target.table}'"):
                    self.put(ready, rows.slice(first, behind - first))
            except DataError:
                self.run("rollback to _dataflare_rows")
                self.run("release _dataflare_rows")
                raise
            self.run("release _dataflare_rows")

        pace = self._pace.setdefault(ready.target.step, Pace())
        refused = sift(rows.height, attempt, pace, first_only=first_only, bound=ready.target.bound)
        return [Refusal(numbers[each.row], each.error) for each in refused]

    def append(self, ready: Ready, frame: pl.DataFrame) -> None:
        types = {name: ready.types[name] for name in frame.columns}
        if any(type_.name == "uint64" for type_ in types.values()):
            super().append(ready, frame)
        else:
            self._db.append(ready.target.written, self._encode(ready, types, frame))

    def run_with(
        self, ready: Ready, types: dict[str, DataType], frame: pl.DataFrame, sql: str
    ) -> None:
        encoded = self._encode(ready, types, frame)
        self.run(f"drop table if exists {self.stage}")
        self._db.stage(_STAGE, encoded)
        self.run(sql)

    def _encode(
        self, ready: Ready, types: dict[str, DataType], frame: pl.DataFrame
    ) -> pl.DataFrame:
        columns = {name.casefold(): type_ for name, type_ in ready.table.columns.items()}
        declarations = {name: columns.get(name.casefold(), "") for name in types}
        for name, type_ in types.items():
            if type_.name == "uint64":
                _refuse_too_great(ready.target, frame[name], declarations[name])
        encoded = frame.select(
            as_text(stored(pl.col(n), t), t, declarations[n]).alias(n) for n, t in types.items()
        )
        for name, type_ in types.items():
            refuse_loss(encoded[name], type_, declarations[name], ready.target.table)
        return encoded

    # -- overwrite ---------------------------------------------------------------------------------

    def publish(self, ready: Ready) -> None:
        """Give the staging table the name of the table, except if the table has no rowids: such a table
        cannot be a staging table."""
        target = ready.target
        old = self.find(target.table)
        if old is not None and not old.rowid:
            super().publish(ready)
            return
        statements = tables.dependents(self._db, target.table)
        for index in tables.indexes(self._db, target.written):
            self.run(f"drop index {quoted(index)}")
        self.run(f"drop table if exists {quoted(target.table)}")
        name = target.table if old is None else old.name
        self.run(f"alter table {quoted(target.written)} rename to {quoted(name)}")
        for statement in statements:
            self.run(statement)


def _refuse_too_great(target: Target, column: pl.Series, declaration: str) -> None:
    greatest: Any = column.max()
    if greatest is None or greatest <= _INT64_MAX:
        return
    type_ = type_of_declaration(declaration)
    if type_ is not None and type_.name == "int64":
        raise DataError(
            f"column '{column.name}' of table '{target.table}' is {declaration}, and "
            f"{greatest} is too large for it",
            code="E0511",
            help="declare the column wider, or set error_handling: {on_error: dead_letter}",
        )
