"""Send rows to a table by COPY: all rows, or all rows except those that the server refuses."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import polars as pl
import psycopg
from msgspec import Struct

from dataflare.connectors.postgres.binary import binary
from dataflare.connectors.postgres.catalog import Connection
from dataflare.connectors.postgres.encode import csv_bytes, encoded, row_of_line
from dataflare.connectors.postgres.errors import error_facts
from dataflare.connectors.postgres.exactness import Limit, refuse_loss
from dataflare.connectors.postgres.rules import checks, is_orphan
from dataflare.connectors.postgres.types import PgType
from dataflare.errors import DataError, DataFlareError
from dataflare.formats.far_times import far_columns
from dataflare.formats.text_write import python_row
from dataflare.model.types import DataType, Schema
from dataflare.sdk.bisection import Pace, Refusal
from dataflare.sdk.max_errors import Bound
from dataflare.sdk.sql.names import listed
from dataflare.sdk.sql.refusals import sift, with_row

_COPY_LINE = re.compile(r"^COPY .*?, \S+ (\d+)", re.MULTILINE)
_SAVEPOINT = "_dataflare_copy"
_FEW = 1_000
"""So few rows are sent before another thread has begun."""


class Copier(Struct, frozen=True):
    """errors: converts psycopg's errors. place: the table. types: of the columns that are written.
    targets: types of the table's columns. limits: of columns that round. deferred: constraints that
    each attempt must check."""

    db: Connection
    errors: Callable[[], Any]
    place: str
    types: Mapping[str, DataType]
    targets: Mapping[str, PgType]
    deferred: Sequence[str] = ()
    limits: Mapping[str, Limit] = {}

    def encode(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Raises DataError (E0511) for values that PostgreSQL would truncate without an error."""
        refuse_loss(rows, self.types, self.limits)
        return encoded(rows.select(list(self.types)), self.types, self.targets)

    def send(self, cells: pl.DataFrame) -> None:
        self.send_bytes(csv_bytes(cells))

    def send_bytes(self, data: memoryview, form: str = "csv") -> None:
        statement = f"copy {self.place} ({listed(self.types)}) from stdin (format {form})"
        with self.errors(), self.db.cursor() as cursor, cursor.copy(statement) as copy:
            copy.write(data)

    def sift(
        self, rows: pl.DataFrame, pace: Pace, bound: Bound
    ) -> tuple[list[Refusal], pl.DataFrame]:
        """Send rows, except the refused ones. Returns the refused ones, and the cells of refused
        rows that need another row first."""
        try:
            cells, refused = self.encode(rows), []
        except DataError:
            refused = sift(rows.height, partial(self._encoded, rows), Pace(), bound=bound)
            good = rows.with_row_index("__dataflare_at")
            good = good.filter(~pl.col("__dataflare_at").is_in([each.row for each in refused]))
            places, cells = good["__dataflare_at"], self.encode(good)
            refusals, orphans = self._sift(cells, pace, bound)
            moved = [Refusal(places[each.row], each.error) for each in refusals]
            return sorted([*refused, *moved], key=lambda each: each.row), orphans
        return self._sift(cells, pace, bound)

    def _encoded(self, rows: pl.DataFrame, first: int, behind: int) -> None:
        self.encode(rows.slice(first, behind - first))

    def _sift(
        self, cells: pl.DataFrame, pace: Pace, bound: Bound
    ) -> tuple[list[Refusal], pl.DataFrame]:
        def attempt(first: int, behind: int) -> None:
            self.attempt(cells.slice(first, behind - first))

        def suspects(error: DataError, first: int, behind: int) -> list[int]:
            row = row_of(error, cells.slice(first, behind - first), behind - first)
            return [] if row is None else [first + row]

        refused = sift(cells.height, attempt, pace, suspects=suspects, bound=bound)
        orphans = [each.row for each in refused if is_orphan(each.error)]
        return refused, cells[orphans]

    def attempt(self, cells: pl.DataFrame) -> None:
        """Send the cells, or raise DataError and write none of them."""
        with self.errors():
            self.db.execute(f"savepoint {_SAVEPOINT}")
        try:
            self.send(cells)
            with self.errors():
                for statement in checks(self.deferred):
                    self.db.execute(statement)
        except DataError:
            with self.errors():
                self.db.execute(f"rollback to {_SAVEPOINT}")
            raise
        with self.errors():
            self.db.execute(f"release {_SAVEPOINT}")


