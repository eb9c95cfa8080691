"""What a source reads: a table, a view or a query, with the types of its columns."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime, time, timedelta
from typing import Any

import psycopg
from msgspec import Struct, field
from msgspec.structs import replace

from dataflare.connectors.postgres import catalog
from dataflare.connectors.postgres.catalog import Connection
from dataflare.connectors.postgres.config import PostgresSourceConfig
from dataflare.connectors.postgres.connection import Server
from dataflare.connectors.postgres.errors import said, translated
from dataflare.connectors.postgres.types import PgType, meant
from dataflare.connectors.sql.names import quoted
from dataflare.connectors.sql.query import BoundQuery, bind_query
from dataflare.errors import ConfigError, DataFlareError, SystemError_, did_you_mean
from dataflare.model.types import DataType, Schema


class Column(Struct, frozen=True):
    """pg: its type as casts name it. type: ours. sql: what to select, with {} for the column.
    as_text: it is fetched as text and read as the contract's type. exact: PostgreSQL compares its
    values as we do. guard: see Meaning. base: its type's name, below domains."""

    name: str
    pg: str
    type: DataType
    sql: str
    as_text: bool = False
    exact: bool = False
    guard: str | None = None
    base: str = ""

    def selected(self) -> str:
        return self.sql.format(quoted(self.name))

    def guarded(self) -> str | None:
        return None if self.guard is None else self.guard.format(quoted(self.name))


class Relation(Struct, frozen=True):
    """source: what stands after FROM. values: settings that it reads. key: columns that order and
    identify its rows; empty when there are none. table: None for a query. rows: an estimate."""

    label: str
    source: str
    columns: tuple[Column, ...]
    values: Mapping[str, str] = field(default_factory=dict)
    key: tuple[str, ...] = ()
    table: catalog.Table | None = None
    rows: int = 0

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)

    def column(self, name: str) -> Column:
        """The column; upper and lower case are one where that is clear. Raises E0604."""
        for column in self.columns:
            if column.name == name:
                return column
        folded = [c for c in self.columns if c.name.casefold() == name.casefold()]
        if len(folded) == 1:
            return folded[0]
        raise SystemError_(
            f"no column '{name}' in {self.label}",
            code="E0604",
            notes=[f"it has: {', '.join(self.names)}"],
            help=did_you_mean(name, self.names),
        )


def find_relation(
    db: Connection, server: Server, config: PostgresSourceConfig, contract: Schema | None
) -> Relation:
    """What the config names. Raises what is wrong with it, and foreign errors."""
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
    known = catalog.table_names(db)
    return SystemError_(
        f"no table '{name}' in {server.label}",
        code="E0604",
        notes=[f"it has: {', '.join(known[:20])}"] if known else ["it has no tables you can see"],
        help=did_you_mean(name, known),
    )


def hidden_schema(server: Server, name: str, folder: str) -> SystemError_:
    return SystemError_(
        f"the user may not look into schema '{folder}' of {server.label}, where table '{name}' is",
        code="E0602",
        help=f"grant usage on schema {quoted(folder)}",
    )


def _table(db: Connection, server: Server, name: str) -> Relation:
    found = catalog.find_table(db, name)
    if found is None:
        raise missing_table(db, server, name)
    shown = f"table '{found.label}'"
    if (
        hidden := catalog.hidden_in(db, f"{quoted(found.folder)}.{quoted(found.name)}")
    ) is not None:
        raise hidden_schema(server, name, hidden)
    if "select" not in found.rights:
        raise SystemError_(
            f"the user may not read {shown} in {server.label}",
            code="E0602",
            help=f"grant select on {found.sql}",
        )
    columns = tuple(
        _column(c.name, c.type, c.modifier, exact=c.exact) for c in found.columns.values()
    )
    key = found.keys[0] if found.keys else ()
    return Relation(shown, found.sql, columns, key=key, table=found, rows=found.rows)


def _query(db: Connection, server: Server, query: str) -> Relation:
    numbered = bind_query(query, lambda place: f"${place + 1}", operators=True)
    spot = getattr(query, "spot", None)
    try:
        described = catalog.describe(db, f"select * from ({numbered.sql}\n) as q")
    except psycopg.Error as error:
        raise _refused(error, server).at(spot=spot) from error
    names = [name for name, _, _ in described.columns]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(
            f"the query has two columns '{twice}'", code="E0412", spot=spot, help="name one with AS"
        )
    sql, values = _bound(query, numbered, [type_.label for type_ in described.params])
    columns = tuple(_column(n, t, m) for n, t, m in described.columns)
    return Relation("the query", f"({sql}\n) as q", columns, values)


def _bound(query: str, numbered: BoundQuery, types: list[str]) -> tuple[str, dict[str, str]]:
    """The query as COPY can run it: each value is a setting, cast to the type the server wants."""
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
    found = said(error)
    if found.state == "42P01":
        return SystemError_(
            f"the query in {server.label}: {found.text}",
            code="E0604",
            help="mend the query: the server refuses it as it stands",
        )
    if found.state.startswith(("42", "22", "0A")) and found.state != "42501":
        hint = getattr(error.diag, "message_hint", None)
        return ConfigError(f"the query is refused: {found.text}", code="E0412", help=hint)
    return translated(error, server.label, "the query")


def _column(name: str, type_: PgType, modifier: int, *, exact: bool = True) -> Column:
    meaning = meant(type_, modifier)
    return Column(
        name,
        type_.label,
        meaning.type,
        meaning.sql,
        exact=meaning.exact and exact,
        guard=meaning.guard,
        base=type_.resolved(modifier)[0].name,
    )


def _typed(relation: Relation, contract: Schema | None) -> Relation:
    """With the contract's types: such columns are fetched as text and read as what is wanted."""
    wanted = {relation.column(f.name).name: f.type for f in contract or ()}
    columns = tuple(
        replace(c, type=wanted[c.name], sql="{}::text", as_text=True, exact=False, guard=None)
        if c.name in wanted and wanted[c.name] != c.type
        else c
        for c in relation.columns
    )
    return replace(relation, columns=columns)


def sql_text(value: Any) -> str:
    """A Python value as the text that PostgreSQL reads for it."""
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
