"""Evaluate large expressions in stages, because Polars treats each expression as one tree.

Polars copies a part that is used twice, and walks trees by recursion. So n nested calls of a function
that reads its argument twice take 2^n steps, and a chain of ten thousand terms overflows its stack. A
part whose tree has grown to `TREE_MAX` therefore becomes a column, and the outer part reads that column.

Always true: an expression below that size does not change; stages read only columns that the expression
reads, and their own columns are removed at the end.
"""

from __future__ import annotations

from contextvars import ContextVar

import polars as pl
from msgspec import Struct

from dataflare.expr.lowered import Lowered
from dataflare.model.types import DataType

TREE_MAX = 2_000
"""Characters of a printed tree: some dozen operations. Polars takes a second for 20,000."""

_active: ContextVar[Stages | None] = ContextVar("stages", default=None)


class Step(Struct, frozen=True):
    name: str
    part: Lowered

    @property
    def outputs(self) -> list[pl.Expr]:
        columns = [self.part.value.alias(self.name)]
        if self.part.error is not None:
            columns.append(self.part.error.alias(f"{self.name}_error"))
        return columns


class Stages:
    """The stages of one expression while it is lowered."""

    def __init__(self) -> None:
        self.steps: list[Step] = []

    def __enter__(self) -> Stages:
        self.token = _active.set(self)
        return self

    def __exit__(self, *error: object) -> None:
        _active.reset(self.token)

    def bounded(self, part: Lowered, most: int = TREE_MAX) -> Lowered:
        """The part, or the column that it becomes because its tree is larger than `most`."""
        size = len(str(part.value)) + (0 if part.error is None else len(str(part.error)))
        if size <= most:
            return part
        step = Step(f"__dataflare_stage{len(self.steps)}", part)
        self.steps.append(step)
        error = None if part.error is None else pl.col(f"{step.name}_error")
        return Lowered(pl.col(step.name), error)

    def whole(self, last: Lowered, type_: DataType) -> Lowered:
        """The expression that evaluates the stages and then the last part."""
        if not self.steps:
            return last
        plan = _Plan(tuple(self.steps), last, type_.to_polars())
        if not plan.reads:
            row = plan(pl.DataFrame({"__dataflare_row": [0]}))
            value, error = (pl.lit(row.struct.field(name)).first() for name in ("value", "error"))
        else:
            result = pl.struct(plan.reads).map_batches(
                lambda column: plan(column.struct.unnest()),
                return_dtype=plan.dtype,
                is_elementwise=True,
            )
            value, error = result.struct.field("value"), result.struct.field("error")
        return Lowered(value, None if last.error is None else error)


def bounded(part: Lowered) -> Lowered:
    """The part, or its column if it is large. For functions that nest parts."""
    stages = _active.get()
    return part if stages is None else stages.bounded(part)


class _Plan:
    """The stages in order, and for each column the stage that reads it last."""

    def __init__(self, steps: tuple[Step, ...], last: Lowered, value: pl.DataType) -> None:
        none = pl.lit(None, dtype=pl.UInt8)
        final = [
            last.value.alias("value"),
            (last.error if last.error is not None else none).alias("error"),
        ]
        self.outputs = [*(step.outputs for step in steps), final]
        self.dtype = pl.Struct({"value": value, "error": pl.UInt8()})
        stage_columns = {name for exprs in self.outputs for name in map(_name, exprs)}
        roots = [
            {name for expr in exprs for name in expr.meta.root_names()} for exprs in self.outputs
        ]
        self.reads = sorted(set().union(*roots) - stage_columns)
        last_use = {
            name: place for place, names in enumerate(roots) for name in names & stage_columns
        }
        self.drops: list[list[str]] = [[] for _ in self.outputs]
        for name, place in last_use.items():
            self.drops[place].append(name)

    def __call__(self, frame: pl.DataFrame) -> pl.Series:
        for exprs, drops in zip(self.outputs, self.drops, strict=True):
            frame = frame.with_columns(exprs).drop(drops)
        return frame.select(pl.struct("value", "error").alias("made").cast(self.dtype)).to_series()


def _name(expr: pl.Expr) -> str:
    return expr.meta.output_name()
