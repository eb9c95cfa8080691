"""`sample`: keep a fraction of the rows; drawn by key, they are the same on every run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from dataflare.expr import ROWKEY_COLUMN
from dataflare.model.batch import CHANGES, INSERTS, Kinds
from dataflare.model.hashing import hash_columns
from dataflare.model.record import StructABC
from dataflare.model.types import Schema
from dataflare.operators.base import BindContext, Bound, Lowering, RowOperator, Step, StepConfig
from dataflare.operators.names import Name, known_columns, listed
from dataflare.operators.primitives import after_parting, kept

if TYPE_CHECKING:
    import polars as pl


class SampleConfig(StepConfig):
    fraction: float = Field(ge=0, le=1, description="Share of rows to keep, 0 to 1.")
    key: Name | list[Name] = Field(
        default_factory=list,
        description="Rows with the same values here stay or go together, on every run; without it each "
        "run draws each row anew.",
    )
    seed: int = Field(default=0, description="Another seed keeps other rows.")


class Sample(RowOperator, StructABC, frozen=True):
    step: str
    fraction: float
    key: tuple[str, ...]
    seed: int

    no_changes = ", because each row is drawn anew; with a key, the same rows stay"

    @property
    def reads(self) -> frozenset[str]:
        return frozenset(self.key) if self.key else frozenset((ROWKEY_COLUMN,))

    @property
    def accepts(self) -> Kinds:
        return CHANGES if self.key else INSERTS

    def makes(self, arriving: Kinds) -> Kinds:
        return after_parting(arriving)

    def output_schema(self, schema: Schema) -> Schema:
        return schema

    def required(self, needed: frozenset[str], incoming: Schema) -> frozenset[str]:
        return needed | frozenset(self.key)

    def lower(self, frame: pl.LazyFrame, lowering: Lowering) -> pl.LazyFrame:
        import polars as pl

        if self.fraction >= 1:
            return frame
        columns = self.key or (ROWKEY_COLUMN,)
        frame = hash_columns(frame, columns, "__dataflare_hash", seed=self.seed)
        bound = pl.lit(int(self.fraction * 2**64), pl.UInt64)
        return kept(frame, pl.col("__dataflare_hash") < bound, lowering).drop("__dataflare_hash")

    def describe(self) -> str:
        return f"sample {self.fraction:.3g}"


class SampleStep(Step):
    type = "sample"
    Config = SampleConfig
    each_table = True
    summary = "Keep a fraction of the rows; drawn by key, the same ones each time."
    example = """\
type: sample
inputs: [orders]
config: {fraction: 0.1, key: [customer_id]}
"""

    @classmethod
    def bind(cls, config: SampleConfig, inputs: Sequence[Schema], context: BindContext) -> Bound:
        key = listed(config.key)
        known_columns(context.step, key, inputs[0])
        operator = Sample(context.step, config.fraction, tuple(map(str, key)), config.seed)
        return Bound(outputs={None: inputs[0]}, operators=(operator,))
