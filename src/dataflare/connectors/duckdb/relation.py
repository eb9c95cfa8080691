"""What a source reads: a table, a view or a query, with the types of its columns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
from msgspec import Struct

from dataflare.connectors.duckdb import tables
from dataflare.connectors.duckdb.connection import DuckConnection
from dataflare.connectors.duckdb.errors import duckdb_errors, translated
from dataflare.connectors.duckdb.types import declared, meant, misfit, selected
from dataflare.connectors.sql.config import TableSourceConfig
from dataflare.connectors.sql.names import missing_column, missing_table, quoted
from dataflare.connectors.sql.query import bind_query
from dataflare.errors import ConfigError
from dataflare.model.types import DataType, Schema


class Column(Struct, frozen=True):
    """declared: DuckDB's type. type: ours. cast: the step's `schema` asks for another type."""

    name: str
    declared: str
    type: DataType
    cast: bool = False

    def sql(self) -> str:
        """Fetches the value; for a cast, one that does not fit is NULL."""
        name = quoted(self.name)
        if self.cast:
            return selected(f"try_cast({name} as {declared(self.type)})", declared(self.type))
        sql = selected(name, self.declared)
        if self.type.name in ("list", "struct") and (lost := misfit(name, self.declared)):
            # Polars panics over a date inside a list that is out of its range.
            return f"case when {lost} then null else {sql} end"
        return sql

    def misfit_sql(self) -> str | None:
        """The text of a value that has none of the column's type, else NULL; None where all have."""
        name = quoted(self.name)
        if not self.cast:
            lost = misfit(name, self.declared)
        else:
            type_ = declared(self.type)
            made = f"try_cast({name} as {type_})"
            lost = f"{name} is not null and {made} is null"
            if more := misfit(made, type_):
                lost = f"({lost}) or {more}"
        return lost and f"case when {lost} then cast({name} as VARCHAR) end"


class Relation(Struct, frozen=True):
    """source: what stands after FROM; its parameters are variables of the connection, see `bind`.
    key: the primary key. rowid: it is a table and has one."""

    shown: str
    source: str
    params: tuple[Any, ...]
    columns: tuple[Column, ...]
    key: tuple[str, ...] = ()
    rowid: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)

    def column(self, name: str) -> Column:
        """The column; upper and lower case are one. Raises E0606 naming the nearest."""
        for column in self.columns:
            if column.name.casefold() == name.casefold():
                return column
        raise missing_column(name, self.shown, self.names)


def mark(kind: str, place: int) -> str:
    """How a bound value is written: a statement with parameters would be read into memory whole, one
    with variables streams."""
    return f"getvariable('_dataflare_{kind}{place}')"


def bind(db: DuckConnection, kind: str, params: tuple[Any, ...]) -> None:
    """Give the values that `mark` stands for to the connection."""
    for place, value in enumerate(params):
        db.db.execute(f"set variable _dataflare_{kind}{place} = ?", [value])


def find_relation(
    db: DuckConnection, path: Path, config: TableSourceConfig, contract: Schema | None
) -> Relation:
    """What the config names. Raises what is wrong with it."""
    if config.query is not None:
        relation = _query(db, path, config.query)
    else:
        assert config.table is not None
        found = tables.find_table(db, config.table)
        if found is None:
            raise missing_table(config.table, path, tables.table_names(db))
        columns = tuple(Column(n, d, meant(d)) for n, d in found.columns.items())
        source = tables.spelled(f"{found.schema}.{found.name}")
        shown = f"table '{config.table}'"
        taken = "rowid" in {name.casefold() for name in found.columns}
        relation = Relation(shown, source, (), columns, found.key, not found.view and not taken)
    return _cast(relation, contract)


def _query(db: DuckConnection, path: Path, query: str) -> Relation:
    bound = bind_query(query, lambda place: mark("q", place))
    spot = getattr(query, "spot", None)
    with duckdb_errors(path, "the query"):
        bind(db, "q", bound.params)
    try:
        found = db.rows(f"describe select * from ({bound.sql}\n)")
    except duckdb.CatalogException as error:
        name = str(error).partition("Table with name ")[2].partition(" ")[0]
        if name:
            raise missing_table(name, path, tables.table_names(db)).at(spot=spot) from error
        raise _refused(error, spot) from error
    except (duckdb.ParserException, duckdb.BinderException) as error:
        raise _refused(error, spot) from error
    except duckdb.Error as error:
        raise translated(error, path, "the query").at(spot=spot) from error
    columns = tuple(Column(row[0], row[1], meant(row[1])) for row in found)
    return Relation("the query", f"({bound.sql}\n)", bound.params, columns)


def _refused(error: Exception, spot: Any) -> ConfigError:
    first, *rest = [line for line in str(error).splitlines() if line.strip()]
    hint = next((line for line in rest if line.startswith(("Candidate", "Did you mean"))), None)
    return ConfigError(f"the query is refused: {first}", code="E0412", spot=spot, help=hint)


def _cast(relation: Relation, contract: Schema | None) -> Relation:
    for field in contract or ():
        relation.column(field.name)
    wanted = {field.name.casefold(): field.type for field in contract or ()}
    columns = []
    for column in relation.columns:
        type_ = wanted.get(column.name.casefold(), column.type)
        same = type_ == column.type
        columns.append(Column(column.name, column.declared, type_, cast=not same))
    return Relation(
        relation.shown,
        relation.source,
        relation.params,
        tuple(columns),
        relation.key,
        relation.rowid,
    )
