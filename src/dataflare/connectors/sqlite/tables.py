"""Tables of an SQLite file: find them, and the SQL that they were created with."""

from __future__ import annotations

import re
from collections.abc import Sequence

from dataflare.connectors.sqlite.connection import Connection
from dataflare.connectors.sqlite.exactness import misfit
from dataflare.connectors.sqlite.types import fits, type_of_declaration
from dataflare.sdk.catalog import Entry
from dataflare.sdk.sql import tables
from dataflare.sdk.sql.names import quoted
from dataflare.sdk.sql.store import Target


class Table(tables.Table, frozen=True):
    """rowid: whether it has one."""

    rowid: bool = False

    @property
    def rowid_column(self) -> str:
        """A name of the rowid that no column has."""
        names = {name.casefold() for name in self.columns}
        return next((n for n in ("rowid", "_rowid_", "oid") if n not in names), "")


def table_names(db: Connection) -> list[str]:
    rows = db.frame(
        "select name from sqlite_master where type in ('table', 'view') and name not like 'sqlite_%' "
        "and name not like '\\_dataflare\\_%' escape '\\' order by name"
    )
    return [str(name) for name in rows["name"]]


def tables_and_views(db: Connection) -> list[Entry]:
    """What the file has, without SQLite's and DataFlare's own tables."""
    kinds = dict(db.frame("select name, type from sqlite_master").rows())
    return [Entry(name, str(kinds[name]), {"table": name}) for name in table_names(db)]


def find_table(db: Connection, name: str) -> Table | None:
    """The table or view of that name; the case is ignored, as in SQLite."""
    rows = db.frame(
        "select name, type, sql from sqlite_master where type in ('table', 'view') "
        "and lower(name) = lower(?)",
        (name,),
    )
    if not rows.height:
        return None
    real, kind, sql = rows.row(0)
    # Without hidden columns of virtual tables (1); with generated columns, virtual (2) and stored
    # (3).
    info = db.frame(
        "select name, type, pk, hidden from pragma_table_xinfo(?) where hidden <> 1 order by cid",
        (real,),
    ).rows()
    key = tuple(n for n, _, place, _ in sorted(info, key=lambda row: row[2]) if place)
    unique = db.frame(
        'select name from pragma_index_list(?) where "unique" and not partial', (real,)
    )
    uniques = [frozenset(key)] if key else []
    for index in unique["name"]:
        parts = db.frame("select name from pragma_index_info(?)", (index,))["name"].to_list()
        if None not in parts:
            uniques.append(frozenset(str(part) for part in parts))
    rowid = kind == "table" and not _without_rowid(sql or "")
    columns = {str(n): _bare(str(t or "")) for n, t, _, _ in info}
    generated = frozenset(str(n) for n, _, _, hidden in info if hidden in (2, 3))
    return Table(
        str(real), quoted(str(real)), kind == "view", columns, tuple(map(str, key)), tuple(uniques),
        generated, rowid=rowid,
    )  # fmt: skip


def _bare(declared: str) -> str:
    """The declared type without GENERATED ALWAYS, which SQLite includes."""
    return re.sub(r"\s*GENERATED ALWAYS\s*$", "", declared, flags=re.I)


def _without_rowid(sql: str) -> bool:
    tail = sql[sql.rfind(")") + 1 :].upper().split()
    return "WITHOUT" in tail or sql.lstrip().upper().startswith("CREATE VIRTUAL")


_NAMED = re.compile(
    r"""CREATE\s+TABLE\s+("(?:[^"]|"")*"|`(?:[^`]|``)*`|'(?:[^']|'')*'|\[[^\]]*\]|[^\s("`'\[]+)""",
    re.I,
)


def creation_like(db: Connection, target: Target, table: Table) -> list[str]:
    """The statements that create the staging table of an overwrite from the SQL of the table; none if
    that cannot be done."""
    sql = db.frame("select sql from sqlite_master where name = ?", (table.name,)).item()
    if not table.rowid or _NAMED.match(sql) is None:
        return []
    return [_NAMED.sub(lambda _: f"create table {quoted(target.written)}", sql, count=1)]


_INDEX = re.compile(
    r"""CREATE\s+UNIQUE\s+INDEX\s+(?:"(?:[^"]|"")*"|`(?:[^`]|``)*`|'(?:[^']|'')*'|\[[^\]]*\]|\S+?)"""
    r"""\s*\bON\s*(?:"(?:[^"]|"")*"|`(?:[^`]|``)*`|'(?:[^']|'')*'|\[[^\]]*\]|[^\s("`'\[]+)""",
    re.I,
)


def unique_indexes_like(db: Connection, target: Target, table: Table) -> list[str]:
    """The statements that create the table's unique indexes on the staging table, so that it
    refuses the same rows. They have internal names, because the table's indexes still have
    theirs."""
    if not table.rowid:
        return []
    rows = db.frame(
        "select sql from sqlite_master where type = 'index' and sql is not null "
        "and lower(tbl_name) = lower(?) order by name",
        (table.name,),
    )
    statements: list[str] = []
    for number, sql in enumerate(rows["sql"]):
        if (match := _INDEX.match(sql)) is not None:
            name = quoted(f"{target.written}_unique_{number}")
            rest = sql[match.end() :]
            statements.append(f"create unique index {name} on {quoted(target.written)}{rest}")
    return statements


def indexes(db: Connection, table: str) -> list[str]:
    """The names of a table's indexes that were created by separate statements."""
    rows = db.frame(
        "select name from sqlite_master where type = 'index' and sql is not null "
        "and lower(tbl_name) = lower(?)",
        (table,),
    )
    return [str(name) for name in rows["name"]]


def refuse_misfits(target: Target, table: tables.Table) -> None:
    """Raise DataError (E0511) if the existing column cannot hold the values of a column.

    Text is refused later, at its first value: a column of a CSV file that has no value today is text too.
    """
    tables.refuse_generated(target, table)
    by_name = {name.casefold(): (name, type_) for name, type_ in table.columns.items()}
    for field in target.schema:
        name, declaration = by_name.get(field.name.casefold(), ("", ""))
        if name and not field.type.is_text and not fits(field.type, declaration):
            raise misfit(name, field.type, declaration, table.name)
    tables.refuse_other_clocks(target, table, type_of_declaration)


def dependents(db: Connection, table: str) -> Sequence[str]:
    """The SQL of the table's indexes and triggers, to create them again after the table was
    replaced."""
    rows = db.frame(
        "select sql from sqlite_master where type in ('index', 'trigger') and sql is not null "
        "and lower(tbl_name) = lower(?)",
        (table,),
    )
    return [str(sql) for sql in rows["sql"]]
