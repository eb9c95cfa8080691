"""What happens to values for columns that a destination lacks (`settings.schema_change`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dataflare.errors import PlanError, did_you_mean
from dataflare.model.record import StructABC
from dataflare.model.types import Schema
from dataflare.operators.base import Lowering, RowOperator
from dataflare.operators.primitives import conformed

if TYPE_CHECKING:
    import polars as pl

UNFORESEEN = 251
"""The error kind of a row that has a value for a column which the destination lacks."""


class Unforeseen(RowOperator, StructABC, frozen=True):
    """Rows that have a value in one of these columns become dead letters."""

    step: str
    columns: tuple[str, ...]

    @property
    def reads(self) -> frozenset[str]:
        return frozenset(self.columns)

    @property
    def can_fail(self) -> bool:
        return True

    def output_schema(self, schema: Schema) -> Schema:
        return schema

    def lower(self, frame: pl.LazyFrame, lowering: Lowering) -> pl.LazyFrame:
        import polars as pl

        kind = pl.lit(UNFORESEEN, pl.UInt8)
        faults = [
            (f"column '{name}'", pl.when(pl.col(name).is_not_null()).then(kind), "dead_letter")
            for name in self.columns
        ]
        return lowering.mark(frame, self.step, faults)

    def describe(self) -> str:
        return f"without values in {', '.join(self.columns)}"


def refuse_change(step: str, lacking: Sequence[str], known: Schema) -> PlanError:
    """The error of `schema_change: fail`."""
    names = ", ".join(f"'{name}'" for name in lacking)
    here = [name for name in known.names if name not in lacking]
    return PlanError(
        f"step '{step}' writes to a table without the column {names}, and schema_change is fail",
        code="E0323",
        step=step,
        notes=[f"columns that reach it and are there: {', '.join(here)}"],
        help=did_you_mean(lacking[0], here)
        or f"add the column, leave it out with map: drop: [{lacking[0]}], or set schema_change",
    )


def without(
    step: str, lacking: Sequence[str], target: Schema, source: Schema, *, letters: bool
) -> tuple[RowOperator, ...]:
    """What brings rows to the columns that are there. letters: rows with values in the others become
    dead letters; else these values are left out."""
    found = tuple(name for name in lacking if name in source)
    watch: tuple[RowOperator, ...] = (Unforeseen(step, found),) if letters and found else ()
    return (*watch, *conformed(step, target, source))
