"""`flatten` and `explode`: structs into columns, lists into rows."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import TYPE_CHECKING

from msgspec.structs import replace
from pydantic import Field

from dataflare.errors import PlanError
from dataflare.model.batch import Kinds
from dataflare.model.record import StructABC
from dataflare.model.types import INT64, DataType, Schema
from dataflare.model.types import Field as Column
from dataflare.operators.base import BindContext, Bound, Lowering, RowOperator, Step, StepConfig
from dataflare.operators.names import (
    Name,
    expanded,
    fitting_column,
    known_columns,
    no_doubles,
    not_reserved,
    spot_of,
)
from dataflare.operators.primitives import (
    kinds_without_updates,
    travelling,
    without_updates,
)

if TYPE_CHECKING:
    import polars as pl


class FlattenConfig(StepConfig):
    columns: list[Name] | None = Field(
        default=None,
        description="Struct columns to flatten, or patterns of them; all of them when not given.",
    )
    separator: Name = Field(default="_", description="Between the column's and the field's name.")
    depth: int | None = Field(
        default=None, ge=1, description="How many levels; all when not given."
    )


class Flatten(RowOperator, StructABC, frozen=True):
    """paths: output column and the path of field names that leads to it."""

    step: str
    paths: tuple[tuple[str, tuple[str, ...]], ...]

    @property
    def reads(self) -> frozenset[str]:
        return frozenset(path[0] for _, path in self.paths)

    def output_schema(self, schema: Schema) -> Schema:
        return Schema(tuple(Column(name, _type_at(schema, path)) for name, path in self.paths))

    def required(self, needed: frozenset[str], incoming: Schema) -> frozenset[str]:
        return self.reads

    def only(self, needed: frozenset[str]) -> Flatten:
        left = tuple(pair for pair in self.paths if pair[0] in needed)
        return replace(self, paths=left or self.paths[:1])

    def lower(self, frame: pl.LazyFrame, lowering: Lowering) -> pl.LazyFrame:
        import polars as pl

        made = []
        for name, path in self.paths:
            value = pl.col(path[0])
            for part in path[1:]:
                value = value.struct.field(part)
            made.append(value.alias(name))
        return frame.select([*made, *map(pl.col, travelling(frame))])

    def describe(self) -> str:
        return "flatten " + ", ".join(sorted({p[0] for _, p in self.paths if len(p) > 1}))


def _type_at(schema: Schema, path: tuple[str, ...]) -> DataType:
    def inner(type_: DataType, name: str) -> DataType:
        return next(field.type for field in type_.fields if field.name == name)

    return reduce(inner, path[1:], schema[path[0]])


class FlattenStep(Step):
    type = "flatten"
    Config = FlattenConfig
    each_table = True
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
            chosen = [field.name for field in schema if field.type.name == "struct"]
        chosen = expanded(chosen, schema, context.matched)
        known_columns(step, chosen, schema)
        for name in chosen:
            fits = schema[name].name == "struct"
            fitting_column(step, "flattens", name, schema, "a struct", fits)
        paths: list[tuple[str, tuple[str, ...]]] = []

        def walk(column: Column, path: tuple[str, ...], name: str, level: int) -> None:
            deep = column.type.name == "struct" and path[0] in chosen
            if deep and (config.depth is None or level < config.depth):
                for part in column.type.fields:
                    below = f"{name}{config.separator}{part.name}"
                    walk(part, (*path, part.name), below, level + 1)
            else:
                paths.append((name, path))

        for column in schema:
            walk(column, (column.name,), column.name, 0)
        no_doubles(step, [name for name, _ in paths], help="choose another separator")
        operator = Flatten(step, tuple(paths))
        return Bound(outputs={None: operator.output_schema(schema)}, operators=(operator,))


class ExplodeConfig(StepConfig):
    column: Name = Field(description="The list column; each of its items becomes a row.")
    keep_empty: bool = Field(
        default=True, description="Whether a NULL or empty list gives one row with NULL."
    )
    index: Name | None = Field(
        default=None,
        description="Name of a column for the item's place, from 1; NULL where there is no item.",
    )


class Explode(RowOperator, StructABC, frozen=True):
    """A row with a fault stays one row."""

    step: str
    column: str
    keep_empty: bool
    index: str | None

    @property
    def reads(self) -> frozenset[str]:
        return frozenset((self.column,))

    def makes(self, arriving: Kinds) -> Kinds:
        return kinds_without_updates(arriving)

    def output_schema(self, schema: Schema) -> Schema:
        item = schema[self.column].item
        assert item is not None
        fields = [Column(f.name, item if f.name == self.column else f.type) for f in schema]
        if self.index:
            fields = [f for f in fields if f.name != self.index] + [Column(self.index, INT64)]
        return Schema(tuple(fields))

    def required(self, needed: frozenset[str], incoming: Schema) -> frozenset[str]:
        return (needed - {self.index}) | self.reads

    def only(self, needed: frozenset[str]) -> Explode:
        return self if self.index in needed else replace(self, index=None)

    def lower(self, frame: pl.LazyFrame, lowering: Lowering) -> pl.LazyFrame:
        import polars as pl

        frame = without_updates(frame, lowering)
        column = pl.col(self.column)
        length = column.list.len()
        if not self.keep_empty:
            frame = frame.filter(lowering.keep(length > 0))
        full = pl.when(length > 0)
        lists = [lowering.sound(full.then(column)).alias(self.column)]
        if self.index:
            places = full.then(pl.int_ranges(1, length.fill_null(0) + 1, dtype=pl.Int64))
            lists.append(lowering.sound(places).alias(self.index))
        exploded = [self.column, *([self.index] if self.index else [])]
        return frame.with_columns(lists).explode(exploded)

    def describe(self) -> str:
        return f"explode {self.column}"


class ExplodeStep(Step):
    type = "explode"
    Config = ExplodeConfig
    each_table = True
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
        fits = schema[config.column].name == "list"
        fitting_column(step, "explodes", config.column, schema, "a list", fits)
        if config.index is not None:
            not_reserved(step, [config.index])
            if config.index == config.column:
                raise PlanError(
                    f"step '{step}' cannot put the place into '{config.index}', which has the items",
                    code="E0311",
                    step=step,
                    spot=spot_of(config.index),
                    help="choose another name in 'index'",
                )
        index = None if config.index is None else str(config.index)
        operator = Explode(step, str(config.column), config.keep_empty, index)
        return Bound(outputs={None: operator.output_schema(schema)}, operators=(operator,))
