"""The relation that a source reads: a table, a view or a query, with the types of its columns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
from msgspec.structs import replace

from dataflare.connectors.duckdb import tables
from dataflare.connectors.duckdb.connection import DuckConnection
from dataflare.connectors.duckdb.errors import duckdb_errors, translated
from dataflare.connectors.duckdb.types import declared, misfit, selected, type_of_declaration
from dataflare.errors import ConfigError
from dataflare.model.types import Schema
from dataflare.sdk.sql import relation as relations
from dataflare.sdk.sql.config import FileReadOptions
from dataflare.sdk.sql.names import missing_table, quoted
from dataflare.sdk.sql.query import bind_query
from dataflare.security.redact import redact_pieces


class Column(relations.Column, frozen=True):
    """declared: DuckDB's type. cast: whether the step's `schema` has another type."""

    declared: str = ""
    cast: bool = False

    def selected(self) -> str:
        """The SQL of the value; for a cast, a value that does not fit is NULL."""
        name = quoted(self.name)
        if self.cast:
            return selected(f"try_cast({name} as {declared(self.type)})", declared(self.type))
        sql = selected(name, self.declared)
        if self.type.name in ("list", "struct") and (is_misfit := misfit(name, self.declared)):
            # Polars panics on a date inside a list that is out of its range.
            return f"case when {is_misfit} then null else {sql} end"
        return sql

    def guarded(self) -> str | None:
        name = quoted(self.name)
        if not self.cast:
            is_misfit = misfit(name, self.declared)
        else:
            type_ = declared(self.type)
            converted = f"try_cast({name} as {type_})"
            is_misfit = f"{name} is not null and {converted} is null"
            if converted_misfit := misfit(converted, type_):
                is_misfit = f"({is_misfit}) or {converted_misfit}"
        return is_misfit and f"case when {is_misfit} then cast({name} as VARCHAR) end"


class Relation(relations.Relation[Column], frozen=True):
    """source: its parameters are variables of the connection, see `bind`. key: the primary key. rowid:
    whether it is a table with a rowid."""

    params: tuple[Any, ...] = ()


def mark(kind: str, place: int) -> str:
    """The SQL for a bound value. It is a variable, because the result of a statement with
    parameters would be read into memory, and that of a statement with variables streams."""
    return f"getvariable('_dataflare_{kind}{place}')"


def bind(db: DuckConnection, kind: str, params: tuple[Any, ...]) -> None:
    """Set the variables of the connection that `mark` names."""
    for place, value in enumerate(params):
        db.db.execute(f"set variable _dataflare_{kind}{place} = ?", [value])


def find_relation(
    db: DuckConnection, path: Path, config: FileReadOptions, contract: Schema | None
) -> Relation:
    """The relation in the config. Raises an error if it cannot be read."""
    if config.query is not None:
        relation = _query(db, path, config.query)
    else:
        assert config.table is not None
        table = tables.find_table(db, config.table)
        if table is None:
            raise missing_table(config.table, path, tables.table_names(db))
        columns = tuple(Column(n, type_of_declaration(d), d) for n, d in table.columns.items())
        has_rowid_column = "rowid" in {name.casefold() for name in table.columns}
        rowid = not table.view and not has_rowid_column
        label = f"table '{config.table}'"
        relation = Relation(label, table.place, columns, table.key, rowid, primary=table.key)
    return relation.typed(contract, lambda c, type_: replace(c, type=type_, cast=True))


def _query(db: DuckConnection, path: Path, query: str) -> Relation:
    bound = bind_query(query, lambda place: mark("q", place))
    spot = getattr(query, "spot", None)
    with duckdb_errors(path, "the query"):
        bind(db, "q", bound.params)
    try:
        described = db.rows(f"describe select * from ({bound.sql}\n)")
    except duckdb.CatalogException as error:
        name = str(error).partition("Table with name ")[2].partition(" ")[0]
        if name:
            raise missing_table(name, path, tables.table_names(db)).at(spot=spot) from error
        raise _refused(error, spot) from error
    except (duckdb.ParserException, duckdb.BinderException) as error:
        raise _refused(error, spot) from error
    except duckdb.Error as error:
        raise translated(error, path, "the query").at(spot=spot) from error
    columns = tuple(Column(row[0], type_of_declaration(row[1]), row[1]) for row in described)
    return Relation("the query", f"({bound.sql}\n)", columns, params=bound.params)


def _refused(error: Exception, spot: Any) -> ConfigError:
    first, *rest = [line for line in redact_pieces(str(error)).splitlines() if line.strip()]
    hint = next((line for line in rest if line.startswith(("Candidate", "Did you mean"))), None)
    return ConfigError(f"the query is refused: {first}", code="E0412", spot=spot, help=hint)
