"""A DuckDB in memory for the step `sql`: tables with the names of inputs, and nothing else to reach."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import polars as pl

from dataflare.errors import ExpressionError, PlanError
from dataflare.model.types import Schema
from dataflare.sdk.sql.names import quoted
from dataflare.sdk.sql.query import BoundQuery
from dataflare.security.redact import redact

_BATCH_ROWS = 65_536
_SETTINGS = (
    "SET TimeZone = 'UTC'",
    # A name that is not a table must not resolve to a Python variable of DataFlare.
    "SET python_enable_replacements = false",
    "SET preserve_insertion_order = true",
    "SET enable_external_access = false",
    "SET lock_configuration = true",
)
_LOADED = "__dataflare_loaded"
_VARIABLE = "_dataflare_value"
_UNKNOWN = re.compile(
    r"\b(INTERVAL|BIT|MAP|UNION|TIME WITH TIME ZONE|TIMETZ|VARIANT|BIGNUM|VARINT|GEOMETRY)\b"
)
"""Types whose values would come as other values, or not at all."""


class Engine:
    """inputs: the columns of each table. bytes_max: how much memory it takes; the rest is in files of a
    temporary folder. errors: what DuckDB raises. Raises ModuleNotFoundError where it is not installed."""

    def __init__(self, inputs: Mapping[str, Schema], bytes_max: int) -> None:
        import duckdb
        import pyarrow  # noqa: F401  the rows travel as Arrow

        self.errors: type[Exception] = duckdb.Error
        self._folder = tempfile.mkdtemp(prefix="dataflare-sql-")
        options: dict[str, Any] = {"memory_limit": f"{bytes_max}B", "temp_directory": self._folder}
        self._db: Any = duckdb.connect(":memory:", config=options)
        for setting in _SETTINGS:
            self._db.execute(setting)
        for name, schema in inputs.items():
            empty = pl.DataFrame(schema=schema.to_polars())
            self._load(f"CREATE TABLE {quoted(name)} AS SELECT * FROM {_LOADED}", empty)

    def add(self, name: str, rows: pl.DataFrame) -> None:
        """Append rows to a table."""
        self._load(f"INSERT INTO {quoted(name)} SELECT * FROM {_LOADED}", rows)

    def output(self, query: BoundQuery) -> Schema:
        """The columns of the result. They do not depend on the rows. Raises ExpressionError (E0204), PlanError
        (E0311)."""
        result = self._result(query)
        _check(result.columns, [str(type_) for type_ in result.types])
        frame = pl.from_arrow(result.limit(0).to_arrow_table())
        assert isinstance(frame, pl.DataFrame)
        return Schema.from_polars(frame.schema)

    def rows(self, query: BoundQuery, output: Schema) -> Iterator[pl.DataFrame]:
        """The result in batches, in these types."""
        types = output.to_polars()
        for batch in self._result(query).to_arrow_reader(_BATCH_ROWS):
            frame = pl.from_arrow(batch)
            assert isinstance(frame, pl.DataFrame)
            yield frame.select(pl.col(name).cast(dtype) for name, dtype in types.items())

    def _result(self, query: BoundQuery) -> Any:
        """The result, not read yet. Values are variables, because the result of a statement with parameters
        would be read into memory."""
        for place, value in enumerate(query.params):
            self._db.execute(f"SET VARIABLE {_VARIABLE}{place} = ?", [value])
        return self._db.sql(query.sql)

    def close(self) -> None:
        self._db.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _load(self, statement: str, rows: pl.DataFrame) -> None:
        self._db.register(_LOADED, rows.to_arrow())
        self._db.execute(statement)
        self._db.unregister(_LOADED)


def mark(place: int) -> str:
    """The SQL for a bound value of a query."""
    return f"getvariable('{_VARIABLE}{place}')"


def _check(names: Sequence[str], types: Sequence[str]) -> None:
    """Refuse columns that cannot leave as they are."""
    for place, (name, type_) in enumerate(zip(names, types, strict=True)):
        if name in names[:place]:
            raise PlanError(
                f"the query gives the column '{name}' twice",
                code="E0311",
                help="give one of them another name: AS ...",
            )
        if _UNKNOWN.search(type_):
            raise ExpressionError(
                f"the query gives the column '{name}' of type {type_}, which DataFlare does not have",
                code="E0204",
                help="cast it in the query: to VARCHAR, or an interval to a number with epoch_us(...)",
            )


def first_line(error: Exception) -> str:
    """What DuckDB says, in one line, without secrets."""
    text = redact(str(error)).strip()
    return re.sub(r"^[\w ]+ Error: ", "", text.splitlines()[0]) if text else repr(error)
