"""The marker rows of a `TableStore` as statements of SQL.

Always true: all statements are in the transaction that `begin` opened; values are never part of the SQL text.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar

from dataflare.sdk.sql import marker, soft_deletes
from dataflare.sdk.sql.marker import MARKER_COLUMNS, MARKER_TABLE, MarkerRow, MarkerRows
from dataflare.sdk.sql.names import listed, quoted
from dataflare.sdk.sql.store import TableStore, Target


class SqlMarkers(TableStore):
    """The part of a store for markers. place, columns: of the marker table."""

    mark: ClassVar[str] = "?"
    """A bound value in SQL."""
    text: ClassVar[str] = "text"
    """The type of text in a cast."""

    # -- for subclasses ----------------------------------------------------------------------------

    @abstractmethod
    def errors(self, subject: str) -> AbstractContextManager[None]:
        """Convert the library's exceptions inside into DataFlare's errors. subject: the table or the
        operation, for messages."""

    @abstractmethod
    def run(self, sql: str, params: Sequence[Any] = ()) -> None:
        """Run a statement without a result. Raises the library's exceptions."""

    @abstractmethod
    def rows(self, sql: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of a query. Raises the library's exceptions."""

    @abstractmethod
    def find(self, name: str) -> Any | None:
        """The table or view of that name, or None. Raises the library's exceptions."""

    @abstractmethod
    def place_of(self, table: Any) -> str:
        """The full name of a table that was found, quoted."""

    @abstractmethod
    def marker_columns(self, place: str) -> set[str]:
        """The columns of the marker table; none if there is none."""

    def replacing(self, key: Sequence[str], columns: Sequence[str]) -> str:
        """The end of an INSERT that replaces these columns of a row that has the key already."""
        sets = ", ".join(f"{quoted(n)} = excluded.{quoted(n)}" for n in columns)
        return f"on conflict ({listed(key)}) do update set {sets}"

    def deleting(self, place: str, alias: str) -> str:
        """The beginning of a DELETE from a table that has an alias."""
        return f"delete from {place} as {alias}"

    def discard(self, place: str) -> None:
        """Drop an internal table whose rows are not needed any more."""
        self.run(f"drop table {place}")

    def change(self, place: str, statements: Sequence[str]) -> None:
        """Run statements that create or change a table. place: of the table. May raise
        TransactionEnded, and the library's exceptions."""
        for statement in statements:
            self.run(statement)

    def marker_creation(self, place: str) -> str:
        """The statement that creates the marker table."""
        return marker.creation(place)

    def marker_place(self, target: Target) -> str | None:
        """The full name of the marker table for a target; None if its schema is missing."""
        return MARKER_TABLE

    def now(self) -> str:
        """The time, as a literal of SQL."""
        return soft_deletes.now()

    # -- the store ---------------------------------------------------------------------------------

    def read_marker(self, target: Target, *, lock: bool = False) -> MarkerRows:
        return self.read_markers([target], lock=lock)[0]

    def read_markers(
        self, targets: Sequence[Target], *, lock: bool = False, manifests: bool = True
    ) -> list[MarkerRows]:
        with self.errors(f"table {MARKER_TABLE}"):
            found: dict[str, MarkerRows] = {}
            for place, steps in self._by_place(targets).items():
                columns = self.marker_columns(place) if place else set()
                if not columns or place is None:
                    continue
                query, parameters = marker.selection(
                    steps, columns, place, self.mark, self.text, manifests=manifests
                )
                query += " for update" if lock and self.remote else ""
                found |= marker.marker_rows_by_step(steps, self.rows(query, parameters))
            return [found.get(target.step, MarkerRows()) for target in targets]

    def _by_place(self, targets: Sequence[Target]) -> dict[str | None, list[Target]]:
        places: dict[str | None, list[Target]] = {}
        for target in targets:
            places.setdefault(self.marker_place(target), []).append(target)
        return places

    def write_marker(self, target: Target, row: MarkerRow) -> None:
        self.write_markers([(target, row)])

    def write_markers(self, rows: Sequence[tuple[Target, MarkerRow]]) -> None:
        marks = ", ".join([self.mark] * len(MARKER_COLUMNS))
        replacing = self.replacing(MARKER_COLUMNS[:2], MARKER_COLUMNS[2:])
        with self.errors(f"table {MARKER_TABLE}"):
            places: dict[str, list[tuple[Target, MarkerRow]]] = {}
            for target, row in rows:
                places.setdefault(self.make_marker_table(target), []).append((target, row))
            for place, group in places.items():
                values = [marker.values(*each) for each in marker.with_one_manifest(group)]
                self.run(
                    f"insert into {place} ({listed(MARKER_COLUMNS)}) "
                    f"values {', '.join([f'({marks})'] * len(values))} {replacing}",
                    [value for each in values for value in each],
                )

    def make_marker_table(self, target: Target) -> str:
        """Create or widen the marker table if needed; returns its full name."""
        place = self.marker_place(target) or MARKER_TABLE
        columns = self.marker_columns(place)
        made = marker.widening(columns, place) if columns else [self.marker_creation(place)]
        self.change(place, made)
        return place

    def supersede(self, target: Target) -> None:
        with self.errors(f"table {MARKER_TABLE}"):
            place = self.make_marker_table(target)
            self.run(
                f"delete from {place} where step = {self.mark} and workflow = {self.mark} "
                f"and place = {self.mark} and lineage <> {self.mark}",
                (target.step, target.workflow, target.place, target.lineage),
            )

    def is_missing(self, target: Target) -> bool:
        with self.errors(f"table '{target.table}'"):
            return self.find(target.table) is None

    def is_empty(self, target: Target) -> bool:
        with self.errors(f"table '{target.table}'"):
            table = self.find(target.table)
            return table is None or not self.rows(f"select 1 from {self.place_of(table)} limit 1")
