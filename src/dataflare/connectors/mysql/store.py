"""The commit protocol's operations on MySQL and MariaDB, in one transaction of InnoDB.

Always true:
- the server commits before it creates or changes a table, so such a statement runs on a connection of its own, before the transaction has touched the table; if it has, the transaction is rolled back first, and the rows are applied again from the redo files. Until a commit, others see no more of a run than an empty table, a new column or an index;
- LOAD DATA changes values and leaves rows out with a warning, in every sql_mode. So it runs behind a savepoint, and a warning or a missing row takes it back; so does INSERT, which is used where the server does not allow LOAD DATA LOCAL;
- rows with a key go into a temporary table with the same types, and from there into the table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import polars as pl
from msgspec.structs import replace

from dataflare.connectors.mysql import tables
from dataflare.connectors.mysql.connection import ANSI, VALUE, Db, Server
from dataflare.connectors.mysql.errors import mysql_errors
from dataflare.connectors.mysql.exactness import refused
from dataflare.connectors.mysql.sending import Sender
from dataflare.connectors.mysql.tables import Table
from dataflare.connectors.mysql.types import Declared, declared
from dataflare.errors import DataError, DataFlareError
from dataflare.formats.text_write import python_row
from dataflare.model.types import INT64, DataType
from dataflare.sdk.bisection import Pace, Refusal
from dataflare.sdk.sql import marker, soft_deletes
from dataflare.sdk.sql import tables as kit
from dataflare.sdk.sql.growth import Room, Wider
from dataflare.sdk.sql.names import HELP, listed, quoted
from dataflare.sdk.sql.refusals import rowwise, sift, with_row
from dataflare.sdk.sql.server_errors import is_lost
from dataflare.sdk.sql.sql_store import Ready, SqlStore
from dataflare.sdk.sql.store import TableStore, Target, TransactionEnded

BEFORE_COLUMN = "_dataflare_rows_before"
"""Of a staging table: how many rows the run had written before the row's epoch, so that the rows of later
epochs can be removed."""
_STAGE = "_dataflare_stage"
_NUMBER = "__dataflare_number"
_SAVEPOINT = "_dataflare_rows"
_ATTEMPTS = 50


class MysqlStore(SqlStore):
    """One connection and its transactions."""

    remote: ClassVar[bool] = True
    mark: ClassVar[str] = VALUE
    text: ClassVar[str] = "char"
    drop_temporary: ClassVar[str] = "drop temporary table"  # the other statement commits
    stage: ClassVar[str] = quoted(_STAGE)

    def __init__(self, server: Server, lineage: str, attempt: int, *, aside: bool = False) -> None:
        super().__init__()
        self._server, self._attempt, self._aside = server, attempt, aside
        self._lineage, self.label = lineage.replace("-", "")[:8], server.label
        self._connection: Db | None = None
        self._touched: set[str] = set()
        self._garbage: list[str] = []
        self._suspects: list[int] = []
        self._pace: dict[str, Pace] = {}
        self._before = 0
        self._sender: Sender | None = None
        self.backend = 0
        """The server's id of this session."""

    # -- the connection ----------------------------------------------------------------------------

    @property
    def _db(self) -> Db:
        if self._connection is None:
            name = f"dataflare {self._lineage} {'aside' if self._aside else self._attempt}"
            self._connection = db = self._server.connect(name, ansi=True)
            self.backend = db.id
            db.run("set session transaction isolation level read committed")
            if not self._aside:
                # Only to be found by later attempts; see `_end_older_sessions`.
                db.rows(f"select get_lock({VALUE}, 0)", [self._lock_name(self._attempt)])
        return self._connection

    def _lock_name(self, attempt: int) -> str:
        return f"dataflare:{self._lineage}:{attempt}"

    def open_to_read(self) -> None:
        with self.errors("connecting"):
            assert self._db is not None

    def begin(self) -> None:
        with self.errors("beginning"):
            self.run("start transaction")

    def commit(self) -> None:
        with self.errors("commit"):
            self.run("commit")
        garbage = list(self._garbage)
        self._forget()
        with self.errors("dropping what is not needed any more"):
            for place in garbage:
                self.run(f"drop table if exists {place}")

    def rollback(self) -> None:
        """Never raises."""
        self._forget()
        if self._connection is None:
            return
        try:
            self._connection.run("rollback")
        except Exception:  # the connection is lost with its transaction
            pass

    def _forget(self) -> None:
        self._ready.clear()
        self._refused.clear()
        self._touched.clear()
        self._garbage.clear()

    def close(self) -> None:
        """Never raises."""
        connection, self._connection, self._sender = self._connection, None, None
        if connection is not None:
            connection.close()

    def execute(self, statement: str) -> None:
        """Run the statement in the sql_mode that the server has for its users, and strictly."""
        with self.errors("the statement"):
            db = self._db
            db.run(f"set session sql_mode = {VALUE}", [f"{db.user_mode},STRICT_ALL_TABLES"])
            db.run(statement)
            db.run(f"set session sql_mode = {VALUE}", [ANSI])

    def execute_alone(self, statements: Sequence[str]) -> None:
        for statement in statements:
            self.execute(statement)

    def is_lost(self, error: DataFlareError) -> bool:
        return is_lost(error)

    def replace(self, broken: TableStore) -> None:
        """The id may belong to another session now, so it must still have the lock of this attempt."""
        assert isinstance(broken, MysqlStore)
        self._kill([self._attempt], only=broken.backend)
        with self.errors("ending a broken session"):
            # Its end takes a moment; then this session has the lock.
            self.rows(f"select get_lock({VALUE}, 5)", [self._lock_name(self._attempt)])

    def take_over(self, target: Target) -> None:
        """End the sessions that older attempts of this run have left open on the server, because they may
        hold locks: their machine may have stopped without closing them."""
        self._kill(range(max(0, self._attempt - _ATTEMPTS), self._attempt))

    def _kill(self, attempts: Sequence[int], only: int | None = None) -> None:
        if not attempts:
            return
        with self.errors("ending older sessions"):
            db = self._db
            asked = ", ".join([f"is_used_lock({VALUE})"] * len(attempts))
            [ids] = db.rows(f"select {asked}", [self._lock_name(each) for each in attempts])
            for number in ids:
                if number is not None and number != db.id and only in (None, number):
                    db.run(f"kill {int(number)}")

    # -- SQL ---------------------------------------------------------------------------------------

    def errors(self, subject: str) -> AbstractContextManager[None]:
        return mysql_errors(self.label, subject)

    def run(self, sql: str, params: Sequence[Any] = ()) -> None:
        self._db.run(sql, params)

    def rows(self, sql: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return self._db.rows(sql, params)

    def change(self, place: str, statements: Sequence[str]) -> None:
        if not statements:
            return
        ended = place in self._touched
        if ended:
            self.rollback()
        db = self._server.connect("dataflare tables", ansi=True)
        try:
            for statement in statements:
                db.run(statement)
        finally:
            db.close()
        if ended:
            raise TransactionEnded

    def replacing(self, key: Sequence[str], columns: Sequence[str]) -> str:
        return "on duplicate key update " + ", ".join(
            f"{quoted(n)} = values({quoted(n)})" for n in columns
        )

    def deleting(self, place: str, alias: str) -> str:
        return f"delete {alias} from {place} as {alias}"

    def now(self) -> str:
        return soft_deletes.now_in_utc()  # MariaDB takes no zone; its sessions have UTC

    def discard(self, place: str) -> None:
        """Its rows go with the transaction, and it is dropped behind the commit."""
        self.run(f"delete from {place}")
        self._garbage.append(place)

    def find(self, name: str) -> Table | None:
        return tables.find_table(self._db, self._server.database, name)

    def place_of(self, table: Table) -> str:
        return table.place

    def spelled(self, name: str) -> str:
        return tables.spelled(name, self._server.database)

    def own(self, target: Target) -> str:
        return self.spelled(target.written)

    def table_names(self) -> list[str]:
        return tables.names(self._db, self._server.database)

    def shortened(self, name: str) -> str:
        return tables.shortened(name)

    def declared(self, type_: DataType) -> str:
        return declared(type_)

    def declared_key(self, type_: DataType) -> str:
        return declared(type_, key=True)

    def marker_place(self, target: Target) -> str | None:
        schema, _ = tables.split_name(target.table, self._server.database)
        return f"{quoted(schema)}.{marker.MARKER_TABLE}"

    def marker_columns(self, place: str) -> set[str]:
        schema = place.rpartition(".")[0][1:-1].replace('""', '"')
        rows = self.rows(
            f"select column_name from information_schema.columns where table_schema = {VALUE} "
            f"and table_name = {VALUE}",
            [schema, marker.MARKER_TABLE],
        )
        return {str(name) for (name,) in rows}

    def marker_creation(self, place: str) -> str:
        made = marker.creation(place, text="longtext", name="varchar(255)")
        return f"{made} engine = InnoDB character set utf8mb4 collate utf8mb4_bin"

    # -- tables ------------------------------------------------------------------------------------

    def require(self, target: Target) -> Table | None:
        tables.refuse_long_names(target)
        kit.refuse_bytes_in_json(target, "MySQL", lambda type_: type_.name in ("list", "struct"))
        table = self.find(target.table)
        if table is None and not target.create_table:
            raise tables.missing(self._db, self._server, target.table)
        if table is not None and table.view:
            raise kit.view_error(target.table, self.label)
        return table

    def check(self, target: Target, table: Any) -> None:
        tables.refuse_misfits(target, table)

    def rooms(self, table: kit.Table) -> Mapping[str, Room]:
        return tables.rooms(self._db, table)

    def growth(self, table: kit.Table, name: str, wider: Wider) -> str:
        return tables.growth(self._db, table, name, wider)

    @property
    def _bytes_order(self) -> str:
        return "utf8mb4_nopad_bin" if self._db.is_mariadb else "utf8mb4_0900_bin"

    def creation(self, target: Target) -> list[str]:
        extra = [f"{quoted(BEFORE_COLUMN)} bigint not null"] if target.mode == "overwrite" else []
        return tables.creation(
            target, self.spelled(target.written), extra=extra, bytes_order=self._bytes_order
        )

    def creation_like(self, target: Target, table: kit.Table) -> Sequence[str]:
        staged = self.spelled(target.written)
        return [
            f"create table {staged} like {table.place}",
            f"alter table {staged} add column {quoted(BEFORE_COLUMN)} bigint not null",
        ]

    def keys_creation(self, target: Target, place: str, keys_table: str) -> str:
        return (
            f"create table {keys_table} (key ({listed(target.key)})) engine = InnoDB "
            f"as select {listed(target.key)} from {place} where false"
        )

    # -- rows --------------------------------------------------------------------------------------

    def write(self, target: Target, frame: pl.DataFrame, rows_before: int, first: int) -> None:
        self._before = rows_before
        super().write(target, frame, rows_before, first)

    def apply(self, ready: Ready, frame: pl.DataFrame) -> None:
        rows = rowwise(frame, ready.target.key)
        try:
            if not self._changed(ready, rows):
                self._attempt_rows(ready, rows)
                return
        except DataError:
            pass  # find the row
        for refusal in self._sifted(ready, rows, first_only=True):
            row = python_row(rows, refusal.row)
            raise with_row(refusal.error, row, ready.target.names) from refusal.error.__cause__

    def sift(self, ready: Ready, frame: pl.DataFrame) -> list[Refusal]:
        rows = rowwise(frame.with_row_index(_NUMBER), ready.target.key)
        numbers, rows = rows[_NUMBER], rows.drop(_NUMBER)
        changed = self._changed(ready, rows)
        places = pl.int_range(rows.height, eager=True)
        if changed:
            places = places.filter(~places.is_in([each.row for each in changed]))
        found = self._sifted(ready, rows[places] if changed else rows)
        every = [*changed, *(Refusal(places[each.row], each.error) for each in found)]
        return [Refusal(numbers[r.row], r.error) for r in sorted(every, key=lambda r: r.row)]

    def _changed(self, ready: Ready, rows: pl.DataFrame) -> list[Refusal]:
        """The rows with a value that a column would change."""
        table = ready.table
        assert isinstance(table, Table)
        types = {n: t for n, t in ready.types.items() if n in rows.columns}
        return refused(
            rows, types, _folded(table), ready.target.table, generates=table.generates,
            real_json=not self._db.is_mariadb,
        )  # fmt: skip

    def _sifted(
        self, ready: Ready, rows: pl.DataFrame, *, first_only: bool = False
    ) -> list[Refusal]:
        if first_only and (changed := self._changed(ready, rows)):
            first = changed[0].row
            before = self._sifted_of(ready, rows.head(first), first_only=True) if first else []
            return before or changed[:1]
        return self._sifted_of(ready, rows, first_only=first_only)

    def _sifted_of(self, ready: Ready, rows: pl.DataFrame, *, first_only: bool) -> list[Refusal]:
        def attempt(first: int, behind: int) -> None:
            self._attempt_rows(ready, rows.slice(first, behind - first))

        def suspects(error: DataError, first: int, behind: int) -> list[int]:
            return [first + each for each in self._suspects]

        pace = self._pace.setdefault(ready.target.step, Pace())
        bound = ready.target.bound
        return sift(
            rows.height, attempt, pace, suspects=suspects, first_only=first_only, bound=bound
        )

    def _attempt_rows(self, ready: Ready, rows: pl.DataFrame) -> None:
        """Write the rows, or raise DataError and write none of them."""
        subject = f"table '{ready.target.table}'"
        self._suspects = []
        with self.errors(subject):
            self.run(f"savepoint {_SAVEPOINT}")
        try:
            self.put(ready, rows)
        except DataError:
            with self.errors(subject):
                self.run(f"rollback to savepoint {_SAVEPOINT}")
            raise
        with self.errors(subject):
            self.run(f"release savepoint {_SAVEPOINT}")

    def append(self, ready: Ready, frame: pl.DataFrame) -> None:
        types = {name: ready.types[name] for name in frame.columns}
        if ready.target.mode == "overwrite":
            frame = frame.with_columns(pl.lit(self._before, pl.Int64).alias(BEFORE_COLUMN))
            types[BEFORE_COLUMN] = INT64
        place = self.spelled(ready.target.written)
        self._touched.add(place)
        self._load(ready, place, types, frame)

    def _load(
        self, ready: Ready, place: str, types: dict[str, DataType], frame: pl.DataFrame
    ) -> None:
        assert isinstance(ready.table, Table)
        if self._sender is None:
            self._sender = Sender(self._db)
        with self.errors(f"table '{ready.target.table}'"):
            fault = self._sender.send(place, types, _folded(ready.table), frame)
        if fault is not None:
            self._suspects = fault.rows
            raise DataError(
                f"table '{ready.target.table}' refuses a row: {fault.text}",
                code=fault.code,
                help=HELP,
            ) from fault.cause

    def run_with(
        self, ready: Ready, types: dict[str, DataType], frame: pl.DataFrame, sql: str
    ) -> None:
        self._staged(ready, types, frame, [sql])

    def _staged(
        self,
        ready: Ready,
        types: dict[str, DataType],
        frame: pl.DataFrame,
        statements: Sequence[str],
    ) -> None:
        place = self.spelled(ready.target.written)
        self._touched.add(place)
        subject = f"table '{ready.target.table}'"
        with self.errors(subject):
            self.run(f"drop temporary table if exists {self.stage}")
            self.run(
                f"create temporary table {self.stage} engine = InnoDB "
                f"as select {listed(types)} from {place} where false"
            )
        self._load(ready, self.stage, types, frame)
        with self.errors(subject):
            for statement in statements:
                self.run(statement)
            self.run(f"drop temporary table {self.stage}")

    def insert(self, ready: Ready, frame: pl.DataFrame, on_conflict: str) -> None:
        assert isinstance(ready.table, Table)
        if not ready.table.other_uniques(ready.target.key):
            super().insert(ready, frame, on_conflict)
            return
        # ON DUPLICATE KEY UPDATE would also replace a row that has another unique value in common.
        place, key = self.spelled(ready.target.written), ready.target.key
        types = {name: ready.types[name] for name in frame.columns}
        same = " and ".join(f"t.{quoted(n)} = s.{quoted(n)}" for n in key)
        sets = ", ".join(f"t.{quoted(n)} = s.{quoted(n)}" for n in types if n not in key)
        newer = ""
        if ready.target.sequence is not None:
            s = quoted(ready.target.sequence)
            newer = f" where s.{s} > t.{s} or t.{s} is null"
        update = f"update {place} as t join {self.stage} as s on {same} set {sets}{newer}"
        values = ", ".join(f"s.{quoted(n)}" for n in types)
        added = (
            f"insert into {place} ({listed(types)}) select {values} from {self.stage} as s "
            f"where not exists (select 1 from {place} as t where {same})"
        )
        self._staged(ready, types, frame, [*([update] if sets else []), added])

    def _on_conflict(self, target: Target, columns: Sequence[str]) -> str:
        others = [n for n in columns if n not in target.key]
        if not others:
            first = f"{self.own(target)}.{quoted(target.key[0])}"
            return f"on duplicate key update {first} = {first}"
        if target.sequence is None:
            return self.replacing(target.key, others)
        # Assignments are made from left to right, and a later one reads what an earlier one has set.
        others.sort(key=lambda name: name == target.sequence)
        s, own = quoted(target.sequence), self.own(target)
        newer = f"values({s}) > {own}.{s} or {own}.{s} is null"
        return "on duplicate key update " + ", ".join(
            f"{quoted(n)} = if({newer}, values({quoted(n)}), {own}.{quoted(n)})" for n in others
        )

    def updating(self, place: str, values: Mapping[str, str], same: str) -> str:
        sets = ", ".join(f"t.{quoted(name)} = {value}" for name, value in values.items())
        return f"update {place} as t join {self.stage} as s on {same} set {sets}"

    def deletion(self, ready: Ready, same: Sequence[str]) -> str:
        place = self.spelled(ready.target.written)
        return f"delete t from {place} as t join {self.stage} as s on {' and '.join(same)}"

    # -- overwrite ---------------------------------------------------------------------------------

    def publish(self, ready: Ready) -> None:
        """Delete the table's rows and insert the staged rows: the table keeps its rights, triggers and the
        foreign keys to it."""
        target, staged = ready.target, ready.table
        old, place = self.find(target.table), self.spelled(target.table)
        plain = replace(target, mode="append")
        if old is None:
            self.change(place, self.creation(plain))
        elif statements := self.widening(plain, old):
            self.change(place, statements)
        names = listed(
            n for n in staged.columns if n != BEFORE_COLUMN and n not in staged.generated
        )
        self._touched.add(place)
        self.run(f"delete from {place}")
        self.run(f"insert into {place} ({names}) select {names} from {staged.place}")
        self.discard(staged.place)

    def trim(self, target: Target, rows: int) -> bool:
        with self.errors(f"table '{target.table}'"):
            staged = self.find(target.written)
            if staged is None:
                return False
            if rows == 0:
                self.change(staged.place, [f"drop table {staged.place}"])
                return True
            before = quoted(BEFORE_COLUMN)
            self.run(f"delete from {staged.place} where {before} >= {VALUE}", [rows])
            [(count,)] = self.rows(f"select count(*) from {staged.place}")
            return bool(count >= rows)  # it is empty behind the commit that replaced the table


def _folded(table: Table) -> dict[str, Declared]:
    return {name.casefold(): each for name, each in table.declarations.items()}
