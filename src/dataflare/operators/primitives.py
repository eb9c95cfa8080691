"""The row operators that most steps are made of: derive, filter, select."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from dataflare.model import unchanged
from dataflare.model.batch import KIND_COLUMN, UPDATES, Kinds, RowKind
from dataflare.model.record import StructABC
from dataflare.model.types import Field, Schema
from dataflare.model.unchanged import UNCHANGED
from dataflare.operators.base import TRAVELLING, Fault, Lowering, RowOperator

if TYPE_CHECKING:
    import polars as pl

    from dataflare.expr import Typed


class Derive(RowOperator, StructABC, frozen=True):
    """Add or replace columns; every expression reads the incoming row."""

    step: str
    columns: tuple[tuple[str, Typed], ...]

    @property
    def reads(self) -> frozenset[str]:
        return frozenset().union(*(typed.columns | typed.needs for _, typed in self.columns))

    @property
    def can_fail(self) -> bool:
        return any(typed.can_fail for _, typed in self.columns)

    @property
    def keeps_rows(self) -> bool:
        return True

    def output_schema(self, schema: Schema) -> Schema:
        made = {name: typed.type for name, typed in self.columns}
        kept = [Field(f.name, made.get(f.name, f.type)) for f in schema]
        added = [Field(n, t) for n, t in made.items() if n not in schema]
        return Schema((*kept, *added))

    def lower(self, frame: pl.LazyFrame, lowering: Lowering) -> pl.LazyFrame:
        values: list[pl.Expr] = []
        errors: list[Fault] = []
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


class Filter(RowOperator, StructABC, frozen=True):
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

    @property
    def keeps_columns(self) -> bool:
        return True

    def output_schema(self, schema: Schema) -> Schema:
        return schema

    def lower(self, frame: pl.LazyFrame, lowering: Lowering) -> pl.LazyFrame:
        lowered = self.condition.lower()
        if lowered.error is not None:
            frame = lowering.mark(frame, self.step, [(self.condition.shown, lowered.error)])
        return kept(frame, lowered.value, lowering)

    def required(self, needed: frozenset[str], incoming: Schema) -> frozenset[str]:
        return needed | self.reads

    def makes(self, arriving: Kinds) -> Kinds:
        return after_parting(arriving)

    def describe(self) -> str:
        return f"filter {self.condition.shown}"


def after_parting(arriving: Kinds) -> Kinds:
    """The row kinds after a step that leaves out rows: one half of an update that stays alone is a delete or
    an insert."""
    return arriving | {RowKind.INSERT, RowKind.DELETE} if arriving & UPDATES else arriving


def kept(frame: pl.LazyFrame, condition: pl.Expr, lowering: Lowering) -> pl.LazyFrame:
    """The rows where the condition is true, and those with a fault.

    On a changelog a before-image whose after-image leaves is a delete, and an after-image whose
    before-image was not there is an insert.
    """
    import polars as pl

    if not lowering.changelog:
        return frame.filter(lowering.keep(condition))
    frame = frame.with_columns(lowering.sound(condition).fill_null(False).alias("__dataflare_pass"))
    kind, passes = pl.col(KIND_COLUMN), pl.col("__dataflare_pass")
    is_before, is_after = kind == RowKind.UPDATE_BEFORE, kind == RowKind.UPDATE_AFTER
    alone_before = is_before & ~(passes & is_after).shift(-1, fill_value=False)
    alone_after = is_after & ~(passes & is_before).shift(1, fill_value=False)
    parted = (
        pl.when(alone_before)
        .then(pl.lit(RowKind.DELETE, pl.UInt8))
        .when(alone_after)
        .then(pl.lit(RowKind.INSERT, pl.UInt8))
        .otherwise(kind)
    )
    frame = frame.with_columns(parted.alias(KIND_COLUMN))
    return frame.filter(lowering.keep(passes)).drop("__dataflare_pass")


def without_updates(frame: pl.LazyFrame, lowering: Lowering) -> pl.LazyFrame:
    """The halves of updates as deletes and inserts: what a step does first that makes several rows of one."""
    import polars as pl

    if not lowering.changelog:
        return frame
    kind = pl.col(KIND_COLUMN)
    halves = (
        pl.when(kind == RowKind.UPDATE_BEFORE)
        .then(pl.lit(RowKind.DELETE, pl.UInt8))
        .when(kind == RowKind.UPDATE_AFTER)
        .then(pl.lit(RowKind.INSERT, pl.UInt8))
        .otherwise(kind)
    )
    return frame.with_columns(halves.alias(KIND_COLUMN))


def kinds_without_updates(arriving: Kinds) -> Kinds:
    """The row kinds after `without_updates`."""
    return after_parting(arriving) - UPDATES


class Select(RowOperator, StructABC, frozen=True):
    """Keep, order and rename columns. columns: new name and the incoming one."""

    step: str
    columns: tuple[tuple[str, str], ...]

    @property
    def reads(self) -> frozenset[str]:
        return frozenset(old for _, old in self.columns)

    @property
    def keeps_rows(self) -> bool:
        return True

    def output_schema(self, schema: Schema) -> Schema:
        return Schema(tuple(Field(new, schema[old]) for new, old in self.columns))

    def lower(self, frame: pl.LazyFrame, lowering: Lowering) -> pl.LazyFrame:
        import polars as pl

        renamed = [pl.col(old).alias(new) for new, old in self.columns]
        along = [pl.col(name) for name in travelling(frame) if name != UNCHANGED]
        return frame.select([*renamed, *along, *unchanged.renamed(frame, self.columns)])

    def required(self, needed: frozenset[str], incoming: Schema) -> frozenset[str]:
        return self.reads

    def only(self, needed: frozenset[str]) -> Select:
        left = tuple(pair for pair in self.columns if pair[0] in needed)
        return replace(self, columns=left or self.columns[:1])

    def describe(self) -> str:
        return "select " + ", ".join(n if n == o else f"{n} = {o}" for n, o in self.columns)


class Conform(RowOperator, StructABC, frozen=True):
    """Bring rows to a schema: order, missing columns as NULL, wider types. Never fails.

    inserts: say of each row that it is an insert, for it joins rows of a changelog.
    """

    step: str
    target: Schema
    source: Schema
    inserts: bool = False

    @property
    def reads(self) -> frozenset[str]:
        return frozenset(self.source.names)

    @property
    def keeps_rows(self) -> bool:
        return True

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
        if self.inserts:
            lowering.changelog = True
            made.append(pl.lit(RowKind.INSERT, pl.UInt8).alias(KIND_COLUMN))
        return frame.select(made + [pl.col(name) for name in travelling(frame)])

    def describe(self) -> str:
        return "conform to " + ", ".join(self.target.names)


def conformed(
    step: str, target: Schema, source: Schema, *, inserts: bool = False
) -> tuple[RowOperator, ...]:
    """What brings rows of one schema to another; nothing, where they are that already."""
    if source == target and not inserts:
        return ()
    return (Conform(step, target, source, inserts),)


def is_inserts(operators: tuple[RowOperator, ...]) -> bool:
    """Whether these rows are told to be inserts."""
    return any(isinstance(operator, Conform) and operator.inserts for operator in operators)


def travelling(frame: pl.LazyFrame) -> list[str]:
    """The reserved columns that go along whatever is selected."""
    return [name for name in frame.collect_schema().names() if name in TRAVELLING]


def quote(name: str) -> str:
    """A column as an expression."""
    return '"' + name.replace('"', '""') + '"'
