"""The relation that a source reads: a table, a view or a query, with the types of its columns and the key by
which its rows are ordered.

Always true: the key is the beginning of the table's sorting key whose values can be written and compared
exactly. It need not be unique.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from dataflare.connectors.clickhouse import tables
from dataflare.connectors.clickhouse.config import ClickhouseSourceConfig
from dataflare.connectors.clickhouse.connection import Client, Server, literal
from dataflare.connectors.clickhouse.errors import SYNTAX, Refused, translated
from dataflare.connectors.clickhouse.types import Kind, escaped, meaning_of, parse
from dataflare.errors import ConfigError, DataError
from dataflare.model.types import Schema
from dataflare.sdk.sql import relation as relations
from dataflare.sdk.sql.query import bind_query
from dataflare.sdk.sql.relation import refuse_twice


class Column(relations.Column, frozen=True):
    """kind: the column's type in ClickHouse. sent_as: the type in which the server is asked for it. as_text: it
    is read as the contract's type. keyed: see Meaning."""

    kind: Kind = Kind("")
    sent_as: str = ""
    as_text: bool = False
    keyed: bool = False

    def selected(self) -> str:
        name = escaped(self.name)
        return f"CAST({name}, {escaped(self.sent_as, chr(39))})"


class KeyPart(Struct, frozen=True):
    """A part of the sorting key. sql: the column or expression. kind: its type."""

    sql: str
    kind: Kind

    def text(self) -> str:
        """The SQL of its value as text, of which `value` makes the value again."""
        if self.kind.name in ("DateTime", "DateTime64"):
            return f"toString(CAST({self.sql}, {escaped(self._exact, chr(39))}))"
        return f"CAST({self.sql}, 'String')"

    @property
    def _exact(self) -> str:
        """With UTC, in which each text is one instant."""
        if self.kind.name == "DateTime":
            return "DateTime('UTC')"
        return f"DateTime64({self.kind.scale}, 'UTC')"

    def value(self, text: Any) -> str:
        """A value of a position as SQL."""
        if self.kind.name in ("DateTime", "DateTime64"):
            return f"CAST({literal(text)}, {escaped(self._exact, chr(39))})"
        raw = bytes.fromhex(text["hex"]) if isinstance(text, Mapping) else text
        if self.kind.name == "String":
            return literal(raw)
        return f"CAST({literal(raw)}, {escaped(self.declared, chr(39))})"

    @property
    def declared(self) -> str:
        inside = ", ".join(map(str, self.kind.numbers))
        return f"{self.kind.name}({inside})" if inside else self.kind.name


_KEYS = ("Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32", "UInt64", "Int128", "UInt128",
         "Int256", "UInt256", "String", "FixedString", "Date", "Date32", "DateTime", "DateTime64",
         "Decimal", "Bool", "UUID")  # fmt: skip


class Relation(relations.Relation[Column], frozen=True):
    """parts: the key. engine: of a table."""

    of_server = True

    parts: tuple[KeyPart, ...] = ()
    engine: str = ""


def find_relation(
    client: Client, server: Server, config: ClickhouseSourceConfig, contract: Schema | None
) -> Relation:
    """The relation in the config. Raises an error if it cannot be read, and those of the client."""
    if config.query is not None:
        relation = _query(client, server, config.query)
    else:
        assert config.table is not None
        relation = _table(client, server, config)
    return relation.typed(contract, _as)


def _table(client: Client, server: Server, config: ClickhouseSourceConfig) -> Relation:
    name = config.table or ""
    found = tables.find_table(client, server.database, name)
    if found is None:
        raise tables.missing(client, server, name)
    label = f"table '{found.label}'"
    columns = _columns(found.columns, label, config.columns)
    source = found.place + (" FINAL" if config.final else "")
    parts = _key(client, found)
    return Relation(
        label, source, columns, key=tuple(part.sql for part in parts), parts=parts, rows=found.rows,
        is_table=not found.view, engine=found.engine,
    )  # fmt: skip


def _columns(
    described: Mapping[str, str], label: str, wanted: Collection[str] | None
) -> tuple[Column, ...]:
    columns = []
    for name, text in described.items():
        kind = parse(text)
        meaning = meaning_of(kind)
        if meaning is None:
            if wanted is None or name in wanted:
                raise _unheld(name, text, label)
            continue
        keyed = meaning.keyed and not kind.takes_null
        columns.append(Column(name, meaning.type, kind=kind, sent_as=meaning.sent_as, keyed=keyed))
    return tuple(columns)


def _unheld(name: str, text: str, label: str) -> DataError:
    return DataError(
        f"column '{name}' of {label} is {text[:80]}, which DataFlare cannot hold",
        code="E0509",
        help=f"read it by a query with toString({name}), or finalizeAggregation({name}), or name the other "
        "columns in 'columns'",
    )


def _key(client: Client, table: tables.Table) -> tuple[KeyPart, ...]:
    """The beginning of the sorting key that can be continued from."""
    texts = split_commas(table.sorting_key)
    if not texts or table.view:
        return ()
    asked = ", ".join(f"{text} as k{at}" for at, text in enumerate(texts))
    try:
        described = tables.describe(client, f"(select {asked} from {table.place})")
    except Refused:
        return ()  # a part such as `at DESC` is not an expression
    parts: list[KeyPart] = []
    for text, declared in zip(texts, described.values(), strict=True):
        kind = parse(declared)
        if kind.takes_null or kind.bare.name not in _KEYS:
            break
        parts.append(KeyPart(text, kind.bare))
    return tuple(parts)


def split_commas(text: str) -> list[str]:
    """The parts of a list of expressions."""
    parts, depth, start, quote, at = [], 0, 0, "", 0
    while at < len(text):
        letter = text[at]
        if quote:
            at += letter == "\\"
            quote = "" if letter == quote else quote
        elif letter in "'`\"":
            quote = letter
        elif letter in "([":
            depth += 1
        elif letter in ")]":
            depth -= 1
        elif letter == "," and not depth:
            parts.append(text[start:at].strip())
            start = at + 1
        at += 1
    parts.append(text[start:].strip())
    return [part for part in parts if part]


_VALUE = "\0value\0"


def _query(client: Client, server: Server, query: str) -> Relation:
    spot = getattr(query, "spot", None)
    marked = bind_query(query, lambda _: _VALUE, operators=True)
    pieces = marked.sql.split(_VALUE)
    values = [*map(literal, marked.params), ""]
    sql = "".join(piece + value for piece, value in zip(pieces, values, strict=True))
    try:
        described = tables.described_rows(client, f"({sql}\n)")
    except Refused as error:
        if error.number in (*SYNTAX, 47, 179):
            raise ConfigError(
                f"the query is refused: {error.text}",
                code="E0412",
                spot=spot,
                help="write text in single quotes, and names in backticks",
            ) from error
        raise translated(error, server.label, "the query").at(spot=spot) from error
    refuse_twice([name for name, _ in described], spot)
    return Relation("the query", f"({sql}\n)", _columns(dict(described), "the query", None))


def _as(column: Column, type_: Any) -> Column:
    text = "Nullable(String)" if column.kind.takes_null else "String"
    if column.kind.bare.name in ("Array", "Map", "Tuple", "Nested"):
        text = "String"
    return replace(column, type=type_, sent_as=text, as_text=True, keyed=False)
