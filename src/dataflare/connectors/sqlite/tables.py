"""Tables of an SQLite file: what is there, and how one is made, widened or refused."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from dataflare.connectors.sql.names import generated_column, listed, missing_table, quoted
from dataflare.connectors.sql.store import Target
from dataflare.connectors.sqlite.connection import Connection
from dataflare.connectors.sqlite.types import declared, fits
from dataflare.errors import DataError, SystemError_, did_you_mean


class Table(Struct, frozen=True):
    """A table or view that exists. columns: declared type by name. key: its primary key.
    rowid: whether it has one. uniques: the column sets that are unique. generated: the columns whose
    values the database computes."""

    name: str
    view: bool
    columns: dict[str, str]
    key: tuple[str, ...]
    rowid: bool
    uniques: tuple[frozenset[str], ...]
    generated: frozenset[str] = frozenset()

    @property
    def rowid_column(self) -> str:
        """A name for the rowid that no column has taken."""
        taken = {name.casefold() for name in self.columns}
        return next((n for n in ("rowid", "_rowid_", "oid") if n not in taken), "")


def table_names(db: Connection) -> list[str]:
    found = db.frame(
        "select name from sqlite_master where type in ('table', 'view') and name not like 'sqlite_%' "
        "and name not like '\\_dataflare\\_%' escape '\\' order by name"
    )
    return [str(name) for name in found["name"]]


def find_table(db: Connection, name: str) -> Table | None:
    """The table or view of that name; upper and lower case are one, as SQLite has it."""
    found = db.frame(
        "select name, type, sql from sqlite_master where type in ('table', 'view') "
        "and lower(name) = lower(?)",
        (name,),
    )
    if not found.height:
        return None
    real, kind, sql = found.row(0)
    # Not those that a virtual table hides (1); with generated ones, virtual (2) and stored (3).
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
    """SQLite counts GENERATED ALWAYS to the declared type."""
    return re.sub(r"\s*GENERATED ALWAYS\s*$", "", declared, flags=re.I)


def _without_rowid(sql: str) -> bool:
    tail = sql[sql.rfind(")") + 1 :].upper().split()
    return "WITHOUT" in tail or sql.lstrip().upper().startswith("CREATE VIRTUAL")


def creation(target: Target) -> list[str]:
    """The statements that make the table `target` writes."""
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
    """The statements that make the staging table of an overwrite by the table's own text, so that it
    has its types and rules; a table without rowids is staged in one that has them."""
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
    """The statements that give the staging table the table's unique indexes, so that it refuses what
    the table would; names of ours, for those of the table are taken until it goes."""
    found = db.frame(
        "select sql from sqlite_master where type = 'index' and sql is not null "
        "and lower(tbl_name) = lower(?) order by name",
        (table.name,),
    )
    statements: list[str] = []
    for number, sql in enumerate(found["sql"]):
        if (named := _INDEX.match(sql)) is not None:
            name = quoted(f"{target.written}_unique_{number}")
            what = sql[named.end() :]
            statements.append(f"create unique index {name} on {quoted(target.written)}{what}")
    return statements


def indexes(db: Connection, table: str) -> list[str]:
    """The names of a table's indexes that were made by a statement of their own."""
    found = db.frame(
        "select name from sqlite_master where type = 'index' and sql is not null "
        "and lower(tbl_name) = lower(?)",
        (table,),
    )
    return [str(name) for name in found["name"]]


def widening(target: Target, table: Table, path: Path) -> list[str]:
    """The statements that give the table the columns it lacks. Raises what cannot be."""
    known = {name.casefold() for name in table.columns}
    missing = [field for field in target.schema if field.name.casefold() not in known]
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
    """Raise DataError (E0511) for bytes inside a list or a struct: these are stored as JSON."""
    for field in target.schema:
        if field.type.name in ("list", "struct") and "binary" in str(field.type):
            raise DataError(
                f"column '{field.name}' is {field.type}, and JSON, as which SQLite stores it, has no bytes",
                code="E0511",
                help=f"leave it out with map: drop: [{field.name}]",
            )


def refuse_misfits(target: Target, table: Table) -> None:
    """Raise DataError (E0511) for a column whose values the existing column cannot hold."""
    by_name = {name.casefold(): (name, type_) for name, type_ in table.columns.items()}
    for field in target.schema:
        name, declaration = by_name.get(field.name.casefold(), ("", ""))
        if name in table.generated:
            raise generated_column(name, f"table '{table.name}'")
        if name and not fits(field.type, declaration):
            raise DataError(
                f"column '{name}' of table '{table.name}' is {declaration}, and {field.type} "
                f"values arrive",
                code="E0511",
                help=f"convert them with map: cast: {{{field.name}: ...}}",
            )


def unique_index(target: Target, table: Table) -> str | None:
    """The statement that makes the key unique, or None when it is."""
    wanted = {name.casefold() for name in target.key}
    for unique in table.uniques:
        if {name.casefold() for name in unique} == wanted:
            return None
    name = "_dataflare_key_" + "_".join([table.name, *target.key])
    return f"create unique index {quoted(name)} on {quoted(table.name)} ({listed(target.key)})"


def require(db: Connection, target: Target, path: Path) -> Table | None:
    """The table to write, or None when it is to be made. Raises E0604 when it may not be made."""
    refuse_bytes_in_json(target)
    found = find_table(db, target.table)
    if found is None and not target.create_table:
        raise missing_table(target.table, path, table_names(db))
    if found is not None and found.view:
        raise SystemError_(
            f"'{target.table}' in {path} is a view, not a table",
            code="E0604",
            help="write to a table, or choose another name",
        )
    return found


def dependents(db: Connection, table: str) -> Sequence[str]:
    """The SQL of the table's indexes and triggers, to be made again after it was replaced."""
    found = db.frame(
        "select sql from sqlite_master where type in ('index', 'trigger') and sql is not null "
        "and lower(tbl_name) = lower(?)",
        (table,),
    )
    return [str(sql) for sql in found["sql"]]
