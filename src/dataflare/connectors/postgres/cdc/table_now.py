"""What a table is when its rows are read: the plan has seen it earlier, and others may alter it meanwhile.

Always true: a column that came behind the plan is read with the rows, because the log does not have the values that the
snapshot sees. Rows of a table that was written anew behind the snapshot (ALTER TABLE, TRUNCATE) are not taken for gone:
they are not visible in the snapshot then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from dataflare.connectors.postgres.catalog import Connection, Table, find_exact
from dataflare.connectors.postgres.cdc.following import Followed
from dataflare.connectors.postgres.cdc.place import TablePlace
from dataflare.connectors.postgres.cdc.snapshot import HeldSnapshot
from dataflare.connectors.postgres.reader import KeyReader, StreamReader
from dataflare.connectors.postgres.relation import Column, column_of
from dataflare.errors import DataError, Retry, SystemError_
from dataflare.sdk.sql.table_reads import Unread

_LEAVES = "select relid::oid from pg_partition_tree(%(t)s) union select %(t)s::oid"
_FILES = "select array_agg(pg_relation_filenode(r) order by r) from unnest(%s::oid[]) r"


def as_it_is(db: Connection, followed: Followed, server: str) -> Followed:
    """The table with the columns that it has now. Raises DataError where the plan cannot be followed any more."""
    label = f"{followed.reading.relation.label} in {server}"
    table = find_exact(db, followed.table.folder, followed.table.name)
    if table is None or table.oid != followed.table.oid:
        raise SystemError_(
            f"{label} was dropped since the run began", code="E0605", help="run again"
        )
    for column in followed.columns:
        _check(column, table, label)
    if not followed.gives_new:
        return followed
    new = tuple(
        column_of(each.name, each.type, each.modifier, exact=each.exact)
        for each in table.columns.values()
        if each.name not in followed.table.columns and not each.generated
    )
    if not new:
        return followed
    relation = followed.reading.relation
    relation = replace(relation, columns=(*relation.columns, *new), table=table.alone())
    output = (*followed.reading.output, *(column.name for column in new))
    reading = replace(followed.reading, relation=relation, output=output)
    return replace(followed, reading=reading, table=table.alone(), new=new)


def _check(column: Column, table: Table, label: str) -> None:
    now = table.columns.get(column.name)
    if now is None:
        raise DataError(
            f"column '{column.name}' of {label} was dropped or renamed since the run began",
            code="E0545",
            help="run again: the run then has the columns that the table has now",
        )
    type_ = column_of(now.name, now.type, now.modifier).type
    if type_ != column.type and not column.as_text:
        raise DataError(
            f"column '{column.name}' of {label} is {type_} now, and was {column.type} when the run began",
            code="E0545",
            help="run again: the run then has the types that the table has now",
        )


class Files(Struct, frozen=True):
    """The files of tables, and of their partitions, before a snapshot was taken. parts, files: by table."""

    parts: Mapping[int, Sequence[int]]
    files: Mapping[int, Any]

    @classmethod
    def of(cls, db: Connection, tables: Sequence[int]) -> Files:
        parts = {t: [p for (p,) in db.execute(_LEAVES, {"t": t}).fetchall()] for t in tables}
        return cls(parts, {table: _files(db, each) for table, each in parts.items()})

    def check(self, db: Connection, followed: Followed, server: str) -> None:
        """Raises SystemError_ if a table has other files now. A statement that reads it keeps its files."""
        table = followed.table.oid
        if _files(db, self.parts[table]) == self.files[table]:
            return
        raise SystemError_(
            f"{followed.reading.relation.label} in {server} was written anew while it was read, as ALTER TABLE, TRUNCATE and VACUUM FULL do: the snapshot does "
            "not have all of its rows any more",
            code="E0605",
            retry=Retry.LATER,
            help="the run reads the rest in a new snapshot, or all rows where they are other ones now",
        )


def _files(db: Connection, parts: Sequence[int]) -> Any:
    row = db.execute(_FILES, (list(parts),)).fetchone()
    assert row is not None
    return row[0]


def unread_table(
    followed: Followed, place: TablePlace | None = None, snapshot: HeldSnapshot | None = None
) -> Unread[int]:
    """A table that is not read to its end. snapshot: None to see it as it is when it is read."""
    reading = replace(followed.reading, snapshot=snapshot)
    start: Mapping[str, Any] = {}
    if place is not None and place.after is not None:
        start = {"after": list(place.after), "rows": place.rows}
    reader = KeyReader if reading.relation.key else StreamReader
    return Unread(
        followed.table.oid, followed.stream, lambda: reader(reading, {}, start),
        bool(reading.relation.key), {c.name: str(c.type) for c in followed.new},
    )  # fmt: skip
