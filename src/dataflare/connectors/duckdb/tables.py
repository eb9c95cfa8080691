"""Tables of a DuckDB file: find them, and the SQL that they were created with."""

from __future__ import annotations

import re
from collections.abc import Sequence

from dataflare.connectors.duckdb.connection import DuckConnection
from dataflare.sdk.catalog import Entry
from dataflare.sdk.sql.names import quoted
from dataflare.sdk.sql.store import Target
from dataflare.sdk.sql.tables import Table


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


def tables_and_views(db: DuckConnection) -> list[Entry]:
    """What the file has, without DuckDB's and DataFlare's own tables."""
    views = db.rows("select schema_name, view_name from duckdb_views() where not internal")
    named = {name if schema == "main" else f"{schema}.{name}" for schema, name in views}
    sizes = db.rows("select schema_name, table_name, estimated_size from duckdb_tables()")
    rows = {name if schema == "main" else f"{schema}.{name}": int(n) for schema, name, n in sizes}
    entries = []
    for name in table_names(db):
        schema, table = split_name(name)
        kind = "view" if name in named else "table"
        entries.append(Entry(name, kind, {"table": name}, rows.get(name), table, schema))
    return entries


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
        table, f"{quoted(schema)}.{quoted(table)}", bool(views), {c[2]: c[3] for c in columns}, key,
        tuple(uniques), frozenset(name for (name,) in generated), schema,
    )  # fmt: skip


def _expressions(text: object) -> list[str]:
    """The column names in a text such as `[a, '"b c"']`."""
    parts = str(text).strip("[]").split(",")
    return [part.strip().strip("'").strip('"') for part in parts]


_NAMED = re.compile(
    r"""CREATE TABLE (?:(?:"(?:[^"]|"")*"|[^\s("]+?)\.)?("(?:[^"]|"")*"|[^\s("]+)"""
)


def creation_like(db: DuckConnection, target: Target, table: Table) -> Sequence[str]:
    """The statements that create the staging table of an overwrite from the SQL of the table; none if
    the table has generated columns, because rows cannot be inserted into these."""
    ((sql,),) = db.rows(
        "select sql from duckdb_tables() where database_name = current_database() "
        "and schema_name = ? and table_name = ?",
        [table.schema, table.name],
    )
    if "GENERATED ALWAYS" in sql or _NAMED.match(sql) is None:
        return []
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


def unique_expressions(db: DuckConnection, table: Table) -> list[list[str]]:
    """The columns or expressions of each unique index."""
    rows = db.rows(
        "select expressions from duckdb_indexes() where database_name = current_database() "
        "and schema_name = ? and table_name = ? and is_unique",
        [table.schema, table.name],
    )
    return [_expressions(text) for (text,) in rows]
