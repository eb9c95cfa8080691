"""The relation that a source reads: a table, a view or a query, with the types of its columns."""

from __future__ import annotations

import re
from collections.abc import Collection

import pymysql
from msgspec.structs import replace

from dataflare.connectors.mysql import tables
from dataflare.connectors.mysql.config import MysqlSourceConfig
from dataflare.connectors.mysql.connection import VALUE, Db, Server, bound
from dataflare.connectors.mysql.errors import number_of, text_of, translated
from dataflare.connectors.mysql.types import Meaning, meaning_of
from dataflare.errors import ConfigError, DataError, DataFlareError
from dataflare.model.types import JSON, STRING, Schema
from dataflare.sdk.sql import relation as relations
from dataflare.sdk.sql.query import bind_query
from dataflare.sdk.sql.relation import refuse_twice

_SYNTAX = (1064, 1052, 1054, 1055, 1056, 1060, 1064, 1111, 1140, 1149, 1222, 1241, 1248, 1305, 1327)


def backticked(name: str) -> str:
    """A name as an identifier for the server's usual sql_mode."""
    return "`" + name.replace("`", "``") + "`"


class Column(relations.Column, frozen=True):
    """sql: the SQL to select, with {} for the column. as_text: it is read as the contract's type. keyed: see
    Meaning."""

    sql: str = "{}"
    as_text: bool = False
    keyed: bool = False

    def selected(self) -> str:
        return self.sql.format(backticked(self.name))


class Relation(relations.Relation[Column], frozen=True):
    of_server = True


def find_relation(
    db: Db, server: Server, config: MysqlSourceConfig, contract: Schema | None
) -> Relation:
    """The relation in the config. Raises an error if it cannot be read, and pymysql's errors."""
    if config.query is not None:
        relation = _query(db, server, config.query)
    else:
        assert config.table is not None
        relation = _table(db, server, config.table, config.columns)
    return _typed(relation, contract)


def _table(db: Db, server: Server, name: str, wanted: Collection[str] | None) -> Relation:
    found = tables.find_place(db, server.database, name)
    if found is None:
        raise tables.missing(db, server, name)
    place = f"{backticked(found.schema)}.{backticked(found.name)}"
    label = f"table '{found.label}'"
    fields = db.described(f"select * from {place} limit 0")
    json = tables.json_columns(db, found)
    columns = []
    for field in fields:
        meaning = meaning_of(field)
        if field.name in json and meaning.type == STRING:
            meaning = Meaning(JSON)
        if meaning.type is None:
            if wanted is None or field.name in wanted:
                raise _unheld(field.name, label)
            continue
        columns.append(Column(field.name, meaning.type, meaning.sql, keyed=meaning.keyed))
    by_name = {column.name: column for column in columns}
    all_keys = tables.keys(db, found)
    keys = [key for key in all_keys if all(n in by_name and by_name[n].keyed for n in key)]
    return Relation(
        label, place, tuple(columns), key=keys[0] if keys else (), rows=found.rows,
        is_table=not found.view, primary=all_keys[0] if all_keys else (),
    )  # fmt: skip


def _unheld(name: str, label: str) -> DataError:
    return DataError(
        f"column '{name}' of {label} has a spatial type or is a vector, which DataFlare cannot hold",
        code="E0509",
        help=f"read it by a query with ST_AsText({name}), or name the other columns in 'columns'",
    )


def _query(db: Db, server: Server, query: str) -> Relation:
    spot = getattr(query, "spot", None)
    marked = bind_query(query, lambda _: VALUE, operators=False)
    sql = bound(marked.sql, marked.params)
    try:
        fields = db.described(f"select * from ({sql}\n) as q limit 0")
    except pymysql.MySQLError as error:
        raise _refused(error, server).at(spot=spot) from error
    refuse_twice([field.name for field in fields], spot)
    columns = []
    for field in fields:
        meaning = meaning_of(field)
        if meaning.type is None:
            raise _unheld(field.name, "the query")
        columns.append(Column(field.name, meaning.type, meaning.sql, keyed=meaning.keyed))
    return Relation("the query", f"({sql}\n) as q", tuple(columns))


def _refused(error: pymysql.MySQLError, server: Server) -> DataFlareError:
    if number_of(error) in _SYNTAX:
        text = re.sub(r"x'([0-9a-f]*)'", "a value", text_of(error))
        return ConfigError(
            f"the query is refused: {text}",
            code="E0412",
            help="write text in single quotes, and names in backticks",
        )
    return translated(error, server.label, "the query")


def _typed(relation: Relation, contract: Schema | None) -> Relation:
    """The relation with the contract's types: such columns are read as the contract's type."""
    relation = relation.typed(
        contract, lambda column, type_: replace(column, type=type_, as_text=True, keyed=False)
    )
    keyed = {column.name for column in relation.columns if column.keyed}
    key = relation.key if keyed.issuperset(relation.key) else ()
    return replace(relation, key=key)
