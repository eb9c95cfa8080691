"""The table that a destination writes: find, create, widen and check it."""

from __future__ import annotations

import psycopg

from dataflare.connectors.postgres import catalog
from dataflare.connectors.postgres.catalog import Connection, Table
from dataflare.connectors.postgres.connection import Server
from dataflare.connectors.postgres.facts import rights_for
from dataflare.connectors.postgres.kept import column_rule, column_type, primary_key
from dataflare.connectors.postgres.relation import missing_table
from dataflare.connectors.postgres.types import declared, fits, meaning_of, room_of
from dataflare.errors import ConfigError, DataError, SystemError_, did_you_mean
from dataflare.sdk.sql.clocks import has_other_clock, other_clock
from dataflare.sdk.sql.growth import Room, Wider, characters
from dataflare.sdk.sql.names import generated_column, listed, quoted
from dataflare.sdk.sql.store import KEYS_PREFIX, STAGING_PREFIX, Target
from dataflare.sdk.sql.tables import refuse_bytes_in_json, view_error

BEFORE_COLUMN = "_dataflare_rows_before"
"""Of a staging table: how many rows the run had written before the row's epoch, so that the rows of
later epochs can be removed."""
_NAME_MAX = 63


def require(db: Connection, server: Server, target: Target) -> Table | None:
    """The table, or None if it must be created. Raises E0602, E0604 and E0511 if it cannot be
    written."""
    _refuse_long_names(target)
    refuse_bytes_in_json(target, "PostgreSQL", lambda type_: declared(type_) == "jsonb")
    table = catalog.find_table(db, target.table)
    if table is None:
        if not target.create_table:
            raise missing_table(db, server, target.table)
        folder, _ = catalog.new_place(db, target.table)
        if folder is None and catalog.new_schema(db, target.table) is None:
            schema_name = target.table.partition(".")[0]
            raise SystemError_(
                f"no schema '{schema_name}' in {server.label}"
                if "." in target.table
                else f"{server.label} has no schema to make table '{target.table}' in",
                code="E0604",
                help="create it, get the right to create schemas, or name another one: table: schema.name",
            )
        return None
    if not table.is_table:
        raise view_error(table.label, server.label)
    lacking = [right for right in rights_for(target.mode) if right not in table.rights]
    if lacking:
        raise SystemError_(
            f"the user may not write table '{table.label}' in {server.label}: it lacks the right to "
            f"{', '.join(lacking)}",
            code="E0602",
            help=f"grant {', '.join(lacking)} on {table.sql}",
        )
    return table


def _refuse_long_names(target: Target) -> None:
    """PostgreSQL truncates longer names without an error, and then two names may become equal."""
    name = catalog.bare_name(target.table)
    long = next((n for n in [name, *target.schema.names] if len(n.encode()) > _NAME_MAX), None)
    if long is None:
        return
    kind = "table" if long == name else "column"
    raise ConfigError(
        f"{kind} name '{long}' has {len(long.encode())} bytes, and PostgreSQL keeps {_NAME_MAX} of a name",
        code="E0411",
        step=target.step or None,
        help="choose a shorter name"
        if kind == "table"
        else f"rename it with map: rename: {{{long}: ...}}",
    )


def refuse_misfits(target: Target, table: Table) -> None:
    """Raise DataError (E0511) if the existing column cannot hold the values of a column."""
    for field in target.schema:
        column = table.columns.get(field.name)
        if column is None:
            continue
        if column.generated:
            raise generated_column(field.name, f"table '{table.label}'")
        if not fits(field.type, column.type):
            raise DataError(
                f"column '{field.name}' of table '{table.label}' is {column.label}, and {field.type} "
                "values arrive",
                code="E0511",
                help=f"convert them with map: cast: {{{field.name}: ...}}",
            )
        if has_other_clock(field.type, meaning_of(column.type, column.modifier).type):
            raise other_clock(field.name, field.type, table.label, column.label)


def creation(target: Target, folder: str, name: str) -> str:
    """The statement that creates a table for the rows."""
    columns = [
        f"{quoted(field.name)} {column_type(target, field)}{column_rule(target, field.name)}"
        for field in target.schema
    ]
    if (key := primary_key(target)) is not None:
        columns.append(key)
    return f"create table {quoted(folder)}.{quoted(name)} ({', '.join(columns)})"


