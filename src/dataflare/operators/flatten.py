"""`flatten` and `explode`: structs into columns, lists into rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import Field

from dataflare.errors import ExpressionError, PlanError
from dataflare.model.types import Field as Column
from dataflare.model.types import Schema
from dataflare.operators.base import BindContext, Bound, Lowering, RowOperator, Step, StepConfig
from dataflare.operators.primitives import known_columns

if TYPE_CHECKING:
    import polars as pl


class FlattenConfig(StepConfig):
    columns: list[str] | None = Field(
        default=None, description="Struct columns to flatten; all of them when not given."
    )
    separator: str = Field(default="_", description="Between the column's and the field's name.")
    depth: int | None = Field(default=None, ge=1, description="How many levels; all when not given.")


@dataclass(frozen=True)
class Flatten(RowOperator):
    """paths: output column and the path of field names that leads to it."""

    step: str
    paths: tuple[tuple[str, tuple[str, ...]], ...]
    output: Schema

    @property
    def reads(self) -> frozenset[str]:
        return frozenset(path[0] for _, path in self.paths)

    def output_schema(self, schema: Schema) -> Schema:
        return self.output

    def lower(self, frame: pl.LazyFrame, lowering: Lowering) -> pl.LazyFrame:
        import polars as pl

        made = []
        for name, path in self.paths:
            value = pl.col(path[0])
            for part in path[1:]:
                value = value.struct.field(part)
            made.append(value.alias(name))
        hidden = [n for n in frame.collect_schema().names() if n.startswith("__")]
        return frame.select([*made, *map(pl.col, hidden)])

    def describe(self) -> str:
        return "flatten " + ", ".join(sorted({p[0] for _, p in self.paths if len(p) > 1}))


class FlattenStep(Step):
    type = "flatten"
    Config = FlattenConfig
    summary = "Turn the fields of struct columns into columns."
    example = """\
type: flatten
inputs: [events]
config: {columns: [user], separator: "_"}
"""

    @classmethod
    def bind(cls, config: FlattenConfig, inputs: Sequence[Schema], context: BindContext) -> Bound:
        schema, step = inputs[0], context.step
        chosen = config.columns
        if chosen is None:
            chosen = [f.name for f in schema if f.type.name == "struct"]
        known_columns(step, chosen, schema)
        for name in chosen:
            if schema[name].name != "struct":
                raise ExpressionError(
                    f"step '{step}' flattens '{name}', which is {schema[name]}, not a struct",
                    code="E0204",
                    step=step,
                    spot=getattr(name, "spot", None),
                )
        paths: list[tuple[str, tuple[str, ...]]] = []
        fields: list[Column] = []

        def walk(column: Column, path: tuple[str, ...], name: str, level: int) -> None:
            deep = column.type.name == "struct" and path[0] in chosen
            if deep and (config.depth is None or level < config.depth):
                for part in column.type.fields:
                    walk(part, (*path, part.name), f"{name}{config.separator}{part.name}", level + 1)
            else:
                paths.append((name, path))
                fields.append(Column(name, column.type))

        for column in schema:
            walk(column, (column.name,), column.name, 0)
        names = [name for name, _ in paths]
        double = next((name for name in names if names.count(name) > 1), None)
        if double:
            raise PlanError(
                f"step '{step}' would make the column '{double}' twice",
                code="E0311",
                step=step,
                help="choose another separator",
            )
        output = Schema(tuple(fields))
        return Bound(outputs={None: output}, operators=(Flatten(step, tuple(paths), output),))


class ExplodeConfig(StepConfig):
    column: str = Field(description="The list column; each of its items becomes a row.")
    keep_empty: bool = Field(
        default=True, description="Whether a NULL or empty list gives one row with NULL."
    )
    index: str | None = Field(default=None, description="Name of a column for the item's place, from 1.")


@dataclass(frozen=True)
class Explode(RowOperator):
    step: str
    column: str
    keep_empty: bool
    index: str | None

    @property
    def reads(self) -> frozenset[str]:
        return frozenset((self.column,))

    @property
    def changelog(self) -> bool:
        return False

    def output_schema(self, schema: Schema) -> Schema:
        from dataflare.model.types import INT64

        item = schema[self.column].item
        assert item is not None
        fields = [Column(f.name, item if f.name == self.column else f.type) for f in schema]
        if self.index:
            fields = [f for f in fields if f.name != self.index] + [Column(self.index, INT64)]
        return Schema(tuple(fields))

    def lower(self, frame: pl.LazyFrame, lowering: Lowering) -> pl.LazyFrame:
        import polars as pl

        column = pl.col(self.column)
        if not self.keep_empty:
            frame = frame.filter(lowering.keep(column.list.len() > 0))
        if self.index:
            length = pl.max_horizontal(column.list.len().fill_null(0), pl.lit(1, pl.UInt32))
            frame = frame.with_columns(pl.int_ranges(1, length + 1, dtype=pl.Int64).alias(self.index))
            frame = frame.with_columns(
                pl.when(column.list.len() > 0).then(column).otherwise(column.list.head(0).list.concat(pl.lit(None)))
            )
            return frame.explode(self.column, self.index)
        return frame.explode(self.column)

    def describe(self) -> str:
        return f"explode {self.column}"


class ExplodeStep(Step):
    type = "explode"
    Config = ExplodeConfig
    summary = "One row for each item of a list column."
    example = """\
type: explode
inputs: [orders]
config: {column: items, index: line}
"""

    @classmethod
    def bind(cls, config: ExplodeConfig, inputs: Sequence[Schema], context: BindContext) -> Bound:
        schema, step = inputs[0], context.step
        known_columns(step, [config.column], schema)
        if schema[config.column].name != "list":
            raise ExpressionError(
                f"step '{step}' explodes '{config.column}', which is {schema[config.column]}, not a list",
                code="E0204",
                step=step,
                spot=getattr(config.column, "spot", None),
            )
        operator = Explode(step, str(config.column), config.keep_empty, config.index)
        return Bound(outputs={None: operator.output_schema(schema)}, operators=(operator,))


