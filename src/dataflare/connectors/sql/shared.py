"""One writer per database file: the transaction that several steps of this process share.

Always true:
- the redo files are the truth, the open transaction only spares reading them again: it may be rolled
  back at any time, and each step's `commit` then applies its own redo file;
- a transaction is committed with the marker of every step whose rows are in it, so after a crash a
  step's marker is at the epoch if and only if its rows are there;
- a shared transaction holds the rows of one epoch of one lineage. Its first `commit` call commits all
  of them, which is right because the engine calls `commit` only after the manifest that names all
  committables of the epoch was published: the epoch is decided for every step of the run;
- rows of another epoch or lineage that are applied on top (to find out refusals while the first are
  not committed yet) spoil it: it is rolled back, and everybody commits from the redo files.
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

from dataflare.connectors.sql import redo
from dataflare.connectors.sql.marker import (
    MarkerRows,
    Stored,
    Verdict,
    decide,
    first_marker,
    rewound,
)
from dataflare.connectors.sql.names import holds_data
from dataflare.connectors.sql.refusals import Refusal
from dataflare.connectors.sql.store import TableStore, Target
from dataflare.errors import CheckpointError
from dataflare.sdk.crashpoints import crash_point
from dataflare.sdk.destination import Epoch

T = TypeVar("T")


class Share(Struct, frozen=True):
    """What one step has in an epoch: its sealed rows and where they go."""

    target: Target
    folder: Path
    file: redo.RedoFile


class SharedFile:
    """All writing of this process to one database file. Blocking; any thread may call."""

    def __init__(self, type_: str, path: Path, make_store: Callable[[], TableStore]) -> None:
        self._type, self._path, self._make_store = type_, path, make_store
        self._lock = threading.RLock()
        self._store: TableStore | None = None
        self._group: tuple[str, int] | None = None
        self._members: dict[str, tuple[Share, Stored | None]] = {}
        self._settled: set[str] = set()
        self._spoiled = False

    def settle(
        self, target: Target, frames: Callable[[], Iterator[pl.DataFrame]], last: int
    ) -> list[Refusal]:
        """Apply rows that are not sealed yet, but for those that the database refuses; their numbers
        are returned. frames: gives the rows. last: the last epoch that the step prepared, or 0."""
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
                found = self._store.sift(target, frame)
                refused += [Refusal(first + each.row, each.error) for each in found]
                first += frame.height
            self._settled.add(target.step)
            return refused

    def let_go(self, step: str) -> None:
        """Others may write now: what `step` has settled and not prepared is applied again then."""
        with self._lock:
            if step in self._settled and not self._members:
                self._abandon()

    def prepare(self, share: Share, epoch: int, *, final: bool) -> None:
        """Apply the rows in the open transaction, so that whatever the database refuses is raised now."""
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
            found = self._store.read_marker(target)
            if decide(found, target, epoch) is Verdict.DONE:
                return
            self._apply(share, final=final)
            if self._group == group:
                self._members[target.step] = (share, found.own)

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
            found = self._store.read_marker(target)
            if decide(found, target, epoch.number) is Verdict.DONE:
                self._abandon()
                return
            self._apply(share, final=epoch.final)
            self._members[target.step] = (share, found.own)
            self._finish(epoch)

    def markers(self, target: Target) -> MarkerRows:
        """What the marker table says of a step, without making a file."""
        return self._looked_up(target, lambda store: store.read_marker(target), MarkerRows())

    def is_missing(self, target: Target) -> bool:
        """Whether there is no table of the target's name."""
        return self._looked_up(target, lambda store: store.is_missing(target), True)

    def is_empty(self, target: Target) -> bool:
        """Whether the table is missing or has no rows."""
        return self._looked_up(target, lambda store: store.is_empty(target), True)

    def _looked_up(self, target: Target, look: Callable[[TableStore], T], missing: T) -> T:
        """What a store tells; `missing` where there is no file."""
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
        """Make the target's lineage the owner of its table: others are fenced."""
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
        """Take the table's leftovers and the marker back to `epoch`.

        rows_kept: what the staging table held then; None when none of its rows count, for the run
        has no checkpoint yet, or is forgotten.
        """
        if not holds_data(self._path):
            return
        with self._lock, self._abandoning_on_error():
            self._abandon()
            self._begin()
            assert self._store is not None
            stored = self._store.read_marker(target).own
            if stored is not None:
                self._take_back(self._store, target, stored, epoch, rows_kept)
                if rows_kept is None and target.mode == "mirror":
                    self._store.forget_seen(target)
                self._store.commit()
            self._abandon()

    def execute(self, statements: Sequence[str]) -> None:
        """A user's statements, in a transaction of their own."""
        with self._lock, self._abandoning_on_error():
            self._abandon()
            self._begin()
            assert self._store is not None
            for statement in statements:
                self._store.execute(statement)
            self._store.commit()
            self._abandon()

    def execute_alone(self, statements: Sequence[str]) -> None:
        """A user's statements, each on its own, outside of any transaction."""
        with self._lock:
            self._abandon()
            self._make_store().execute_alone(statements)

    def release(self, step: str) -> None:
        """Give up what `step` has prepared and not committed."""
        with self._lock:
            self._abandon_if_member(step)

    def _take_back(
        self, store: TableStore, target: Target, stored: Stored, epoch: int, rows_kept: int | None
    ) -> None:
        can_rewind = target.mode != "append" or stored.rows_total == 0
        moved = rewound(stored, target, epoch, can_rewind=can_rewind)
        if target.mode == "overwrite" and (rows_kept is None or stored.epoch > epoch):
            if rows_kept is not None and not store.has_staging(target):
                raise CheckpointError(
                    f"table '{target.table}' was already replaced by epoch {stored.epoch} and cannot "
                    f"go back to epoch {epoch}",
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
            self._store.sweep(share.target)

    def _finish(self, epoch: Epoch) -> None:
        assert self._store is not None
        crash_point(f"{self._type}.commit.before_marker")
        for share, stored in self._members.values():
            before = stored.rows_total if stored is not None else 0
            target, rows = share.target, before + share.file.rows
            moved = Stored(target.attempt, epoch.number, rows, epoch.manifest, target.token)
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
    """The one writer of this process for the file, found by its real path."""
    where = (type_, str(path.resolve()))
    with _files_lock:
        found = _files.get(where)
        if found is None:
            found = _files[where] = SharedFile(type_, path, make_store)
        return found


def now_text() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
