"""One writer per database file: the transaction that several steps of this process share.

Always true:
- the redo files are authoritative; the open transaction only avoids reading them again: it may be rolled back at any time, and each step's `commit` then applies its own redo file;
- a transaction is committed with the marker of every step whose rows are in it, so after a crash a step's marker has the epoch if and only if the table has its rows;
- a shared transaction contains the rows of one epoch of one lineage. The first `commit` call commits all of them; that is right because the engine calls `commit` only after the manifest that names all
  committables of the epoch was published: the epoch is decided for every step of the run;
- if rows of another epoch or lineage are applied in it (to find refusals while the first ones are not committed yet), it is not committed: it is rolled back, and all steps commit from the redo files.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar
from weakref import WeakValueDictionary

import polars as pl
from msgspec import Struct

from dataflare.errors import CheckpointError
from dataflare.sdk.crashpoints import crash_point
from dataflare.sdk.destination import Epoch
from dataflare.sdk.sql import redo
from dataflare.sdk.sql.marker import (
    MarkerRow,
    MarkerRows,
    Verdict,
    decide,
    first_marker,
    rewind_marker,
)
from dataflare.sdk.sql.names import holds_data
from dataflare.sdk.sql.refusals import Refusal
from dataflare.sdk.sql.store import TableStore, Target
from dataflare.sdk.sql.sweeping import Sweep

T = TypeVar("T")


class Share(Struct, frozen=True):
    """The part of one step in an epoch: its sealed rows and their target."""

    target: Target
    folder: Path
    file: redo.RedoFile


class SharedFile:
    """All writes of this process to one database file. Blocking; any thread may call it."""

    def __init__(self, type_: str, path: Path, make_store: Callable[[], TableStore]) -> None:
        self._type, self._path, self._make_store = type_, path, make_store
        self._lock = threading.RLock()
        self._store: TableStore | None = None
        self._group: tuple[str, int] | None = None
        self._members: dict[str, tuple[Share, MarkerRow | None]] = {}
        self._settled: set[str] = set()
        self._spoiled = False
        self.sweeps: dict[str, Sweep] = {}
        """By step, how its last run's deletes ended."""

    def settle(
        self, target: Target, frames: Callable[[], Iterator[pl.DataFrame]], last: int
    ) -> list[Refusal]:
        """Apply rows that are not sealed yet, except those that the database refuses; returns
        these. frames: returns the rows. last: the last epoch that the step prepared, or 0."""
        with self._lock, self._abandoning_on_error():
            if self._store is None:
                self._begin()
            elif self._group is not None and (
                self._group[0] != target.lineage or self._group[1] <= last
            ):
                self._spoiled = True
            assert self._store is not None
            self._store.make_ready(target)
            refused, first = [], 0
            for frame in frames():
                more = self._store.sift(target, frame)
                refused += [Refusal(first + each.row, each.error) for each in more]
                first += frame.height
            self._settled.add(target.step)
            return refused

    def let_go(self, step: str) -> None:
        """Let other processes write: roll back the rows that `step` has settled but not prepared.
        They are applied again later."""
        with self._lock:
            if step in self._settled and not self._members:
                self._abandon()

    def prepare(self, share: Share, epoch: int, *, final: bool) -> None:
        """Apply the rows in the open transaction, so that errors of the database are raised now."""
        target = share.target
        with self._lock, self._abandoning_on_error():
            group = (target.lineage, epoch)
            if self._store is None:
                self._begin()
            if self._group is None:
                self._group = group
            elif self._group != group:
                self._spoiled = True
            crash_point(f"{self._type}.prepare.before_apply")
            assert self._store is not None
            markers = self._store.read_marker(target)
            if decide(markers, target, epoch) is Verdict.DONE:
                return
            self._apply(share, final=final)
            if self._group == group:
                self._members[target.step] = (share, markers.own)

    def commit(self, share: Share, epoch: Epoch) -> None:
        """Make the rows and the marker visible, once."""
        target = share.target
        with self._lock, self._abandoning_on_error():
            if self._holds(target, epoch.number):
                self._finish(epoch)
                return
            self._abandon()
            self._begin()
            assert self._store is not None
            markers = self._store.read_marker(target)
            if decide(markers, target, epoch.number) is Verdict.DONE:
                self._abandon()
                return
            self._apply(share, final=epoch.final)
            self._members[target.step] = (share, markers.own)
            self._finish(epoch)

    def markers(self, target: Target) -> MarkerRows:
        """The marker rows of a step; creates no file."""
        return self._look_up(target, lambda store: store.read_marker(target), MarkerRows())

    def is_missing(self, target: Target) -> bool:
        """Whether the target's table does not exist."""
        return self._look_up(target, lambda store: store.is_missing(target), True)

    def is_empty(self, target: Target) -> bool:
        """Whether the table is missing or has no rows."""
        return self._look_up(target, lambda store: store.is_empty(target), True)

    def _look_up(self, target: Target, look: Callable[[TableStore], T], missing: T) -> T:
        """The result of `look` on a store; `missing` if there is no file."""
        if not holds_data(self._path):
            return missing
        with self._lock, self._abandoning_on_error():
            self._abandon_if_member(target.step)
            opened_here = self._store is None
            if opened_here:
                self._begin()
            assert self._store is not None
            answer = look(self._store)
            if opened_here:
                self._abandon()
            return answer

    def supersede(self, target: Target, epoch: int) -> None:
        """Make the target's lineage the owner of its table; other lineages are fenced."""
        with self._lock, self._abandoning_on_error():
            self._abandon()
            self._begin()
            assert self._store is not None
            self._store.supersede(target)
            if self._store.read_marker(target).own is None:
                self._store.write_marker(target, first_marker(target, epoch))
            self._store.commit()
            self._abandon()

    def recover(self, target: Target, epoch: int, rows_kept: int | None) -> None:
        """Reset the marker to `epoch`, and remove rows of later epochs.

        rows_kept: the rows of the staging table at that epoch; None if none of its rows are valid,
        because the run has no checkpoint yet or was removed.
        """
        if not holds_data(self._path):
            return
        with self._lock, self._abandoning_on_error():
            self._abandon()
            self._begin()
            assert self._store is not None
            row = self._store.read_marker(target).own
            if row is not None:
                self._take_back(self._store, target, row, epoch, rows_kept)
                if rows_kept is None and target.mode == "mirror":
                    self._store.clear_keys(target)
                self._store.commit()
            self._abandon()

    def execute(self, statements: Sequence[str]) -> None:
        """Run a user's statements in one separate transaction."""
        with self._lock, self._abandoning_on_error():
            self._abandon()
            self._begin()
            assert self._store is not None
            for statement in statements:
                self._store.execute(statement)
            self._store.commit()
            self._abandon()

    def execute_alone(self, statements: Sequence[str]) -> None:
        """Run a user's statements one by one, without a transaction."""
        with self._lock:
            self._abandon()
            self._make_store().execute_alone(statements)

    def release(self, step: str) -> None:
        """Discard the rows that `step` has prepared and not committed."""
        with self._lock:
            self._abandon_if_member(step)

    def _take_back(
        self, store: TableStore, target: Target, row: MarkerRow, epoch: int, rows_kept: int | None
    ) -> None:
        can_rewind = target.mode != "append" or row.rows_total == 0
        moved = rewind_marker(row, target, epoch, can_rewind=can_rewind)
        if target.mode == "overwrite" and (rows_kept is None or row.epoch > epoch):
            if rows_kept is not None and not store.has_staging(target):
                raise CheckpointError(
                    f"table '{target.table}' was already replaced by checkpoint {row.epoch} and "
                    f"cannot be reset to checkpoint {epoch}",
                    code="E0705",
                    step=target.step,
                    help="run with --fresh to build it again",
                )
            store.trim(target, rows_kept or 0)
        if moved is not None:
            store.write_marker(target, moved)

    def _holds(self, target: Target, epoch: int) -> bool:
        return (
            self._store is not None
            and not self._spoiled
            and self._group == (target.lineage, epoch)
            and target.step in self._members
            and self._members[target.step][0].target.attempt == target.attempt
        )

    def _apply(self, share: Share, *, final: bool) -> None:
        assert self._store is not None
        if share.target.step in self._settled:
            self._settled.remove(share.target.step)
        else:
            self._store.make_ready(share.target)
            for frame in redo.frames(share.folder, share.file):
                self._store.apply(share.target, frame)
        if final and share.target.mode == "overwrite":
            self._store.publish(share.target)
        if final and share.target.sweeps:
            self._store.make_ready(share.target)
            left_out = share.file.left_out
            gone = self._store.sweep(share.target, delete=not left_out)
            self.sweeps[share.target.step] = Sweep(gone, left_out)

    def _finish(self, epoch: Epoch) -> None:
        assert self._store is not None
        crash_point(f"{self._type}.commit.before_marker")
        for share, row in self._members.values():
            before = row.rows_total if row is not None else 0
            target, rows = share.target, before + share.file.rows
            moved = MarkerRow(target.attempt, epoch.number, rows, epoch.manifest, target.token)
            self._store.write_marker(target, moved)
        crash_point(f"{self._type}.commit.before_commit")
        self._store.commit()
        crash_point(f"{self._type}.commit.after_commit")
        self._abandon()

    def _begin(self) -> None:
        self._store = self._make_store()
        self._store.begin()

    def _abandon_if_member(self, step: str) -> None:
        if step in self._members or step in self._settled:
            self._abandon()

    def _abandon(self) -> None:
        store, self._store, self._group, self._spoiled = self._store, None, None, False
        self._members.clear()
        self._settled.clear()
        if store is not None:
            store.rollback()
            store.close()

    @contextmanager
    def _abandoning_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self._abandon()
            raise


_files: WeakValueDictionary[tuple[str, str], SharedFile] = WeakValueDictionary()
_files_lock = threading.Lock()


def shared_file(type_: str, path: Path, make_store: Callable[[], TableStore]) -> SharedFile:
    """The only writer of this process for the file, by its real path."""
    where = (type_, str(path.resolve()))
    with _files_lock:
        file = _files.get(where)
        if file is None:
            file = _files[where] = SharedFile(type_, path, make_store)
        return file


def now_text() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
