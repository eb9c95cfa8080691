"""The part of a step in an epoch, and how much of it is in the open transaction. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl
from msgspec import Struct, field

from dataflare.sdk.sql.redo import RedoFile
from dataflare.sdk.sql.store import Target


class Share(Struct, frozen=True):
    """The part of one step in an epoch: its sealed rows and their target. rows_total: of the run,
    with these."""

    target: Target
    folder: Path
    file: RedoFile
    rows_total: int

    @property
    def rows_before(self) -> int:
        return self.rows_total - self.file.rows


class Member(Struct):
    """The state of a step. held: rows not yet written. copied: whether rows of the running epoch are
    in the transaction; taken: how many. cold: whether the running epoch must be applied from its
    redo file. last: the last epoch that was prepared. prepared: shares that wait for their commit,
    by epoch; inside: the epoch that is in the open transaction. committed: the last epoch that the
    database is known to have."""

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
    committed: int = 0

    def hold(self, frame: pl.DataFrame, num_bytes: int) -> None:
        self.held.append(frame)
        self.held_rows += frame.height
        self.held_bytes += num_bytes

    def drop_held(self) -> None:
        self.held.clear()
        self.held_rows = self.held_bytes = 0

    def end_epoch(self) -> None:
        """The next rows are of another epoch."""
        self.copied = self.cold = False
        self.taken = 0

    def cool(self) -> None:
        """The copied rows are lost: the redo file has them."""
        if self.copied:
            self.cold = True
            self.drop_held()
        self.copied, self.taken, self.inside = False, 0, None


def alike(frames: Sequence[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """The frames, with adjacent ones of the same schema joined."""
    group: list[pl.DataFrame] = []
    for frame in frames:
        if group and group[0].schema != frame.schema:
            yield pl.concat(group, rechunk=False)
            group = []
        group.append(frame)
    yield pl.concat(group, rechunk=False)
