"""The row operators that most steps are made of: derive, filter, select."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from dataflare.errors import ConfigError, ExpressionError, did_you_mean
from dataflare.model.batch import KIND_COLUMN
from dataflare.model.types import DataType, Field, Schema
from dataflare.operators.base import ERROR_COLUMN, TRAVELLING, Lowering, RowOperator

if TYPE_CHECKING:
    import polars as pl

    from dataflare.expr import Typed


@dataclass(frozen=True)
class Derive(RowOperator):
    """Add or replace columns; every expression reads the incoming row."""

    step: str
    columns: tuple[tuple[str, Typed], ...]

    @property
    def reads(self) -> frozenset[str]:
        return frozenset().union(*(typed.columns | typed.needs for _, typed in self.columns))

    @property
    def can_fail(self) -> bool:
        return any(typed.can_fail for _, typed in self.columns)

    def output_schema(self, schema: Schema) -> Schema:
        made = {name: typed.type for name, typed in self.columns}
        kept = [Field(f.name, made.get(f.name, f.type)) for f in schema]
        added = [Field(n, t) for n, t in made.items() if n not in schema]
        return Schema((*kept, *added))

    def lower(self, frame: pl.LazyFrame, lowering: Lowering) -> pl.LazyFrame:
        values: list[pl.Expr] = []
        errors: list[tuple[str, pl.Expr]] = []
        for name, typed in self.columns:
            lowered = typed.lower()
            values.append(lowered.value.alias(name))
            if lowered.error is not None:
                errors.append((f"{name}: {typed.shown}", lowered.error))
        if errors:
            values.append(lowering.column(self.step, errors))
        return frame.with_columns(values)

    def required(self, needed: frozenset[str], incoming: Schema) -> frozenset[str]:
        return (needed - {name for name, _ in self.columns}) | self.reads

    def only(self, needed: frozenset[str]) -> Derive | None:
        left = tuple(pair for pair in self.columns if pair[0] in needed)
        return replace(self, columns=left) if left else None

    def describe(self) -> str:
        return "derive " + ", ".join(name for name, _ in self.columns)


@dataclass(frozen=True)
class Filter(RowOperator):
    """Keep the rows where the condition is true.

    On a changelog an update whose halves part ways becomes a delete or an insert; the halves stand
    side by side.
    """

    step: str
    condition: Typed

    @property
    def reads(self) -> frozenset[str]:
        return self.condition.columns | self.condition.needs

    @property
    def can_fail(self) -> bool:
        return self.condition.can_fail

    def output_schema(self, schema: Schema) -> Schema:
        return schema

    def lower(self, frame: pl.LazyFrame, lowering: Lowering) -> pl.LazyFrame:
        import polars as pl

        lowered = self.condition.lower()
        if lowered.error is not None:
            frame = lowering.mark(frame, self.step, [(self.condition.shown, lowered.error)])
        if KIND_COLUMN not in frame.collect_schema().names():
            return frame.filter(lowering.keep(lowered.value))
        frame = frame.with_columns(lowered.value.fill_null(False).alias("__pass"))
        return frame.with_columns(parted_kinds().alias(KIND_COLUMN)).filter(
            lowering.keep(pl.col("__pass"))
        ).drop("__pass")

    def required(self, needed: frozenset[str], incoming: Schema) -> frozenset[str]:
        return needed | self.reads

    def describe(self) -> str:
        return f"filter {self.condition.shown}"


def parted_kinds() -> pl.Expr:
    """The row kinds after a filter whose verdict is in `__pass`: a before-image whose after-image
    leaves is a delete, an after-image whose before-image was not there is an insert."""
    import polars as pl

    kind, passes = pl.col(KIND_COLUMN), pl.col("__pass")
    alone_before = (kind == 1) & ~passes.shift(-1, fill_value=False)
    alone_after = (kind == 2) & ~passes.shift(1, fill_value=False)
    return (
        pl.when(alone_before)
        .then(pl.lit(3, pl.UInt8))
        .when(alone_after)
        .then(pl.lit(0, pl.UInt8))
        .otherwise(kind)
    )


@dataclass(frozen=True)
class Select(RowOperator):
    """Keep, order and rename columns. columns: new name and the incoming one."""

    step: str
    columns: tuple[tuple[str, str], ...]

    @property
    def reads(self) -> frozenset[str]:
        return frozenset(old for _, old in self.columns)

    def output_schema(self, schema: Schema) -> Schema:
        return Schema(tuple(Field(new, schema[old]) for new, old in self.columns))

    def lower(self, frame: pl.LazyFrame, lowering: Lowering) -> pl.LazyFrame:
        import polars as pl

        present = frame.collect_schema().names()
        hidden = [pl.col(n) for n in present if n in TRAVELLING]
        return frame.select([pl.col(old).alias(new) for new, old in self.columns] + hidden)

    def required(self, needed: frozenset[str], incoming: Schema) -> frozenset[str]:
        return self.reads

    def only(self, needed: frozenset[str]) -> Select:
        left = tuple(pair for pair in self.columns if pair[0] in needed)
        return replace(self, columns=left or self.columns[:1])

    def describe(self) -> str:
        return "select " + ", ".join(n if n == o else f"{n} = {o}" for n, o in self.columns)


@dataclass(frozen=True)
class Conform(RowOperator):
    """Bring rows to a schema: order, missing columns as NULL, wider types. Never fails."""

    step: str
    target: Schema
    source: Schema

    @property
    def reads(self) -> frozenset[str]:
        return frozenset(self.source.names)

    def output_schema(self, schema: Schema) -> Schema:
        return self.target

    def lower(self, frame: pl.LazyFrame, lowering: Lowering) -> pl.LazyFrame:
        import polars as pl

        made = []
        for column in self.target:
            dtype = column.type.to_polars()
            if column.name not in self.source:
                made.append(pl.lit(None, dtype).alias(column.name))
            elif self.source[column.name] != column.type:
                made.append(pl.col(column.name).cast(dtype, strict=False))
            else:
                made.append(pl.col(column.name))
        present = frame.collect_schema().names()
        return frame.select(made + [pl.col(n) for n in present if n.startswith("__")])

    def describe(self) -> str:
        return "conform to " + ", ".join(self.target.names)


def quote(name: str) -> str:
    """A column as an expression."""
    return '"' + name.replace('"', '""') + '"'


def cast_columns(step: str, schema: Schema, casts: Mapping[str, DataType]) -> Derive:
    """Cast columns with the meaning of CAST: a value that does not fit is a fault of its row."""
    from dataflare.expr import check

    known_columns(step, casts, schema)
    return Derive(
        step,
        tuple((n, check(f"CAST({quote(n)} AS {sql_type(t)})", schema, step=step)) for n, t in casts.items()),
    )


def sql_type(type_: DataType) -> str:
    """A type's text for CAST."""
    return str(type_)


def known_columns(step: str, names: Iterable[str], schema: Schema) -> None:
    """Raise for names that do not reach the step (E0203), at their place where it is known."""
    for name in names:
        if name not in schema:
            spot = getattr(name, "spot", None)
            raise ExpressionError(
                f"unknown column '{name}' in step '{step}'",
                code="E0203",
                step=step,
                spot=spot,
                notes=[f"it receives: {', '.join(schema.names)}"],
                help=did_you_mean(name, schema.names),
            )


def without_errors(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame without the error column."""
    return frame.drop(ERROR_COLUMN, strict=False)


def refuse_empty(step: str, what: str, value: object) -> None:
    """Raise ConfigError for a config part that must not be empty."""
    if not value:
        raise ConfigError(f"step '{step}' needs {what}", code="E0403", step=step)
