"""The part of a step in an epoch, and how much of it is in the open transaction."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl
from msgspec import Struct, field

from dataflare.model.batch import KIND_COLUMN
from dataflare.model.unchanged import UNCHANGED, filled
from dataflare.sdk.sql.fold import parted_at_truncations
from dataflare.sdk.sql.redo import RedoFile
from dataflare.sdk.sql.store import TableStore, Target


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

    def wait(self, share: Share, epoch: int, *, inside: bool) -> None:
        """The epoch is prepared, and waits for its commit. inside: it is in the open transaction."""
        self.prepared[epoch] = share
        self.inside = epoch if inside else None
        self.end_epoch()

    def cool(self) -> None:
        """The copied rows are lost: the redo file has them."""
        if self.copied:
            self.cold = True
            self.drop_held()
        self.copied, self.taken, self.inside = False, 0, None


def alike(frames: Sequence[pl.DataFrame], *, rechunk: bool = False) -> Iterator[pl.DataFrame]:
    """The frames, with adjacent ones of the same schema joined."""
    group: list[pl.DataFrame] = []
    for frame in frames:
        if group and group[0].schema != frame.schema:
            yield pl.concat(group, rechunk=rechunk)
            group = []
        group.append(frame)
    if group:
        yield group[0] if len(group) == 1 else pl.concat(group, rechunk=rechunk)


def write_parts(
    store: TableStore, target: Target, frame: pl.DataFrame, rows_before: int, first: int
) -> None:
    """Write rows, and empty the table at the place of each TRUNCATE. first: the number of the first row in the epoch."""
    for place, rows in parted_at_truncations(frame) if not target.op else [(0, frame)]:
        if rows is not None and UNCHANGED in rows.columns:
            _write_marked(store, target, rows, rows_before, first + place)
        elif rows is not None:
            store.write(target, rows, rows_before, first + place)
        elif target.mode == "mirror":
            store.empty(target)


def _write_marked(
    store: TableStore, target: Target, frame: pl.DataFrame, rows_before: int, first: int
) -> None:
    """Write rows of which some leave out values that did not change."""
    frame = filled(frame, target.key)
    if UNCHANGED not in frame.columns:
        store.write(target, frame, rows_before, first)
        return
    lacks = frame[UNCHANGED].is_not_null()
    # Of the rows with its key only others that lack the value come before one that lacks it.
    is_last = frame.select(pl.struct(target.key).is_last_distinct()).to_series()
    for start, stop in _runs(~lacks) if target.sift else [(0, frame.height)]:
        rows = frame[start:stop].filter(~lacks[start:stop]).drop(UNCHANGED)
        if rows.height:
            store.write(target, rows, rows_before, first + start)
    last = frame.filter(lacks & is_last).drop(KIND_COLUMN)
    for rows in last.partition_by(UNCHANGED, maintain_order=True):
        store.update(target, rows.drop(UNCHANGED, *rows[UNCHANGED][0]))


def _runs(flags: pl.Series) -> list[tuple[int, int]]:
    """Where the flag is true: from the first place to behind the last one."""
    runs: list[tuple[int, int]] = []
    for place in flags.arg_true().to_list():
        if runs and runs[-1][1] == place:
            runs[-1] = (runs[-1][0], place + 1)
        else:
            runs.append((place, place + 1))
    return runs
