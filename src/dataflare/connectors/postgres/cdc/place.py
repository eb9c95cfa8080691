"""How far a source of changes is, as JSON for checkpoints. Pure.

While a table is read its place has the key of the last row, and for each part that was read which transactions its
snapshot sees. Behind that it is a position in the log, which is the same for all tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from msgspec import Struct
from msgspec.structs import replace

from dataflare.connectors.postgres.cdc.sight import Sight
from dataflare.connectors.postgres.cdc.wire import lsn_of, lsn_text


class Part(Struct, frozen=True):
    """Rows that one snapshot gave. to: the last key; None: to the end of the table."""

    to: tuple[str, ...] | None
    snapshot: str

    @property
    def sight(self) -> Sight:
        return Sight.of(self.snapshot)


class Storage(Struct, frozen=True):
    """What holds the rows of a table, and tells its changes. columns: its columns as the catalogue has them, made short.
    files: by partition, and for the table itself, the number of the file. published: its place in the publication."""

    columns: str
    files: Mapping[int, int]
    published: str

    @property
    def publication(self) -> str:
        """Its number: another one for a publication that was made anew."""
        return self.published.partition(" ")[0]

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        return cls(data["columns"], dict(data["files"]), data["published"])

    def to_json(self) -> dict[str, Any]:
        files = [[part, file] for part, file in self.files.items()]
        return {"columns": self.columns, "files": files, "published": self.published}


class TablePlace(Struct, frozen=True):
    """How far one table is. name: with its schema; empty where an earlier version has written it. columns: those that
    the rows had so far. reading: whether there are rows to be read before its changes. after, rows: while it is read,
    the last key and how many rows came before. again: whether its rows were given before, and are given once more. parts: those whose snapshots may see changes behind the position in the
    log. settled: behind this position no change was seen by a snapshot. numbers: of the columns in the table, 0 where it is
    not known. highest: the greatest number that a column had.
    resync: the id of the last request to read it again that was begun, see `sdk.resyncs`. ranged: of the ranges of it
    that were read again, and are still asked for. storage: of the rows that were
    given; None where an earlier version has written it."""

    name: str
    columns: tuple[str, ...]
    reading: bool = False
    after: tuple[str, ...] | None = None
    rows: int = 0
    parts: tuple[Part, ...] = ()
    settled: int = 0
    again: bool = False
    numbers: tuple[int, ...] = ()
    highest: int = 0
    resync: str = ""
    storage: Storage | None = None
    ranged: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        read = data.get("snapshot") or {}
        after, storage = read.get("after"), data.get("storage")
        return cls(
            data.get("name", ""),
            tuple(data["columns"]),
            reading=bool(read.get("reading")),
            after=None if after is None else tuple(after),
            rows=read.get("rows", 0),
            parts=tuple(
                Part(None if part["to"] is None else tuple(part["to"]), part["sees"])
                for part in read.get("parts", ())
            ),
            settled=lsn_of(read.get("settled", "0/0")),
            again=bool(read.get("again")),
            numbers=tuple(data.get("numbers", ())),
            highest=data.get("highest", 0),
            resync=data.get("resync", ""),
            ranged=tuple(data.get("ranged", ())),
            storage=None if storage is None else Storage.from_json(storage),
        )

    def having(self, columns: tuple[str, ...], numbers: Mapping[str, int]) -> Self:
        """With these columns from here on. numbers: by column that the table has now."""
        known = {**numbers, **{n: number for n, number in self.number_of.items() if number}}
        return replace(
            self,
            columns=columns,
            numbers=tuple(known.get(name, 0) for name in columns),
            highest=max(self.highest, *numbers.values(), 0),
        )

    @property
    def number_of(self) -> Mapping[str, int]:
        """By column, its number in the table."""
        return dict(zip(self.columns, self.numbers, strict=False))

    @property
    def is_unbegun(self) -> bool:
        """Whether none of its rows were given: all of them are to be read."""
        return self.reading and self.after is None and not (self.parts or self.again)

    def read(self, after: tuple[str, ...] | None, rows: int, snapshot: str, lsn: int) -> Self:
        """Behind rows of the table that a snapshot gave, up to a key; None: to the end. lsn: the log up to there has
        all that the snapshot sees."""
        # Rows that are given once more replace those that are there. So do the changes that follow, whether or not the
        # snapshot has seen them: a delete that it has seen may be of a row that was given before.
        if self.again:
            settled = max(self.settled, lsn)
            return replace(self, reading=after is not None, after=after, rows=rows, settled=settled)
        earlier = self.parts
        if earlier and earlier[-1].snapshot == snapshot:
            earlier = earlier[:-1]
        return replace(
            self,
            reading=after is not None,
            after=after,
            rows=rows,
            parts=(*earlier, Part(after, snapshot)),
            settled=max(self.settled, lsn),
        )

    def anew(self) -> Self:
        """Before all rows are read as by a first run, behind a TRUNCATE of what was given."""
        return replace(self, reading=True, after=None, rows=0, parts=(), settled=0, again=False)

    def moved(self, lsn: int) -> Self:
        """Behind a position in the log."""
        if not self.settled or self.reading or lsn < self.settled:
            return self
        return replace(self, parts=(), settled=0, after=None, rows=0, again=False)

    def once_more(self, columns: tuple[str, ...]) -> Self:
        """Before rows that are given once more, because they have other columns now."""
        table = self.having(columns, {})
        return replace(table, reading=True, after=None, rows=0, parts=(), settled=0, again=True)

    def to_json(self) -> dict[str, Any]:
        data: dict[str, Any] = {"name": self.name, "columns": list(self.columns)}
        if self.numbers:
            data |= {"numbers": list(self.numbers), "highest": self.highest}
        if self.resync:
            data["resync"] = self.resync
        if self.ranged:
            data["ranged"] = list(self.ranged)
        if self.storage is not None:
            data["storage"] = self.storage.to_json()
        if self.reading or self.settled:
            data["snapshot"] = {
                "reading": self.reading,
                "after": None if self.after is None else list(self.after),
                "rows": self.rows,
                "parts": [
                    {"to": None if part.to is None else list(part.to), "sees": part.snapshot}
                    for part in self.parts
                ],
                "settled": lsn_text(self.settled),
            }
            if self.again:
                data["snapshot"]["again"] = True
        return data


class Place(Struct, frozen=True):
    """lsn: everything in the log before it was given. tables: by number, which tells a table that was made anew. left: the
    names of tables that were followed once, and of which destinations may have rows."""

    slot: str
    publication: str
    system: str
    timeline: int
    lsn: int
    tables: Mapping[int, TablePlace]
    left: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        # Earlier versions wrote the place of their one table beside the position.
        tables = data["tables"] if "tables" in data else {data["table"]: data}
        return cls(
            data["slot"], data["publication"], data["system"], data["timeline"], lsn_of(data["lsn"]),
            {int(oid): TablePlace.from_json(table) for oid, table in tables.items()},
            tuple(data.get("left", ())),
        )  # fmt: skip

    @property
    def settled(self) -> int:
        """Behind this position no change was seen by a snapshot."""
        return max((table.settled for table in self.tables.values()), default=0)

    @property
    def unread(self) -> list[int]:
        """The tables that are read before their changes, and are not read to the end."""
        return [oid for oid, table in self.tables.items() if table.reading]

    def with_table(self, oid: int, table: TablePlace) -> Self:
        return replace(self, tables={**self.tables, oid: table})

    def moved(self, lsn: int) -> Self:
        """Behind a position in the log."""
        tables = self.tables
        if any(table.settled for table in tables.values()):
            tables = {oid: table.moved(lsn) for oid, table in tables.items()}
        return replace(self, lsn=lsn, tables=tables)

    def to_json(self) -> dict[str, Any]:
        data: dict[str, Any] = {
            "slot": self.slot,
            "publication": self.publication,
            "system": self.system,
            "timeline": self.timeline,
            "lsn": lsn_text(self.lsn),
            "tables": {str(oid): table.to_json() for oid, table in self.tables.items()},
        }
        return {**data, "left": list(self.left)} if self.left else data