class Sender:
    """One thread that sends rows while the next ones are encoded. No other thread may use the
    connection before `drain`."""

    def __init__(self) -> None:
        self._thread: ThreadPoolExecutor | None = None
        self._flying: Future[None] | None = None

    def send(self, copier: Copier, rows: pl.DataFrame, names: Sequence[str], step: str) -> None:
        """Raises the error of earlier rows, maybe of another step. names: of the columns that
        identify the row in an error."""
        cells = None
        _refuse_far(copier, rows, names, step)
        self._check(copier, rows, names, step)
        data = binary(rows, copier.types, copier.targets)
        if data is None:
            cells = copier.encode(rows)
            data = csv_bytes(cells)
        self.drain()
        if rows.height <= _FEW:
            _send(copier, rows, cells, data, names, step)
            return
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "dataflare-postgres-copy")
        self._flying = self._thread.submit(_send, copier, rows, cells, data, names, step)

    def _check(self, copier: Copier, rows: pl.DataFrame, names: Sequence[str], step: str) -> None:
        """Raises DataError (E0511), with the row, for a value that would be rounded."""
        if not copier.limits:
            return
        try:
            refuse_loss(rows, copier.types, copier.limits)
        except DataError:
            for at in range(rows.height):
                one = rows.slice(at, 1)
                try:
                    refuse_loss(one, copier.types, copier.limits)
                except DataError as error:
                    row = python_row(one)
                    raise with_row(error, row, [n for n in names if n in row]).at(
                        step=step
                    ) from None
            raise

    def drain(self) -> None:
        """Wait for the rows in progress. Raises the server's error for them, once."""
        flying, self._flying = self._flying, None
        if flying is not None:
            flying.result()

    def stop(self) -> None:
        """Never raises: the caller does not need the rows any more."""
        flying, self._flying = self._flying, None
        if flying is not None:
            flying.exception()
        if self._thread is not None:
            self._thread.shutdown()
            self._thread = None


def _refuse_far(copier: Copier, rows: pl.DataFrame, names: Sequence[str], step: str) -> None:
    """Raises DataError (E0511), with the row, for a date or time beyond the calendar of the
    formatter; PostgreSQL's calendar ends in the year 294276 for timestamps."""
    schema = Schema.of(copier.types)
    for name in far_columns(rows, schema):
        for at in range(rows.height):
            one = rows.select(schema.names).slice(at, 1)
            if name in far_columns(one, schema):
                row = python_row(one)
                error = DataError(
                    f"column '{name}' has {row[name]}, which is too far away for PostgreSQL",
                    code="E0511",
                    help="set such a value to NULL in a step 'map', or write it as text",
                )
                raise with_row(error, row, [n for n in names if n in row]).at(step=step)


def _send(
    copier: Copier,
    rows: pl.DataFrame,
    cells: pl.DataFrame | None,
    data: memoryview,
    names: Sequence[str],
    step: str,
) -> None:
    """cells: the rows of `data` if it is CSV; None if it is binary."""
    try:
        copier.send_bytes(data, "binary" if cells is None else "csv")
    except DataError as error:
        at = row_of(error, cells, rows.height)
        if at is not None:
            row = python_row(rows, at)
            error_with_row = with_row(error, row, [name for name in names if name in row])
            raise error_with_row.at(step=step) from error.__cause__
        raise error.at(step=step) from error.__cause__
    except DataFlareError as error:
        raise error.at(step=step) from error.__cause__


class Orphans(Struct):
    """Rows that were refused because another row was missing. refusals: of the rows in cells, in
    order."""

    copier: Copier
    cells: pl.DataFrame
    refusals: list[Refusal]

    def retry(self) -> bool:
        """Send them again. Returns whether one was accepted."""
        refused = sift(self.cells.height, self._attempt, Pace())
        places = [each.row for each in refused]
        accepted = self.cells.height - len(places)
        self.cells, self.refusals = self.cells[places], [self.refusals[row] for row in places]
        return accepted > 0

    def _attempt(self, first: int, behind: int) -> None:
        self.copier.attempt(self.cells.slice(first, behind - first))


def row_of(error: DataError, cells: pl.DataFrame | None, count: int) -> int | None:
    """The row that caused an error, if the server names it. cells: the sent rows if they were CSV;
    None if they were binary. count: of the rows."""
    cause = error.__cause__
    match = (
        _COPY_LINE.search(error_facts(cause).context) if isinstance(cause, psycopg.Error) else None
    )
    if match is None:
        return None
    line = int(match.group(1)) - 1
    return min(line, count - 1) if cells is None else row_of_line(cells, line)
