"""The relation that a source reads: a table, a view or a query, with the types of its columns."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from dataflare.connectors.sqlite import types as sqlite_types
from dataflare.connectors.sqlite.config import SqliteSourceConfig
from dataflare.connectors.sqlite.connection import Connection
from dataflare.connectors.sqlite.errors import sqlite_errors
from dataflare.connectors.sqlite.tables import find_table, table_names
from dataflare.errors import ConfigError, DataFlareError
from dataflare.model import types
from dataflare.model.types import DataType, Schema
from dataflare.sdk.sql import relation as relations
from dataflare.sdk.sql.names import listed, missing_table, quoted
from dataflare.sdk.sql.query import bind_query
from dataflare.sdk.sql.relation import refuse_twice
from dataflare.sdk.sql.text_values import TimeNumbers

_SAMPLE_ROWS = 1_000


class Column(relations.Column, frozen=True):
    """declared: as the table says. exact: SQLite compares its values as DataFlare does. time_numbers: the
    unit of numbers, if the column is one of times."""

    declared: str = ""
    exact: bool = False
    time_numbers: TimeNumbers | None = None

    @property
    def text_affinity(self) -> bool:
        type_ = sqlite_types.type_of_declaration(self.declared)
        upper = self.declared.upper()
        is_text = any(part in upper for part in ("CHAR", "CLOB", "TEXT")) and "INT" not in upper
        return is_text and type_ is not None


class Relation(relations.Relation[Column], frozen=True):
    """key: the rowid or the primary key. rowid: whether the key is the rowid. params: of the query."""

    params: tuple[Any, ...] = ()


def find_relation(
    db: Connection, path: Path, config: SqliteSourceConfig, contract: Schema | None
) -> Relation:
    """The relation in the config. Raises an error if it cannot be read."""
    if config.query is not None:
        relation = _query(db, path, config.query)
    else:
        assert config.table is not None
        relation = _table(db, path, config.table)
    return _with_time_numbers(_typed(db, relation, contract), config.time_numbers)


def _with_time_numbers(
    relation: Relation, units: TimeNumbers | dict[str, TimeNumbers] | None
) -> Relation:
    """The relation whose columns of times know the unit of their numbers."""
    if units is None:
        return relation
    if isinstance(units, str):
        times = [c.name for c in relation.columns if c.type.name in ("timestamp", "date")]
        named = dict.fromkeys(times, units)
    else:
        named = {relation.column(name).name: unit for name, unit in units.items()}
    for name in named:
        if (type_ := relation.column(name).type).name not in ("timestamp", "date"):
            raise ConfigError(
                f"'time_numbers' names column '{name}', which is {type_}",
                code="E0413",
                help="name a column of dates or timestamps, or say its type in 'schema'",
            )
    columns = [replace(c, time_numbers=named.get(c.name)) for c in relation.columns]
    return replace(relation, columns=tuple(columns))


def _table(db: Connection, path: Path, name: str) -> Relation:
    table = find_table(db, name)
    if table is None:
        raise missing_table(name, path, table_names(db))
    sql = db.frame("select sql from sqlite_master where name = ?", (table.name,))["sql"][0]
    collated = "collate" in str(sql).lower()
    columns = tuple(_column(n, d, collated) for n, d in table.columns.items())
    key, rowid = table.key, False
    if table.rowid and table.rowid_column:
        key, rowid = (table.rowid_column,), True
    elif any("BLOB" in table.columns[name].upper() or not table.columns[name] for name in key):
        key = ()
    return Relation(f"table '{table.name}'", table.place, columns, key, rowid, primary=table.key)


def _query(db: Connection, path: Path, query: str) -> Relation:
    bound = bind_query(query)
    spot = getattr(query, "spot", None)
    # A view has the declared types of columns that come directly from a table. It cannot have
    # parameters; NULL in their place does not change the columns.
    view = bind_query(query, lambda _: "NULL").sql
    try:
        with sqlite_errors(path, "the query"):
            db.execute("drop view if exists temp._dataflare_query")
            db.execute(f"create temp view _dataflare_query as {view}")
            info = db.frame(
                "select name, type from pragma_table_info('_dataflare_query') order by cid"
            ).rows()
            db.execute("drop view temp._dataflare_query")
    except DataFlareError as error:
        cause = str(error.__cause__ or error)
        if missing := re.search(r"no such table: (?:main\.)?([^\n]+)", cause):
            raise missing_table(missing.group(1), path, table_names(db)).at(spot=spot) from error
        if error.code != "E0600":
            raise
        raise ConfigError(
            f"the query is refused: {error.message}",
            code="E0412",
            spot=spot,
            help="fix the query: the database refuses it",
        ) from error
    refuse_twice([str(name).casefold() for name, _ in info], spot)
    columns = tuple(_column(str(n), str(d or ""), collated=True) for n, d in info)
    params = tuple(sql_value(value) for value in bound.params)
    return Relation("the query", f"({bound.sql}\n)", columns, params=params)


def _column(name: str, declared: str, collated: bool) -> Column:
    type_ = sqlite_types.type_of_declaration(declared)
    exact = type_ is not None and (
        type_.name in ("int64", "float64") or (type_.name == "string" and not collated)
    )
    return Column(name, type_ or types.NULL, declared, exact)


def _typed(db: Connection, relation: Relation, contract: Schema | None) -> Relation:
    for field in contract or ():
        relation.column(field.name)
    by_contract = {field.name.casefold(): field.type for field in contract or ()}
    unknown = [
        c.name
        for c in relation.columns
        if c.type == types.NULL and c.name.casefold() not in by_contract
    ]
    sampled = _sampled(db, relation, unknown) if unknown else {}
    columns = []
    for column in relation.columns:
        type_ = by_contract.get(column.name.casefold())
        if type_ is None or type_ == column.type:
            type_ = sampled.get(column.name)
        columns.append(column if type_ is None else Column(column.name, type_, column.declared))
    return replace(relation, columns=tuple(columns))


def _sampled(db: Connection, relation: Relation, names: list[str]) -> dict[str, DataType]:
    """Types by the values of the first rows: numbers if all are numbers, bytes if all are bytes,
    else text."""
    kinds = ", ".join(
        f"group_concat(distinct typeof({quoted(name)})) as {quoted(name)}" for name in names
    )
    kinds_by_name = db.frame(
        f"select {kinds} from (select {listed(names)} from {relation.source} limit {_SAMPLE_ROWS})",
        relation.params,
    )
    return {name: _of_kinds(str(kinds_by_name[name][0] or "")) for name in names}


def _of_kinds(text: str) -> DataType:
    kinds = set(text.split(",")) - {"null", ""}
    if not kinds:
        return types.STRING
    if kinds == {"integer"}:
        return types.INT64
    if kinds <= {"integer", "real"}:
        return types.FLOAT64
    return types.BINARY if kinds == {"blob"} else types.STRING


def sql_value(value: Any) -> Any:
    """A Python value in SQLite's stored form: times are text in UTC, with a blank between date and
    time."""
    match value:
        case datetime():
            naive = value.astimezone(UTC).replace(tzinfo=None) if value.tzinfo else value
            return naive.isoformat(" ")
        case date() | time():
            return value.isoformat()
        case timedelta():
            return round(value.total_seconds() * 1_000_000)
        case Decimal():
            return str(value)
        case bool():
            return int(value)
    return value
