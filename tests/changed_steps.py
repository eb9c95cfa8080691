"""A step that is changed between two checkpoints: its state is used as a run from a savepoint uses it."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from dataflare.checkpoint.manifest import OperatorSnapshot, StateChunk
from dataflare.engine.operating import share_of, snapshot_of
from dataflare.jobs.changes import StepChange, compared
from dataflare.jobs.from_savepoint import moved_state
from dataflare.operators.base import StatefulOperator
from dataflare.state.layout import Layout
from dataflare.state.pieces import Groups
from dataflare.state.tables import TableShare
from dataflare.testing.processors import InMemory


class Chunks:
    """The chunks of a checkpoint in memory, as a store has them."""

    def __init__(self) -> None:
        self._memory = InMemory()

    def read_chunk(self, chunk: StateChunk) -> pl.DataFrame:
        return self._memory.read(chunk)

    def write_chunk(self, name: str, frame: pl.DataFrame, key_groups: Groups | None) -> StateChunk:
        return self._memory.write(frame, key_groups)  # type: ignore[return-value]


def changed(
    old: tuple[StatefulOperator, Layout],
    new: tuple[StatefulOperator, Layout],
    shares: Sequence[TableShare],
) -> tuple[StepChange, list[TableShare]]:
    """What becomes of the state of a step, and that state. Without it if it is impossible."""
    snapshots = [snapshot_of(n, share, old[1]) for n, share in enumerate(shares)]
    change = compared("w", snapshots, old[1], new[1], new[0], None)
    if change.outcome == "impossible":
        return change, []
    if change.moves:
        moved: Sequence[OperatorSnapshot] = moved_state(
            new[0],
            new[1],
            change,
            snapshots,
            Chunks(),
            1,  # type: ignore[arg-type]
        )
    else:
        moved = snapshots
    return change, [share_of(each) for each in moved]
