"""Tables of a DuckDB file: find, create, widen and check them."""

from __future__ import annotations

import re
from pathlib import Path

from msgspec import Struct

from dataflare.connectors.duckdb.connection import DuckConnection
from dataflare.connectors.duckdb.types import declared, type_of_declaration
from dataflare.errors import SystemError_, did_you_mean
from dataflare.sdk.sql.clocks import has_other_clock, other_clock
from dataflare.sdk.sql.names import generated_column, listed, missing_table, quoted
from dataflare.sdk.sql.store import Target


class Table(Struct, frozen=True):
    """An existing table or view. columns: declared type by name. generated: the columns that the
    database computes, in lower case."""

    schema: str
    name: str
    view: bool
    columns: dict[str, str]
    key: tuple[str, ...]
    uniques: tuple[frozenset[str], ...]
    generated: frozenset[str] = frozenset()


def split_name(name: str) -> tuple[str, str]:
    """Schema and table: `analytics.orders`, or `orders` in the schema main."""
    schema, dot, table = name.rpartition(".")
    return (schema, table) if dot else ("main", name)


def spelled(name: str) -> str:
    """The table's full name, quoted."""
    schema, table = split_name(name)
    return f"{quoted(schema)}.{quoted(table)}"


def table_names(db: DuckConnection) -> list[str]:
    rows = db.rows(
        "select schema_name, table_name from duckdb_tables() where not internal "
        "and database_name = current_database() "
        "and not starts_with(table_name, '_dataflare_') union all "
        "select schema_name, view_name from duckdb_views() where not internal "
        "and database_name = current_database()"
    )
    return sorted(name if schema == "main" else f"{schema}.{name}" for schema, name in rows)


def find_table(db: DuckConnection, name: str) -> Table | None:
    """The table or view of that name; the case is ignored, as in DuckDB."""
    schema, table = split_name(name)
    columns = db.rows(
        "select schema_name, table_name, column_name, data_type from duckdb_columns() "
        "where database_name = current_database() and lower(schema_name) = lower(?) "
        "and lower(table_name) = lower(?) order by column_index",
        [schema, table],
    )
    if not columns:
        return None
    schema, table = columns[0][0], columns[0][1]
    views = db.rows(
        "select 1 from duckdb_views() where database_name = current_database() "
        "and schema_name = ? and view_name = ?",
        [schema, table],
    )
    constraints = db.rows(
        "select constraint_type, constraint_column_names from duckdb_constraints() "
        "where database_name = current_database() and schema_name = ? and table_name = ? "
        "and constraint_type in ('PRIMARY KEY', 'UNIQUE')",
        [schema, table],
    )
    indexes = db.rows(
        "select expressions from duckdb_indexes() where database_name = current_database() "
        "and schema_name = ? and table_name = ? and is_unique",
        [schema, table],
    )
    generated = db.rows(
        "select lower(column_name) from information_schema.columns where table_schema = ? "
        "and table_name = ? and table_catalog = current_database() and is_generated = 'ALWAYS'",
        [schema, table],
    )
    key = next((tuple(names) for kind, names in constraints if kind == "PRIMARY KEY"), ())
    uniques = [frozenset(names) for _, names in constraints]
    uniques += [frozenset(_expressions(text)) for (text,) in indexes]
    return Table(
        schema, table, bool(views), {c[2]: c[3] for c in columns}, key, tuple(uniques),
        frozenset(name for (name,) in generated),
    )  # fmt: skip


def _expressions(text: object) -> list[str]:
    """The column names in a text such as `[a, '"b c"']`."""
    parts = str(text).strip("[]").split(",")
    return [part.strip().strip("'").strip('"') for part in parts]


def creation(target: Target) -> list[str]:
    """The statements that create the table of the target."""
    schema, _ = split_name(target.table)
    columns = [f"{quoted(field.name)} {declared(field.type)}" for field in target.schema]
    if target.mode in ("upsert", "mirror"):
        columns.append(f"primary key ({listed(target.key)})")
    first = [] if schema == "main" else [f"create schema if not exists {quoted(schema)}"]
    return [*first, f"create table {spelled(target.written)} ({', '.join(columns)})"]


