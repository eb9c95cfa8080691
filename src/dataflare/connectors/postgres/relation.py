"""The relation that a source reads: a table, a view or a query, with the types of its columns."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime, time, timedelta
from typing import Any

import psycopg
from msgspec import field
from msgspec.structs import replace

from dataflare.connectors.postgres import catalog
from dataflare.connectors.postgres.catalog import Connection
from dataflare.connectors.postgres.config import PostgresSourceConfig
from dataflare.connectors.postgres.connection import Server
from dataflare.connectors.postgres.errors import error_facts, translated
from dataflare.connectors.postgres.types import PgType, meaning_of
from dataflare.errors import ConfigError, DataFlareError, SystemError_, did_you_mean
from dataflare.model.types import Schema
from dataflare.sdk.sql import relation as relations
from dataflare.sdk.sql.names import quoted
from dataflare.sdk.sql.query import BoundQuery, bind_query
from dataflare.sdk.sql.relation import refuse_twice


class Column(relations.Column, frozen=True):
    """pg: its type for casts. sql: the SQL to select, with {} for the column. as_text: it is fetched as
    text and read as the contract's type. exact: PostgreSQL compares its values as DataFlare does. guard:
    see Meaning. base: its type's name, below domains. is_fact: it is a fact of a change, and the table has no such column."""

    pg: str = ""
    sql: str = "{}"
    as_text: bool = False
    exact: bool = False
    guard: str | None = None
    base: str = ""
    is_fact: bool = False

    def selected(self) -> str:
        return self.sql.format(quoted(self.name))

    def guarded(self) -> str | None:
        return None if self.guard is None else self.guard.format(quoted(self.name))


class Relation(relations.Relation[Column], frozen=True):
    """values: settings that the source reads. table: None for a query."""

    of_server = True

    values: Mapping[str, str] = field(default_factory=dict)
    table: catalog.Table | None = None


def find_relation(
    db: Connection, server: Server, config: PostgresSourceConfig, contract: Schema | None
) -> Relation:
    """The relation in the config. Raises an error if it cannot be read, and psycopg's errors."""
    if config.query is not None:
        relation = _query(db, server, config.query)
    else:
        assert config.table is not None
        relation = _table(db, server, config.table)
    return _typed(relation, contract)


def missing_table(db: Connection, server: Server, name: str) -> SystemError_:
    hidden = catalog.hidden_in(db, name)
    if hidden is not None:
        return hidden_schema(server, name, hidden)
    names = catalog.table_names(db)
    return SystemError_(
        f"no table '{name}' in {server.label}",
        code="E0604",
        notes=[f"it has: {', '.join(names[:20])}"] if names else ["it has no tables you can see"],
        help=did_you_mean(name, names),
    )


def hidden_schema(server: Server, name: str, folder: str) -> SystemError_:
    return SystemError_(
        f"the user may not look into schema '{folder}' of {server.label}, where table '{name}' is",
        code="E0602",
        help=f"grant usage on schema {quoted(folder)}",
    )


def _table(db: Connection, server: Server, name: str) -> Relation:
    table = catalog.find_table(db, name)
    if table is None:
        raise missing_table(db, server, name)
    label = f"table '{table.label}'"
    if (
        hidden := catalog.hidden_in(db, f"{quoted(table.folder)}.{quoted(table.name)}")
    ) is not None:
        raise hidden_schema(server, name, hidden)
    if "select" not in table.rights:
        raise SystemError_(
            f"the user may not read {label} in {server.label}",
            code="E0602",
            help=f"grant select on {table.sql}",
        )
    columns = tuple(
        column_of(c.name, c.type, c.modifier, exact=c.exact) for c in table.columns.values()
    )
    key = table.keys[0] if table.keys else ()
    return Relation(
        label,
        table.sql,
        columns,
        key=key,
        table=table,
        is_table=True,
        rows=table.rows,
        primary=table.primary,
    )


def _query(db: Connection, server: Server, query: str) -> Relation:
    numbered = bind_query(query, lambda place: f"${place + 1}", operators=True)
    spot = getattr(query, "spot", None)
    try:
        described = catalog.describe(db, f"select * from ({numbered.sql}\n) as q")
    except psycopg.Error as error:
        raise _refused(error, server).at(spot=spot) from error
    names = [name for name, _, _ in described.columns]
    refuse_twice(names, spot)
    sql, values = _bound(query, numbered, [type_.label for type_ in described.params])
    columns = tuple(column_of(n, t, m) for n, t, m in described.columns)
    return Relation("the query", f"({sql}\n) as q", columns, values=values)


def _bound(query: str, numbered: BoundQuery, types: list[str]) -> tuple[str, dict[str, str]]:
    """The query in a form for COPY: each value is a setting, cast to the type of the parameter."""
    values: dict[str, str] = {}

    def mark(place: int) -> str:
        value = numbered.params[place]
        if value is None:
            return f"cast(null as {types[place]})"
        name = f"dataflare.query{place}"
        values[name] = sql_text(value)
        return f"cast(current_setting('{name}') as {types[place]})"

    return bind_query(query, mark, operators=True).sql, values


def _refused(error: psycopg.Error, server: Server) -> DataFlareError:
    facts = error_facts(error)
    if facts.state == "42P01":
        return SystemError_(
            f"the query in {server.label}: {facts.text}",
            code="E0604",
            help="fix the query: the server refuses it",
        )
    if facts.state.startswith(("42", "22", "0A")) and facts.state != "42501":
        hint = getattr(error.diag, "message_hint", None)
        return ConfigError(f"the query is refused: {facts.text}", code="E0412", help=hint)
    return translated(error, server.label, "the query")


def column_of(name: str, type_: PgType, modifier: int, *, exact: bool = True) -> Column:
    """A column of a table or query, as it is read."""
    meaning = meaning_of(type_, modifier)
    return Column(
        name,
        meaning.type,
        type_.label,
        meaning.sql,
        exact=meaning.exact and exact,
        guard=meaning.guard,
        base=type_.resolved(modifier)[0].name,
    )


def _typed(relation: Relation, contract: Schema | None) -> Relation:
    """The relation with the contract's types: such columns are fetched as text and read as the
    contract's type."""
    return relation.typed(
        contract,
        lambda column, type_: replace(
            column, type=type_, sql="{}::text", as_text=True, exact=False, guard=None
        ),
    )


def sql_text(value: Any) -> str:
    """A Python value as text for PostgreSQL."""
    match value:
        case bool():
            return "true" if value else "false"
        case datetime() | date() | time():
            return value.isoformat()
        case timedelta():
            return f"{value.total_seconds():.6f} seconds"
        case bytes():
            return "\\x" + value.hex()
        case list() | tuple():
            items = (
                '"' + sql_text(v).replace("\\", "\\\\").replace('"', '\\"') + '"' for v in value
            )
            return "{" + ",".join(items) + "}"
    return str(value)