def widening(target: Target, table: Table, server: Server) -> list[str]:
    """The statements that add missing columns to the table. Raises E0604 if columns may not be
    added."""
    missing = [field for field in target.schema if field.name not in table.columns]
    folded = {name.casefold(): name for name in table.columns if name not in target.schema}
    for field in missing:
        if (other := folded.get(field.name.casefold())) is not None:
            raise ConfigError(
                f"the rows have a column '{field.name}', and table '{table.label}' has '{other}': for "
                "PostgreSQL these are two",
                code="E0411",
                step=target.step or None,
                help=f"rename it with map: rename: {{{field.name}: {other}}}",
            )
    if missing and not target.create_table:
        names = ", ".join(f"'{field.name}'" for field in missing)
        raise SystemError_(
            f"table '{table.label}' in {server.label} has no column {names}",
            code="E0604",
            notes=[f"it has: {', '.join(table.columns)}"],
            help=did_you_mean(missing[0].name, table.columns)
            or "set create_table: true to let it grow",
        )
    return [
        f"alter table {table.sql} add column if not exists {quoted(field.name)} {column_type(target, field)}"
        for field in missing
    ]


def rooms(table: Table) -> dict[str, Room]:
    """What the columns hold that can become wider."""
    found = {c.name: room_of(c.type, c.modifier) for c in table.columns.values() if not c.generated}
    return {name: room for name, room in found.items() if room is not None}


def growth(table: Table, name: str, wider: Wider) -> str:
    """The statement that makes a column of `rooms` wider."""
    kind = f"varchar({characters(wider)})" if isinstance(wider, int) else declared(wider)
    return f"alter table {table.sql} alter column {quoted(name)} type {kind}"


def unique_index(target: Target, table: Table) -> str | None:
    """The statement that makes the key unique, or None if it is unique already."""
    if frozenset(target.key) in table.uniques:
        return None
    return f"create unique index if not exists {quoted(key_index_name(table.name))} on {table.sql} ({listed(target.key)})"


def key_index_name(table: str) -> str:
    return _short(f"_dataflare_key_{table}")


def staging_creation(target: Target, table: Table | None, place: str) -> str:
    """The statement that creates the staging table of an overwrite. Its columns have the types of
    the existing table, but no constraints."""
    columns = []
    for field in target.schema:
        existing = table.columns.get(field.name) if table is not None else None
        columns.append(
            f"{quoted(field.name)} {existing.label if existing else column_type(target, field)}"
        )
    columns.append(f"{quoted(BEFORE_COLUMN)} bigint not null")
    return f"create table {place} ({', '.join(columns)})"


def taking_over(target: Target, staging: Table, table: Table | None, name: str) -> list[str]:
    """The statements that add the columns of the staging table to a table, or create the table with
    this name."""
    columns = [c for c in staging.columns.values() if c.name != BEFORE_COLUMN]
    if table is None:
        parts = [f"{quoted(c.name)} {c.label}{column_rule(target, c.name)}" for c in columns]
        if (key := primary_key(target)) is not None:
            parts.append(key)
        return [f"create table {quoted(staging.folder)}.{quoted(name)} ({', '.join(parts)})"]
    return [
        f"alter table {table.sql} add column {quoted(c.name)} {c.label}"
        for c in columns
        if c.name not in table.columns
    ]


def staging_name(target: Target, table: str) -> str:
    """The name of the staging table of an overwrite, one for each run."""
    return _short(f"{STAGING_PREFIX}{target.lineage.replace('-', '')[:8]}_{target.step}_{table}")


def keys_table_name(target: Target, table: str) -> str:
    """The name of the table of keys that have arrived in this run."""
    return _short(f"{KEYS_PREFIX}{target.lineage.replace('-', '')[:8]}_{target.step}_{table}")


def _short(name: str) -> str:
    """PostgreSQL truncates longer names, and then two names could become equal."""
    raw = name.encode()
    if len(raw) <= _NAME_MAX:
        return name
    import xxhash

    cut = raw[: _NAME_MAX - 9].decode(errors="ignore")
    return f"{cut}_{xxhash.xxh3_64_hexdigest(raw)[:8]}"


def empty(db: Connection, table: Table) -> None:
    """TRUNCATE, or DELETE if a foreign key or a missing right forbids that. Raises psycopg's errors."""
    if "truncate" in table.rights:
        db.execute("savepoint _dataflare_empty")
        try:
            db.execute(f"truncate {table.sql}")
        except psycopg.errors.FeatureNotSupported:
            db.execute("rollback to _dataflare_empty")
        else:
            db.execute("release _dataflare_empty")
            return
    db.execute(f"delete from {table.sql}")
