"""Tables of an SQLite file: find, create, widen and check them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from dataflare.connectors.sqlite.connection import Connection
from dataflare.connectors.sqlite.exactness import misfit
from dataflare.connectors.sqlite.types import declared, fits, type_of_declaration
from dataflare.errors import DataError, SystemError_, did_you_mean
from dataflare.sdk.sql.clocks import has_other_clock, other_clock
from dataflare.sdk.sql.names import generated_column, listed, missing_table, quoted
from dataflare.sdk.sql.store import Target


class Table(Struct, frozen=True):
    """An existing table or view. columns: declared type by name. key: its primary key. rowid:
    whether it has one. uniques: the sets of columns that are unique. generated: the columns that
    the database computes."""

    name: str
    view: bool
    columns: dict[str, str]
    key: tuple[str, ...]
    rowid: bool
    uniques: tuple[frozenset[str], ...]
    generated: frozenset[str] = frozenset()

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
        str(real), kind == "view", columns, tuple(map(str, key)), rowid, tuple(uniques), generated
    )


def _bare(declared: str) -> str:
    """The declared type without GENERATED ALWAYS, which SQLite includes."""
    return re.sub(r"\s*GENERATED ALWAYS\s*$", "", declared, flags=re.I)


def _without_rowid(sql: str) -> bool:
    tail = sql[sql.rfind(")") + 1 :].upper().split()
    return "WITHOUT" in tail or sql.lstrip().upper().startswith("CREATE VIRTUAL")


def creation(target: Target) -> list[str]:
    """The statements that create the table of the target."""
    key = target.key if target.mode in ("upsert", "mirror") else ()
    columns = [f"{quoted(field.name)} {declared(field.type)}" for field in target.schema]
    if key:
        columns.append(f"primary key ({listed(key)})")
    return [f"create table {quoted(target.written)} ({', '.join(columns)})"]


_NAMED = re.compile(
    r"""CREATE\s+TABLE\s+("(?:[^"]|"")*"|`(?:[^`]|``)*`|'(?:[^']|'')*'|\[[^\]]*\]|[^\s("`'\[]+)""",
    re.I,
)


def creation_like(db: Connection, target: Target, table: Table) -> list[str]:
    """The statements that create the staging table of an overwrite from the SQL of the table, so
    that it has the same types and rules; for a table without rowids, the staging table has
    rowids."""
    sql = db.frame("select sql from sqlite_master where name = ?", (table.name,)).item()
    if not table.rowid or _NAMED.match(sql) is None:
        return creation(target)
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


def widening(target: Target, table: Table, path: Path) -> list[str]:
    """The statements that add missing columns to the table. Raises an error if that is not
    possible."""
    columns = {name.casefold() for name in table.columns}
    missing = [field for field in target.schema if field.name.casefold() not in columns]
    if missing and not target.create_table:
        names = ", ".join(f"'{field.name}'" for field in missing)
        raise SystemError_(
            f"table '{table.name}' in {path} has no column {names}",
            code="E0606",
            notes=[f"it has: {', '.join(table.columns)}"],
            help=did_you_mean(missing[0].name, table.columns)
            or "set create_table: true to let it grow",
        )
    return [
        f"alter table {quoted(table.name)} add column {quoted(field.name)} {declared(field.type)}"
        for field in missing
    ]


def refuse_bytes_in_json(target: Target) -> None:
    """Raise DataError (E0511) for bytes inside a list or a struct: lists and structs are stored as
    JSON."""
    for field in target.schema:
        if field.type.name in ("list", "struct") and "binary" in str(field.type):
            raise DataError(
                f"column '{field.name}' is {field.type}, and SQLite stores it as JSON, which has "
                "no bytes",
                code="E0511",
                help=f"leave it out with map: drop: [{field.name}]",
            )


def refuse_misfits(target: Target, table: Table) -> None:
    """Raise DataError (E0511) if the existing column cannot hold the values of a column.

    Text is refused later, at its first value: a column of a CSV file that has no value today is text too.
    """
    by_name = {name.casefold(): (name, type_) for name, type_ in table.columns.items()}
    for field in target.schema:
        name, declaration = by_name.get(field.name.casefold(), ("", ""))
        if name in table.generated:
            raise generated_column(name, f"table '{table.name}'")
        if name and not field.type.is_text and not fits(field.type, declaration):
            raise misfit(name, field.type, declaration, table.name)
        column = type_of_declaration(declaration) if name else None
        if column is not None and has_other_clock(field.type, column):
            raise other_clock(name, field.type, table.name, declaration)


def unique_index(target: Target, table: Table) -> str | None:
    """The statement that makes the key unique, or None if it is unique already."""
    key = {name.casefold() for name in target.key}
    for unique in table.uniques:
        if {name.casefold() for name in unique} == key:
            return None
    name = "_dataflare_key_" + "_".join([table.name, *target.key])
    return f"create unique index {quoted(name)} on {quoted(table.name)} ({listed(target.key)})"


def require(db: Connection, target: Target, path: Path) -> Table | None:
    """The table to write, or None if it must be created. Raises E0604 if it may not be created."""
    refuse_bytes_in_json(target)
    existing = find_table(db, target.table)
    if existing is None and not target.create_table:
        raise missing_table(target.table, path, table_names(db))
    if existing is not None and existing.view:
        raise SystemError_(
            f"'{target.table}' in {path} is a view, not a table",
            code="E0604",
            help="write to a table, or choose another name",
        )
    return existing


def dependents(db: Connection, table: str) -> Sequence[str]:
    """The SQL of the table's indexes and triggers, to create them again after the table was
    replaced."""
    rows = db.frame(
        "select sql from sqlite_master where type in ('index', 'trigger') and sql is not null "
        "and lower(tbl_name) = lower(?)",
        (table,),
    )
    return [str(sql) for sql in rows["sql"]]
