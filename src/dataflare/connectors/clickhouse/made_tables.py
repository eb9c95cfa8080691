"""The table that a destination writes: created, widened, and checked against the rows."""

from __future__ import annotations

from collections.abc import Mapping

from dataflare.connectors.clickhouse import doubt, tables
from dataflare.connectors.clickhouse.config import ClickhouseDestinationConfig
from dataflare.connectors.clickhouse.connection import Client, Server
from dataflare.connectors.clickhouse.encode import fits
from dataflare.connectors.clickhouse.tables import Table
from dataflare.connectors.clickhouse.types import Kind, declared, escaped, parse
from dataflare.errors import ConfigError, DataError, SystemError_, did_you_mean
from dataflare.model.types import DataType, Schema
from dataflare.sdk.sql.clocks import other_clock
from dataflare.sdk.sql.names import generated_column
from dataflare.sdk.sql.store import Target
from dataflare.sdk.sql.tables import view_error

WINDOW = 10_000
"""Of how many INSERTs a new table remembers the tokens."""
VERSION, DELETED = "_version", "_deleted"
"""The columns by which a mirror tells the newest row of a key, and whether it was deleted."""
KEYED = ("upsert", "mirror")
_WINDOW_MIN = 100
"""A smaller number of INSERTs by others is soon made while a run is started again."""


def look(
    client: Client, server: Server, target: Target, config: ClickhouseDestinationConfig
) -> Table | None:
    """The table in the config, checked; None if it does not exist and will be created. Changes nothing."""
    table = tables.find_table(client, server.database, target.table)
    if table is None:
        if not config.create_table:
            raise tables.missing(client, server, target.table)
        refuse_undeclarable(target, config)
        return None
    check(target, table, server)
    return table


def check(target: Target, table: Table, server: Server) -> None:
    """Refuse a table that cannot take the rows, or not each of them once."""
    if table.view:
        raise view_error(target.table, server.label)
    _check_engine(target, table)
    columns = kinds(table)
    lacking = [name for name in target.schema.names if name not in columns]
    if lacking and not target.create_table:
        raise SystemError_(
            f"table '{target.table}' in {server.label} has no column "
            + ", ".join(f"'{name}'" for name in lacking),
            code="E0606",
            notes=[f"it has: {', '.join(columns)}"],
            help=did_you_mean(lacking[0], list(columns)) or "set create_table: true to let it grow",
        )
    refuse_misfits(target.schema, table)


def _check_engine(target: Target, table: Table) -> None:
    where = f"table '{target.table}' has the engine {table.engine}"
    if table.family is None:
        raise ConfigError(
            f"{where}, which does not remember what was inserted: after a failure, rows would be there twice",
            code="E0411",
            step=target.step or None,
            help="write to a table of the MergeTree family",
        )
    if target.mode in KEYED:
        _check_replacing(target, table, where)
    elif target.mode == "append" and not table.replicated and _remembered(table) < _WINDOW_MIN:
        raise ConfigError(
            f"table '{target.table}' remembers {_remembered(table)} blocks that were inserted, and {_WINDOW_MIN} are "
            "needed: after a failure, rows would be there twice",
            code="E0411",
            step=target.step or None,
            help=f"run: ALTER TABLE {table.label} MODIFY SETTING {doubt.WINDOW} = {WINDOW}",
        )


def _remembered(table: Table) -> int:
    return int(table.setting(doubt.WINDOW) or 0)


def _check_replacing(target: Target, table: Table, where: str) -> None:
    if table.family != "Replacing":
        raise ConfigError(
            f"{where}, and mode '{target.mode}' needs a ReplacingMergeTree",
            code="E0411",
            step=target.step or None,
            help=f"create it as ENGINE = {_replacing(target)} ORDER BY the key, or let it be created",
        )
    sorted_by = [part.strip("` ") for part in table.sorting_key.split(",")]
    if set(sorted_by) != set(target.key):
        raise ConfigError(
            f"table '{target.table}' is sorted by {table.sorting_key or 'nothing'}, and 'key' is "
            f"{', '.join(target.key)}: it would replace other rows",
            code="E0411",
            step=target.step or None,
            help=f"set key: [{', '.join(sorted_by)}], or sort the table by the key",
        )
    if target.mode == "mirror":
        _check_mirrored(target, table)
    elif table.version_column != target.sequence:
        has = table.version_column
        raise ConfigError(
            f"table '{target.table}' keeps the row with the greatest {has}, and 'sequence' is "
            f"{target.sequence or 'not set'}"
            if has
            else f"table '{target.table}' keeps the last row of a key, and 'sequence' is {target.sequence}",
            code="E0411",
            step=target.step or None,
            help=f"set sequence: {has}"
            if has
            else "leave 'sequence' out, or create the table with it",
        )


def _check_mirrored(target: Target, table: Table) -> None:
    taken = [name for name in (VERSION, DELETED) if name in target.schema]
    if taken:
        raise ConfigError(
            f"mode 'mirror' writes the column '{taken[0]}', and the rows have one already",
            code="E0411",
            step=target.step or None,
            help=f"rename it with map: rename: {{{taken[0]}: ...}}",
        )
    if (table.version_column, table.deleted_column) != (VERSION, DELETED):
        raise ConfigError(
            f"table '{target.table}' has the engine {table.engine_full.split(' ORDER ')[0]}, and mode 'mirror' needs "
            f"{_replacing(target)}: by these columns a row is deleted",
            code="E0411",
            step=target.step or None,
            help=f"create it with that engine and the columns {VERSION} UInt64, {DELETED} UInt8, or let it be created",
        )


