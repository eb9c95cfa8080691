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
    positions had once. gone: whether it was dropped, or is not followed any more. anew: whether rows were given before, which
    go with a TRUNCATE before the first row that is read. resync: the id of the last request to read it again that was begun, see
    `sdk.resyncs`. ranged: the ids of requests to read some rows again that were done."""

    reads: bool
    after: list[Any] | None = None
    rows: int = 0
    columns: Columns | str | None = None
    gone: bool = False
    anew: bool = False
    resync: str = ""
    ranged: tuple[str, ...] = ()

    @property
    def has_begun(self) -> bool:
        """Whether rows of it were given, so that its changes are given too."""
        return not self.reads or self.after is not None

    @property
    def is_new(self) -> bool:
        """Whether no row of it was given, and none is to be taken back."""
        return not self.has_begun and not self.anew

    @property
    def begins_anew(self) -> bool:
        return not self.has_begun and self.anew

    def read(self, after: list[Any] | None, rows: int, is_end: bool) -> Self:
        """Behind more of its rows."""
        anew = self.anew and not is_end
        return replace(self, after=after, rows=rows, reads=not is_end, anew=anew)

    def to_json(self) -> dict[str, Any]:
        columns = self.columns
        data = {
            "reads": self.reads,
            "after": self.after,
            "rows": self.rows,
            "columns": columns.to_json() if isinstance(columns, Columns) else columns,
        }
        more = {
            "gone": self.gone,
            "anew": self.anew,
            "resync": self.resync,
            "ranged": list(self.ranged),
        }
        return {**data, **{name: value for name, value in more.items() if value}}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        columns = data["columns"] or None
        if isinstance(columns, Mapping):
            columns = Columns.from_json(columns)
        return cls(
            data["reads"], data["after"], data["rows"], columns, bool(data.get("gone")), bool(data.get("anew")),
            data.get("resync", ""), tuple(data.get("ranged", ())),
        )  # fmt: skip


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
    tables = position.get("tables", {})
    return frozenset(name for name, table in tables.items() if not table.get("gone"))


def ranges_done(position: Mapping[str, Any]) -> list[str]:
    """The ids of requests to read some rows again that a position has done."""
    return [id_ for table in position.get("tables", {}).values() for id_ in table.get("ranged", ())]


def tables_read(position: Mapping[str, Any]) -> list[tuple[str, bool]]:
    """Of each table in a position the id of the last request to read it again, and whether it is being read."""
    tables = position.get("tables", {}).values()
    return [(table.get("resync", ""), table["reads"]) for table in tables]
