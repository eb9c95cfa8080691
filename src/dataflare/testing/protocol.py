"""The engine's side of the delivery protocol, as functions that a test calls, so that it can stop anywhere."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

import polars as pl
from msgspec import Struct, field

from dataflare.model.batch import SharedDataBatch
from dataflare.model.types import Schema
from dataflare.sdk.context import DestinationContext
from dataflare.sdk.destination import (
    Committable,
    Committer,
    DestinationConnector,
    Epoch,
    Marker,
    Writer,
)
from dataflare.testing.contract import hold, through_json

Committables = list[Committable]


class Play(Struct):
    """One lineage that writes to one place, in one or more attempts."""

    law: str
    make: Callable[[], DestinationConnector]
    redo: Path
    schema: Schema
    subtasks: int = 1
    lineage: str = field(default_factory=lambda: str(uuid.uuid4()))
    attempts: int = 0
    published: dict[int, Committables] = field(default_factory=dict)
    """By epoch, the committables in its manifest."""

    async def attempt(self, *, resume: int) -> Attempt:
        """Begin another attempt as the engine does: read the marker, clear what was written after epoch
        `resume`, commit that epoch again, open writers."""
        self.attempts += 1
        connector = self.make()
        await connector.validate(self.schema)
        committer = await connector.committer(self.context())
        attempt = Attempt(self, connector, committer, self.attempts)
        attempt.marker_before = await committer.marker()
        committables = self.published.get(resume, [])
        await committer.recover(resume, committables)
        if resume == 0:
            await committer.begin(0)
        else:
            await attempt.commit(resume)
        restored = {each.subtask: each for each in committables}
        for subtask in range(self.subtasks):
            context = self.context(subtask)
            attempt.writers.append(await connector.open(context, restored.get(subtask)))
        return attempt

    def context(self, subtask: int = 0) -> DestinationContext:
        return DestinationContext(
            step="tested",
            lineage=self.lineage,
            attempt=self.attempts,
            schema=self.schema,
            redo=self.redo,
            subtask=subtask,
            subtasks=self.subtasks,
        )


class Attempt(Struct):
    """One attempt at a run: its writers and its committer."""

    play: Play
    connector: DestinationConnector
    committer: Committer
    number: int
    writers: list[Writer] = field(default_factory=list)
    marker_before: Marker | None = None

    async def write(self, frame: pl.DataFrame, size: int = 3) -> None:
        """Write rows in batches, to each writer in turn."""
        for turn, at in enumerate(range(0, frame.height, size)):
            batch = SharedDataBatch(frame.slice(at, size))
            stats = await self.writers[turn % len(self.writers)].write_batch(batch)
            message = f"{stats.rows} rows said to be written of {batch.num_rows}"
            hold(self.play.law, stats.rows == batch.num_rows, message)

    async def prepare(self, epoch: int, *, final: bool = False) -> Committables:
        """The committables of all writers, as they are read from a manifest."""
        committables = []
        for writer in self.writers:
            await writer.flush()
            committable = await writer.prepare(epoch, final=final)
            if committable is not None:
                value = through_json(self.play.law, committable.to_json())
                committables.append(Committable.from_json(value))
        return committables

    def publish(self, epoch: int, committables: Committables) -> None:
        """Publish the epoch: from now on it must be committed."""
        self.play.published[epoch] = committables

    async def commit(self, epoch: int) -> None:
        """Commit a published epoch."""
        await self.committer.commit(self.epoch(epoch), self.play.published[epoch])

    def epoch(self, number: int) -> Epoch:
        manifest = json.dumps({"epoch": number, "lineage": self.play.lineage})
        return Epoch(number, manifest, final=number == LAST)

    async def run(self, epochs: dict[int, pl.DataFrame]) -> None:
        """Write, publish and commit each epoch, in order."""
        for number, frame in epochs.items():
            await self.write(frame)
            self.publish(number, await self.prepare(number, final=number == LAST))
            await self.commit(number)

    async def close(self) -> None:
        """Close writers and committer, as the engine does after an error."""
        for writer in self.writers:
            await writer.aclose()
        await self.committer.aclose()


LAST = 3
"""The number of the final epoch of every play."""


def epochs_of(frame: pl.DataFrame) -> dict[int, pl.DataFrame]:
    """The rows in three epochs."""
    size = max(1, frame.height // LAST)
    cut: Sequence[tuple[int, int | None]] = ((0, size), (size, size), (2 * size, None))
    return {i + 1: frame.slice(at, length) for i, (at, length) in enumerate(cut)}