_NAMED = re.compile(
    r"""CREATE TABLE (?:(?:"(?:[^"]|"")*"|[^\s("]+?)\.)?("(?:[^"]|"")*"|[^\s("]+)"""
)


def creation_like(db: DuckConnection, target: Target, table: Table) -> list[str]:
    """The statements that create the staging table of an overwrite from the SQL of the table, so
    that it has the same types and rules; none if the table has generated columns, because rows
    cannot be inserted into these."""
    ((sql,),) = db.rows(
        "select sql from duckdb_tables() where database_name = current_database() "
        "and schema_name = ? and table_name = ?",
        [table.schema, table.name],
    )
    if "GENERATED ALWAYS" in sql or _NAMED.match(sql) is None:
        return creation(target)
    return [_NAMED.sub(lambda _: f"create table {spelled(target.written)}", sql, count=1)]


_INDEX = re.compile(
    r"""CREATE UNIQUE INDEX (?:"(?:[^"]|"")*"|\S+?) ON """
    r"""(?:(?:"(?:[^"]|"")*"|[^\s("]+?)\.)?("(?:[^"]|"")*"|[^\s("]+)"""
)


def unique_indexes_like(db: DuckConnection, target: Target, table: Table) -> list[str]:
    """The statements that create the table's unique indexes on the staging table, so that it
    refuses the same rows."""
    rows = db.rows(
        "select sql from duckdb_indexes() where database_name = current_database() "
        "and schema_name = ? and table_name = ? and is_unique order by index_name",
        [table.schema, table.name],
    )
    _, table_name = split_name(target.written)
    statements: list[str] = []
    for number, (sql,) in enumerate(rows):
        if (match := _INDEX.match(sql)) is not None:
            name = quoted(f"{table_name}_unique_{number}")
            rest = sql[match.end() :]
            statements.append(f"create unique index {name} on {spelled(target.written)}{rest}")
    return statements


def refuse_other_clocks(target: Target, table: Table) -> None:
    """Raise DataError (E0511) for wall clocks that meet a column of instants, and the reverse: DuckDB
    would make one of the other by the zone of the session."""
    by_name = {name.casefold(): (name, type_) for name, type_ in table.columns.items()}
    for field in target.schema:
        name, declaration = by_name.get(field.name.casefold(), ("", ""))
        if name and has_other_clock(field.type, type_of_declaration(declaration)):
            raise other_clock(name, field.type, table.name, declaration)


def widening(target: Target, table: Table, path: Path) -> list[str]:
    """The statements that add missing columns to the table. Raises an error if that is not
    possible."""
    columns = {name.casefold() for name in table.columns}
    for field in target.schema:
        if field.name.casefold() in table.generated:
            raise generated_column(field.name, f"table '{table.name}'")
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
    name = spelled(f"{table.schema}.{table.name}")
    return [
        f"alter table {name} add column {quoted(field.name)} {declared(field.type)}"
        for field in missing
    ]


def unique_index(target: Target, table: Table) -> str | None:
    """The statement that makes the key unique, or None if it is unique already."""
    key = {name.casefold() for name in target.key}
    for unique in table.uniques:
        if {name.casefold() for name in unique} == key:
            return None
    name = quoted("_dataflare_key_" + "_".join([table.name, *target.key]))
    return f"create unique index {name} on {spelled(target.written)} ({listed(target.key)})"


def require(db: DuckConnection, target: Target, path: Path) -> Table | None:
    """The table to write, or None if it must be created. Raises E0604 if it may not be created."""
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


def unique_expressions(db: DuckConnection, table: Table) -> list[list[str]]:
    """The columns or expressions of each unique index."""
    rows = db.rows(
        "select expressions from duckdb_indexes() where database_name = current_database() "
        "and schema_name = ? and table_name = ? and is_unique",
        [table.schema, table.name],
    )
    return [_expressions(text) for (text,) in rows]