def _replacing(target: Target) -> str:
    """The engine of a table whose rows have a key."""
    if target.mode == "mirror":
        return f"ReplacingMergeTree({VERSION}, {DELETED})"
    return f"ReplacingMergeTree({escaped(target.sequence) if target.sequence else ''})"


def kinds(table: Table) -> dict[str, Kind]:
    return {name: parse(text) for name, text in table.columns.items()}


def refuse_misfits(schema: Schema, table: Table) -> None:
    """Raises DataError (E0511) for a column whose type does not take the rows' type."""
    known = kinds(table)
    for field in schema:
        if field.name not in known:
            continue
        if field.name in table.computed:
            raise generated_column(field.name, f"table '{table.label}'")
        kind = known[field.name]
        refuse_clock(field.name, field.type, table.label, table.columns[field.name], kind)
        if not fits(field.type, kind):
            raise DataError(
                f"column '{field.name}' of table '{table.label}' is {table.columns[field.name]}, and "
                f"{field.type} values arrive",
                code="E0511",
                help=f"cast them with map: cast: {{{field.name}: ...}}, or leave the column out",
            )


def refuse_clock(name: str, type_: DataType, table: str, text: str, kind: Kind | None) -> None:
    """Refuse wall clocks: a time of ClickHouse is an instant."""
    is_time = kind is None or kind.bare.name in ("DateTime", "DateTime64")
    if type_.name == "timestamp" and type_.timezone is None and is_time:
        raise other_clock(name, type_, table, text)


def refuse_undeclarable(target: Target, config: ClickhouseDestinationConfig) -> None:
    """Refuse columns for which a new table has no type."""
    for field in target.schema:
        if field.type.name == "timestamp":
            refuse_clock(field.name, field.type, target.table, "an instant in ClickHouse", None)
        if declared(field.type) is None:
            raise DataError(
                f"column '{field.name}' is {field.type}, and ClickHouse has no type for it",
                code="E0511",
                help=f"make a number or text of it with map, or leave it out with map: drop: [{field.name}]",
            )
    for name in config.order_by or ():
        if name not in target.schema:
            raise ConfigError(
                f"'order_by' names column '{name}', which does not reach it",
                code="E0411",
                step=target.step or None,
                help=did_you_mean(name, target.schema.names),
            )


def ensure(
    client: Client,
    server: Server,
    target: Target,
    config: ClickhouseDestinationConfig,
    schema: Schema,
) -> Table:
    """The table that rows of a schema are written to: created or widened if it must be."""
    table = tables.find_table(client, server.database, target.written)
    if table is None:
        refuse_undeclarable(target, config)
        _create(client, server, target, config, schema)
        table = tables.find_table(client, server.database, target.written)
        assert table is not None
    missing = [field for field in schema if field.name not in table.columns]
    if missing:
        if not target.create_table:
            check(target, table, server)
        for field in missing:
            text = declared(field.type)
            if text is None or field.type.name == "timestamp":
                refuse_undeclarable(target, config)
            client.run(
                f"alter table {table.place} add column if not exists {escaped(field.name)} {text}"
            )
        table = tables.find_table(client, server.database, target.written)
        assert table is not None
    refuse_misfits(schema, table)
    return table


def _create(
    client: Client,
    server: Server,
    target: Target,
    config: ClickhouseDestinationConfig,
    schema: Schema,
) -> None:
    place = tables.place_of(target.written, server.database)
    if target.mode == "overwrite":
        model = tables.find_table(client, server.database, target.table)
        if model is not None:
            client.run(f"create table if not exists {place} as {model.place}")
            if not model.replicated:
                client.run(f"alter table {place} modify setting {doubt.WINDOW} = {WINDOW}")
            return
    client.run(creation(target, config, schema, place))


def creation(
    target: Target, config: ClickhouseDestinationConfig, schema: Schema, place: str
) -> str:
    """The statement that creates a table for rows of a schema."""
    sorted_by = target.key or tuple(config.order_by or ())
    plain = {*sorted_by, *([target.sequence] if target.sequence else [])}
    columns = [
        f"{escaped(f.name)} {declared(f.type, nullable=f.name not in plain)}" for f in schema
    ]
    engine = "MergeTree"
    if target.mode in KEYED:
        engine = _replacing(target)
    if target.mode == "mirror":
        columns += [f"{VERSION} UInt64", f"{DELETED} UInt8"]
    partition = f"partition by {config.partition_by} " if config.partition_by else ""
    order = f"({', '.join(map(escaped, sorted_by))})" if sorted_by else "tuple()"
    return (
        f"create table if not exists {place} ({', '.join(columns)}) engine = {engine} {partition}"
        f"order by {order} settings {doubt.WINDOW} = {WINDOW}"
    )


Kinds = Mapping[str, Kind]
