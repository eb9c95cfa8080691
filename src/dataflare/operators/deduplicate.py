"""`deduplicate`: the first row of each key."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import polars as pl
from pydantic import Field

from dataflare.errors import PlanError
from dataflare.model.record import StructABC
from dataflare.model.types import Schema
from dataflare.operators.base import (
    BindContext,
    Bound,
    LiveOperator,
    Snapshot,
    StatefulOperator,
    Step,
    StepConfig,
)
from dataflare.operators.names import (
    Name,
    known_columns,
    listed,
    no_doubles,
    not_empty,
    spot_of,
)
from dataflare.state.keyset import KeySet
from dataflare.state.partials import own_rows


class DeduplicateConfig(StepConfig):
    key: Name | list[Name] = Field(description="Rows with the same values here are the same row.")
    within: Name | None = Field(
        default=None,
        description="How long a key is remembered, in event time; for ever if not given.",
    )


class Deduplicate(StatefulOperator, StructABC, frozen=True):
    step: str
    keys: tuple[str, ...]
    passes_rows = True

    def open(self, subtask: int, subtasks: int) -> LiveOperator:
        return LiveDeduplicate(self.keys, subtask, subtasks)

    def describe(self) -> str:
        return f"deduplicate by {', '.join(self.keys)}"


class LiveDeduplicate(LiveOperator):
    """NULL keys form one key, as in GROUP BY."""

    def __init__(self, keys: tuple[str, ...], subtask: int, subtasks: int) -> None:
        self.keys, self.subtask, self.subtasks = keys, subtask, subtasks
        self.seen = KeySet(keys)

    def process(self, frame: pl.DataFrame) -> Iterable[pl.DataFrame]:
        firsts = frame.unique(subset=list(self.keys), keep="first", maintain_order=True)
        fresh = firsts.filter(~self.seen.contains(firsts))
        if fresh.height:
            self.seen.add(fresh.select(self.keys))
            return [fresh]
        return []

    def snapshot(self) -> Snapshot:
        return Snapshot(self.seen.frames())

    def restore(self, snapshots: Sequence[Snapshot]) -> None:
        for snapshot in snapshots:
            for frame in snapshot.frames.values():
                self.seen.add(own_rows(frame, self.keys, self.subtask, self.subtasks))

    def state_bytes(self) -> int:
        return self.seen.num_bytes()


class DeduplicateStep(Step):
    type = "deduplicate"
    Config = DeduplicateConfig
    summary = "Keep the first row of each key."
    example = """\
type: deduplicate
inputs: [events]
config: {key: [event_id]}
"""

    @classmethod
    def bind(
        cls, config: DeduplicateConfig, inputs: Sequence[Schema], context: BindContext
    ) -> Bound:
        keys = listed(config.key)
        not_empty(context.step, "a `key`", keys)
        known_columns(context.step, keys, inputs[0])
        no_doubles(context.step, keys)
        if config.within is not None:
            raise PlanError(
                f"step '{context.step}': `within` needs event time, which this version cannot do yet",
                code="E0314",
                step=context.step,
                spot=spot_of(config.within),
                help="leave `within` out: keys are then remembered for the whole run",
            )
        return Bound(
            outputs={None: inputs[0]},
            stateful=Deduplicate(context.step, tuple(map(str, keys))),
        )
