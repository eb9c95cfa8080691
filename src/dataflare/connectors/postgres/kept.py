"""What a table that is copied from PostgreSQL to PostgreSQL keeps beyond DataFlare's types.

| kept | not kept |
| --- | --- |
| uuid, inet, cidr, macaddr, macaddr8, varchar(n), char(n), json, jsonb, xml, bit, varbit, timetz, numeric without digits, ranges, and arrays of these | enums, citext and other extensions' types, money, domains (the type below a domain is kept), composite types |
| NOT NULL, the primary key | defaults, identity, checks, foreign keys, other indexes, comments, rights |

Always true: a column has its declaration only where its values arrive as they were read, in a table
that does not exist yet. The primary key is kept where the source is read in full.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from dataflare.connectors.postgres.catalog import PgColumn
from dataflare.connectors.postgres.relation import Column, Relation
from dataflare.connectors.postgres.types import UNBOUNDED, PgType, declared
from dataflare.model.types import Field
from dataflare.sdk.declarations import Declaration, Declarations
from dataflare.sdk.sql.names import listed
from dataflare.sdk.sql.store import Target

_KEPT = frozenset(
    ("uuid", "inet", "cidr", "macaddr", "macaddr8", "varchar", "bpchar", "json", "jsonb", "xml", "bit", "varbit",
     "timetz", "int4range", "int8range", "numrange", "tsrange", "tstzrange", "daterange")
)  # fmt: skip
_BUILT_IN_MAX = 16_384
"""Types below this oid are in every server."""


def declarations_of(relation: Relation, names: Iterable[str], *, full: bool) -> Declarations | None:
    """What the catalogue says of the columns of a table. full: every row is read, and read once."""
    table = relation.table
    if table is None:
        return None
    wanted = set(names)
    columns = {
        column.name: _declaration(table.columns[column.name], column)
        for column in relation.columns
        if column.name in wanted and not column.is_fact
    }
    return Declarations("postgres", columns, table.primary if full else ()).renamed(
        {name: name for name in columns}
    )


def _declaration(found: PgColumn, column: Column) -> Declaration:
    if column.as_text:  # `schema` says another type
        return Declaration(not_null=found.not_null)
    base, modifier = found.type.resolved(found.modifier)
    if _is_kept(base, modifier, column):
        if base is found.type:
            return Declaration(found.label, found.not_null)
        if modifier < 0:
            return Declaration(base.label, found.not_null)
    lost = found.label if column.type.is_text and base.name not in ("text", "json") else None
    return Declaration(None, found.not_null, lost)


def _is_kept(type_: PgType, modifier: int, column: Column) -> bool:
    if type_.oid >= _BUILT_IN_MAX:
        return False
    if type_.name == "numeric":
        return modifier < 0 and column.type == UNBOUNDED
    item = type_.item
    if item is not None and column.type.item is not None:
        return item.oid < _BUILT_IN_MAX and item.name in _KEPT
    return type_.name in _KEPT


def column_type(target: Target, field: Field) -> str:
    """The type that a new column is declared with."""
    declaration = _of(target, field.name)
    return (declaration.type if declaration else None) or declared(field.type)


def column_rule(target: Target, name: str) -> str:
    """What follows the type of a column in a new table."""
    declaration = _of(target, name)
    return " not null" if declaration is not None and declaration.not_null else ""


def primary_key(target: Target) -> str | None:
    """The clause of a new table's primary key: the key of the destination, or of the source."""
    key: Sequence[str] = ()
    if target.mode in ("upsert", "mirror"):
        key = target.key
    elif target.declarations is not None and not target.op:
        key = target.declarations.key
    return f"primary key ({listed(key)})" if key else None


def _of(target: Target, name: str) -> Declaration | None:
    return None if target.declarations is None else target.declarations.columns.get(name)


def effects(declarations: Declarations | None, mode: str, table: str) -> list[str]:
    """What `plan` says of a table that is made: what it keeps of the source's, and what it does not."""
    if declarations is None or declarations.system != "postgres":
        return []
    columns = declarations.columns
    types = [f"{name} {each.type}" for name, each in columns.items() if each.type]
    required = [name for name, each in columns.items() if each.not_null]
    key = ", ".join(declarations.key) if mode in ("append", "overwrite") else ""
    parts = [
        *types,
        *([f"NOT NULL of {', '.join(required)}"] if required else []),
        *([f"the primary key {key}"] if key else []),
    ]
    lost = [f"{name} {each.lost} becomes text" for name, each in columns.items() if each.lost]
    said = f"makes the table {table}, if it is missing, with the source's {', '.join(parts)}"
    return [*([said] if parts else []), *lost]
