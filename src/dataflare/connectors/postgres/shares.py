"""What a step has in an epoch, and how much of it the open transaction holds. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl
from msgspec import Struct, field

from dataflare.connectors.sql.redo import RedoFile
from dataflare.connectors.sql.store import Target


class Share(Struct, frozen=True):
    """What one step has in an epoch: its sealed rows and where they go. rows_total: of the run, with
    these."""

    target: Target
    folder: Path
    file: RedoFile
    rows_total: int

    @property
    def rows_before(self) -> int:
        return self.rows_total - self.file.rows


class Member(Struct):
    """A step's part. held: rows not yet copied. copied: rows of the running epoch are in the
    transaction; taken: how many. cold: the running epoch is to be applied from its redo file. last: the last epoch
    that was prepared. prepared: what waits for its commit, by epoch; inside: the one that is in the
    open transaction."""

    target: Target
    held: list[pl.DataFrame] = field(default_factory=list)
    held_rows: int = 0
    held_bytes: int = 0
    copied: bool = False
    taken: int = 0
    cold: bool = False
    last: int = 0
    prepared: dict[int, Share] = field(default_factory=dict)
    inside: int | None = None

    def drop_held(self) -> None:
        self.held.clear()
        self.held_rows = self.held_bytes = 0

    def end_epoch(self) -> None:
        """The rows that come next are of another epoch."""
        self.copied = self.cold = False
        self.taken = 0

    def cool(self) -> None:
        """What was copied is lost: the redo file has it."""
        if self.copied:
            self.cold = True
            self.drop_held()
        self.copied, self.taken, self.inside = False, 0, None


def alike(frames: Sequence[pl.DataFrame]) -> list[pl.DataFrame]:
    """Neighbours of one schema joined."""
    made: list[pl.DataFrame] = []
    group: list[pl.DataFrame] = []
    for frame in frames:
        if group and group[0].schema != frame.schema:
            made.append(pl.concat(group, rechunk=False))
            group = []
        group.append(frame)
    return [*made, pl.concat(group, rechunk=False)]
