"""How far a reader of tables and their changes is, as JSON for positions. Pure.

Always true: what was given of each table is the table up to the last key that was read, as it was at the one place of
the log.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from msgspec import Struct
from msgspec.structs import replace

from dataflare.connectors.mysql.cdc.history import Columns
from dataflare.connectors.mysql.cdc.place import Place


class TableStanding(Struct, frozen=True):
    """How far one table is. reads: whether it is being read. after: the last key that was read; None for none. rows: how
    many were read. columns: of the table at the place of the log; None before it was read first; a text is the hash that
    positions had once. gone: whether it was dropped."""

    reads: bool
    after: list[Any] | None = None
    rows: int = 0
    columns: Columns | str | None = None
    gone: bool = False

    @property
    def has_begun(self) -> bool:
        """Whether rows of it were given, so that its changes are given too."""
        return not self.reads or self.after is not None

    def to_json(self) -> dict[str, Any]:
        columns = self.columns
        data = {
            "reads": self.reads,
            "after": self.after,
            "rows": self.rows,
            "columns": columns.to_json() if isinstance(columns, Columns) else columns,
        }
        return {**data, "gone": True} if self.gone else data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        columns = data["columns"] or None
        if isinstance(columns, Mapping):
            columns = Columns.from_json(columns)
        return cls(data["reads"], data["after"], data["rows"], columns, bool(data.get("gone")))


class Standing(Struct, frozen=True):
    """place: of the log; None before the first snapshot. tables: by name, with the database."""

    place: Place | None
    tables: Mapping[str, TableStanding]

    @property
    def unread(self) -> list[str]:
        """The tables that are not read to their end."""
        return [name for name, table in self.tables.items() if table.reads]

    def with_tables(self, tables: Mapping[str, TableStanding]) -> Self:
        return replace(self, tables={**self.tables, **tables})

    def behind(self, place: Place, columns: Mapping[str, Columns], gone: frozenset[str]) -> Self:
        """Behind a piece of the log. columns, gone: of tables there."""
        there = {
            name: replace(self.tables[name], columns=each, gone=name in gone)
            for name, each in columns.items()
        }
        return replace(self, place=place, tables={**self.tables, **there})

    def to_json(self) -> dict[str, Any]:
        place = {} if self.place is None else self.place.to_json()
        return {**place, "tables": {name: each.to_json() for name, each in self.tables.items()}}

    @classmethod
    def from_json(cls, data: Mapping[str, Any], only: str | None) -> Self:
        """only: the table that an earlier version followed alone, and did not name."""
        place = Place.from_json(data) if "file" in data else None
        tables = data.get("tables", {only or "": data})
        return cls(place, {name: TableStanding.from_json(table) for name, table in tables.items()})


def tables_begun(position: Mapping[str, Any]) -> frozenset[str]:
    """The tables that a position goes on with."""
    return frozenset(position.get("tables", ()))
