"""`sql`: one SELECT over inputs that end, run by DuckDB.

The rows of all inputs are kept until their end, then loaded into a DuckDB of their own, in memory with a
bound and files beside it. The query cannot reach files, the network or other databases.

Always true: until the whole result is there the inputs stay in the tables, so that a run which was
interrupted runs the query again; from then on only the results are there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import polars as pl
from pydantic import Field

from dataflare.errors import DataError, DataFlareError, ExpressionError, PlanError
from dataflare.model.record import StructABC
from dataflare.model.types import Schema
from dataflare.model.units import Size
from dataflare.operators import kept_rows
from dataflare.operators.base import (
    BindContext,
    Bound,
    LiveOperator,
    StatefulOperator,
    Step,
    StepConfig,
)
from dataflare.operators.names import spot_of
from dataflare.operators.results import Results
from dataflare.operators.sql_engine import Engine, first_line, mark
from dataflare.sdk.registry import missing_library
from dataflare.sdk.sql.config import Query
from dataflare.sdk.sql.query import BoundQuery, bind_query
from dataflare.state.layout import STEP, Adaptation, Held, Layout, TableLayout
from dataflare.state.tables import Tables


class SqlConfig(StepConfig):
    query: Query = Field(
        description="One SELECT of DuckDB over the inputs by their names: `SELECT * FROM orders JOIN customers USING "
        '(id)`. An output such as `router.eu` is quoted: `FROM "router.eu"`.'
    )
    memory: Size = Field(
        default=1_000_000_000,
        description="How much memory the query takes, as in `4GB`. What does not fit is in files.",
    )


class Sql(StatefulOperator, StructABC, frozen=True):
    step: str
    query: BoundQuery
    inputs: Mapping[str, Schema]
    output: Schema
    bytes_max: int
    keys: tuple[str, ...] = ()
    bounded_only = True

    def open(self, tables: Tables) -> LiveOperator:
        return LiveSql(self, tables)

    def layout(self, inputs: Sequence[Schema]) -> Layout:
        settings = {"query": self.query.shown, "inputs": list(self.inputs)}
        rows = {
            f"input_{n}": kept_rows.layout_of(schema)
            for n, schema in enumerate(self.inputs.values())
        }
        results = kept_rows.layout_of(self.output)
        return {STEP: TableLayout(settings=settings), **rows, "results": results}

    def initial(self, table: str) -> pl.DataFrame:
        if table == "results":
            return kept_rows.nulls(self.output)
        return kept_rows.nulls([*self.inputs.values()][int(table.removeprefix("input_"))])

    def adapted(
        self, before: Mapping[str, Any], now: Mapping[str, Any], held: Held
    ) -> Adaptation | str:
        reason = kept_rows.other_inputs(before, now)
        if reason is None and before["query"] != now["query"] and any(held.all_of("has_run")):
            return "its query has changed, and has run already: what waits are its results"
        return reason or Adaptation()

    def shown(self, tables: Tables) -> Mapping[str, Iterator[pl.DataFrame]]:
        """The rows of each input so far."""
        named = {name: (f"input_{n}", ()) for n, name in enumerate(self.inputs)}
        return kept_rows.shown(tables, named)

    def describe(self) -> str:
        return f"sql over {', '.join(self.inputs)}"


class LiveSql(LiveOperator):
    """has_run: whether the results are all there."""

    def __init__(self, operator: Sql, tables: Tables) -> None:
        self._operator, self._first = operator, tables.subtask == 0
        self._rows = [tables.rows(f"input_{n}") for n in range(len(operator.inputs))]
        self._results = Results(tables)
        self._has_run = tables.value("has_run", False, any)
        self._ended: set[int] = set()
        self._engine: Engine | None = None

    def process(self, port: int, frame: pl.DataFrame) -> Iterable[pl.DataFrame]:
        self._rows[port].append(frame)
        return ()

    def end(self, port: int) -> Iterator[pl.DataFrame]:
        self._ended.add(port)
        if len(self._ended) < len(self._rows) or not self._first:
            return
        if not self._has_run.value:
            yield from self._run()
        yield from self._results.drain()

    def _run(self) -> Iterator[pl.DataFrame]:
        """Load the inputs and run the query. The frames that are given are empty."""
        operator = self._operator
        engine = self._engine = Engine(operator.inputs, operator.bytes_max)
        try:
            for name, table in zip(operator.inputs, self._rows, strict=True):
                for piece in table.pieces():
                    engine.add(name, table.frame_of(piece))
                    yield pl.DataFrame(schema=operator.output.to_polars())
            for frame in engine.rows(operator.query, operator.output):
                self._results.put(frame)
        except engine.errors as error:
            raise DataError(
                f"the query of step '{operator.step}' failed: {first_line(error)}",
                code="E0530",
                step=operator.step,
                help="correct the rows in a step before, or the query: DuckDB's TRY_CAST and TRY(...) give NULL "
                "where a value does not fit",
            ) from error
        self.close()
        self._has_run.value = True
        for table in self._rows:
            table.set([])

    def close(self) -> None:
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.close()


class SqlStep(Step):
    type = "sql"
    Config = SqlConfig
    summary = "One SELECT of DuckDB over inputs that end; its rows come at their end, in no promised order."
    example = """\
type: sql
inputs: [orders, customers]
config:
  query: |
    SELECT c.segment, count(*) AS orders, rank() OVER (ORDER BY count(*) DESC) AS place
    FROM orders o JOIN customers c ON o.customer_id = c.id
    GROUP BY c.segment
"""
    inputs_max = None

    @classmethod
    def bind(cls, config: SqlConfig, inputs: Sequence[Schema], context: BindContext) -> Bound:
        step = context.step
        query = bind_query(config.query, mark)
        if not context.bounded:
            raise PlanError(
                f"step '{step}' runs its query over all rows of its inputs, and one has no end",
                code="E0316",
                step=step,
                help="bound the sources (for `generate`: rows), or use window, join and aggregate, which work "
                "while rows come",
            )
        names = context.inputs or tuple(f"input_{n}" for n in range(len(inputs)))
        tables = dict(zip(names, inputs, strict=True))
        output = _output(step, config.query, query, tables)
        return Bound(
            outputs={None: output},
            stateful=Sql(step, query, tables, output, config.memory),
        )

    @classmethod
    def names_its_columns(cls, config: SqlConfig) -> bool:
        return False


def _output(step: str, text: Any, query: BoundQuery, tables: Mapping[str, Schema]) -> Schema:
    """The columns that come out, as DuckDB says them of tables without rows."""
    try:
        engine = Engine(tables, 100_000_000)
    except ModuleNotFoundError as error:
        raise missing_library("sql", error).at(step=step) from None
    try:
        return engine.output(query)
    except DataFlareError as error:
        raise error.at(step=step, spot=spot_of(text)) from None
    except engine.errors as error:
        known = [f"{name}: {', '.join(schema.names)}" for name, schema in tables.items()]
        raise ExpressionError(
            f"the query of step '{step}' is not right: {first_line(error)}",
            code="E0201",
            step=step,
            spot=spot_of(text),
            notes=[f"its inputs are {'; '.join(known)}"],
            help="correct the query; it is SQL as DuckDB reads it",
        ) from None
    finally:
        engine.close()
