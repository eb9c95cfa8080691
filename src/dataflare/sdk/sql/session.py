"""The transaction that the steps of a run share: one for each database.

Always true:
- the redo files are authoritative; the open transaction only avoids reading them again: it may be lost at any time (with the connection, by an error that can be retried, because another run needs the file). Each call then goes on from the redo files;
- a transaction has the rows of one epoch of one attempt at a run. Rows of the next epoch that arrive between `prepare` and `commit` wait in memory, and beyond some megabytes only in the redo file; an epoch that is prepared before the last one is committed is tried, rolled back, and committed from its redo file;
- a transaction is committed with the marker of every step whose rows are in it, so after a crash a step's marker has the epoch if and only if the table has its rows. The first `commit` call of an epoch commits all of them; that is right because the engine calls it only after the manifest that names all committables was published.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from typing import TypeVar
from weakref import WeakValueDictionary

import polars as pl
from msgspec.structs import replace

from dataflare.errors import DataFlareError
from dataflare.sdk.bisection import Refusal
from dataflare.sdk.crashpoints import crash_point
from dataflare.sdk.destination import Epoch
from dataflare.sdk.sql import redo
from dataflare.sdk.sql.marker import (
    MarkerRows,
    Verdict,
    decide,
    first_marker,
    next_marker,
)
from dataflare.sdk.sql.rewinding import take_back
from dataflare.sdk.sql.shares import Member, Share, alike, write_parts
from dataflare.sdk.sql.store import TableStore, Target, TransactionEnded
from dataflare.sdk.sql.sweeping import Sweep

T = TypeVar("T")
Frames = Callable[[], Iterator[pl.DataFrame]]

_WRITE_ROWS = 50_000
_WRITE_BYTES = 8 * 2**20
_WAITING_BYTES = 64 * 2**20


class Session:
    """All writes of this process to one database file, or of one attempt at a run to one server.
    Blocking; any thread may call it. make_store: a new store, not used yet; `aside`: for a transaction
    beside the shared one."""

    def __init__(self, type_: str, make_store: Callable[[bool], TableStore]) -> None:
        self._type, self._make_store = type_, make_store
        self.remote = make_store(True).remote
        self._lock = threading.RLock()
        self._store: TableStore | None = None
        self._begun = False
        self._broken: TableStore | None = None
        self._run: tuple[str, int, str] | None = None
        self._members: dict[tuple[tuple[str, int, str], str], Member] = {}
        self._markers: dict[str, MarkerRows] = {}
        self.sweeps: dict[str, Sweep] = {}
        """By step, how the deletes of a mirror ended."""

    # -- rows --------------------------------------------------------------------------------------

    def write(
        self,
        target: Target,
        frame: pl.DataFrame,
        num_bytes: int,
        rows_before: int,
        rows_max: int | None,
    ) -> None:
        """Write rows that are in the redo file already to a remote store, or hold them until they may be
        written. A file gets no rows before `settle` or `prepare`. rows_before: the rows that the run had
        written before this epoch."""
        if not self.remote:
            return
        with self._lock:
            member = self._member(target)
            if member.cold:
                return
            member.hold(frame, num_bytes)
            if self._waits(member):
                if member.held_bytes > _WAITING_BYTES:
                    member.drop_held()
                    member.cold = True
            elif member.held_rows >= (rows_max or _WRITE_ROWS) or member.held_bytes >= _WRITE_BYTES:
                self._write_held(member, rows_before)

    @property
    def _closing(self) -> int | None:
        """The epoch whose prepared rows are in the open transaction: rows of the next epoch may not
        be added before it is committed."""
        return max((m.inside for m in self._members.values() if m.inside is not None), default=None)

    def _waits(self, member: Member) -> bool:
        """Whether the member's rows are of the epoch after the one in the transaction."""
        return self._closing is not None and member.last >= self._closing

    def _write_held(self, member: Member, rows_before: int) -> None:
        if not member.held:
            return
        member.copied = True  # or will be: after an error only the redo file has them
        try:
            with self._abandoning_on_error():
                store = self._opened()
                for frame in alike(member.held):
                    write_parts(store, member.target, frame, rows_before, member.taken)
                    member.taken += frame.height
                member.drop_held()
        except TransactionEnded:
            pass  # the step is cold now: `settle` or `prepare` applies the redo file

    def write_again(self, target: Target, frames: Frames, rows_before: int) -> None:
        """After `write` failed: write all rows of the epoch so far. frames: returns them from the
        redo file that is not sealed yet."""
        with self._lock:
            member = self._member(target)
            if self.remote and member.cold and not self._waits(member):
                self._write_all(member, frames, rows_before)

    def _write_all(self, member: Member, frames: Frames, rows_before: int) -> None:
        taken = self._apply_frames(member.target, frames, rows_before)
        member.drop_held()
        member.copied, member.taken, member.cold = True, taken, False

    def _apply_frames(self, target: Target, frames: Frames, rows_before: int) -> int:
        """Write frames into the transaction; returns the number of their rows."""
        while True:
            try:
                with self._abandoning_on_error():
                    store, taken = self._opened(), 0
                    for frame in frames():
                        write_parts(store, target, frame, rows_before, taken)
                        taken += frame.height
                    return taken
            except TransactionEnded:
                continue  # each time the tables are closer to what the rows need

    def settle(self, target: Target, frames: Frames, rows_before: int, last: int) -> list[Refusal]:
        """Put all rows so far into the transaction except the refused ones; returns these with
        their numbers in the epoch. frames: returns all rows of the epoch from the redo file that is
        not sealed yet. last: the last epoch that the step prepared, or 0."""
        with self._lock:
            member = self._member(target)
            member.last = max(member.last, last)
            if member.prepared or self._waits(member):
                # The epoch before is not committed: find the refusals, and commit both epochs from
                # their redo files later.
                self.abandon()
                for earlier in member.prepared.values():
                    self._apply(earlier, final=False)
                refused = self._sift(member, frames, rows_before)
                self.abandon()
                return refused
            self._write_held(member, rows_before)
            if member.copied and not self.remote:
                self.abandon()  # rows may have come since an earlier call
            if not member.copied:
                return self._sift(member, frames, rows_before)
            settled = self._settled(target)
            return self._sift(member, frames, rows_before) if settled is None else settled

    def _sift(self, member: Member, frames: Frames, rows_before: int) -> list[Refusal]:
        while True:
            self._write_all(member, frames, rows_before)
            refused = self._settled(member.target)
            if refused is not None:
                return refused

    def _settled(self, target: Target) -> list[Refusal] | None:
        """The refused rows; None if the store had to end the transaction."""
        try:
            with self._abandoning_on_error():
                self._opened().settle(target, final=False)
                return self._opened().refused(target.step)
        except TransactionEnded:
            return None

    def let_go(self, target: Target) -> None:
        """Let other programs write: roll back rows that were settled and are not prepared yet. They
        are applied again later."""
        with self._lock:
            member = self._members.get((target.run, target.step))
            if member is not None and member.copied and self._closing is None:
                self.abandon()

    def prepare(self, share: Share, epoch: int, *, final: bool) -> None:
        """Put all rows of the epoch into the transaction, and find every refusal."""
        with self._lock:
            crash_point(f"{self._type}.prepare.before_apply")
            member = self._member(share.target)
            member.last = epoch
            if not share.file.rows and not final:
                member.end_epoch()  # there is nothing to commit
                return
            if member.prepared or self._closing not in (None, epoch):
                self._rehearse(member, share, epoch, final=final)
                return
            self._write_held(member, share.rows_before)
            if not (member.copied and self._settle(share, final=final)):
                self._apply(share, final=final)
            self._refuse_fenced(share.target, epoch)
            member.wait(share, epoch, inside=True)

    def _refuse_fenced(self, target: Target, epoch: int) -> None:
        """Raise an error if another run owns the table. The markers of all steps are read once in a
        transaction; the commit reads them again, and locks them."""
        with self._abandoning_on_error():
            if target.step not in self._markers:
                targets = [m.target for m in self._members.values() if m.target.run == target.run]
                found = self._opened().read_markers(targets, manifests=False)
                self._markers = {t.step: each for t, each in zip(targets, found, strict=True)}
            decide(self._markers[target.step], target, epoch)

    def _apply(self, share: Share, *, final: bool) -> None:
        """Write the epoch from its redo file."""
        target = share.target
        if share.file.refused and self.remote:
            # The rows were accepted one by one, and may not be accepted together.
            target = replace(target, sift=True)
        elif not self.remote:
            target = replace(target, sift=False)
        frames = partial(redo.frames, share.folder, share.file)
        self._apply_frames(target, frames, share.rows_before)
        while not self._settle(replace(share, target=target), final=final):
            self._apply_frames(target, frames, share.rows_before)
        with self._abandoning_on_error():
            for refusal in self._opened().refused(target.step):
                raise refusal.error

    def _settle(self, share: Share, *, final: bool) -> bool:
        """False if that ended the transaction, so that the rows must be applied again."""
        target, left_out = share.target, share.file.left_out
        try:
            with self._abandoning_on_error():
                sweep = self._opened().settle(target, final=final, left_out=left_out)
        except TransactionEnded:
            return False
        if sweep is not None:
            self.sweeps[target.step] = sweep
        return True

    def _rehearse(self, member: Member, share: Share, epoch: int, *, final: bool) -> None:
        """An epoch is prepared after one that is not committed yet: find its refusals, and commit
        both from their redo files later."""
        self.abandon()
        for earlier in member.prepared.values():
            self._apply(earlier, final=False)
        self._apply(share, final=final)
        self.abandon()
        member.drop_held()
        member.wait(share, epoch, inside=False)

    # -- commits -----------------------------------------------------------------------------------

    def commit(self, share: Share, epoch: Epoch) -> None:
        """Make the rows and the marker visible, once."""
        with self._lock:
            member = self._member(share.target)
            if member.committed >= epoch.number:
                return  # with another step's
            if member.inside == epoch.number and self._store is not None:
                self._finish(epoch)
            else:
                self._commit_cold(share, epoch)

    def _commit_cold(self, share: Share, epoch: Epoch) -> None:
        target = share.target
        member = self._member(target)
        with self._abandoning_on_error():
            # If the answer to a COMMIT was lost, its transaction locks the row until it has ended.
            markers = self._opened().read_marker(target, lock=True)
            if decide(markers, target, epoch.number) is Verdict.DONE:
                self._end_epoch(member, epoch.number)
                self._rest_if_empty()
                return
        if any(m.copied or m.inside not in (None, epoch.number) for m in self._members.values()):
            # Rows of a later epoch must not be committed with it.
            self.abandon()
        self._apply(share, final=epoch.final)
        member.prepared[epoch.number] = share
        member.inside = epoch.number
        self._finish(epoch)

    def _finish(self, epoch: Epoch) -> None:
        """Write the markers of all steps in the transaction, and commit it."""
        with self._abandoning_on_error():
            store = self._opened()
            crash_point(f"{self._type}.commit.before_marker")
            inside = [m for m in self._members.values() if m.inside == epoch.number]
            self._move_markers(store, inside, epoch)
            crash_point(f"{self._type}.commit.before_commit")
            store.commit()
        crash_point(f"{self._type}.commit.after_commit")
        for member in inside:
            self._end_epoch(member, epoch.number)
        self._rest()

    def _move_markers(self, store: TableStore, inside: Sequence[Member], epoch: Epoch) -> None:
        found = store.read_markers([m.target for m in inside], lock=True, manifests=False)
        moved = []
        for member, markers in zip(inside, found, strict=True):
            share, target = member.prepared[epoch.number], member.target
            row = next_marker(
                markers, target, epoch.number, label=store.label, rows_before=share.rows_before,
                committed=member.committed,
            )  # fmt: skip
            rows = row.rows_total + share.file.rows
            new = replace(row, epoch=epoch.number, rows_total=rows, manifest=epoch.manifest)
            moved.append((target, new))
        store.write_markers(moved)

    def _end_epoch(self, member: Member, epoch: int) -> None:
        member.prepared = {n: s for n, s in member.prepared.items() if n > epoch}
        member.committed = max(member.committed, epoch)
        if member.inside is not None and member.inside <= epoch:
            member.inside = None

    # -- beginnings and ends -----------------------------------------------------------------------

    def markers(self, target: Target) -> MarkerRows:
        """The marker rows of a step; creates nothing."""
        return self._look(lambda store: store.read_marker(target), MarkerRows())

    def is_missing(self, target: Target) -> bool:
        """Whether the target's table does not exist."""
        return self._look(lambda store: store.is_missing(target), True)

    def is_empty(self, target: Target) -> bool:
        """Whether the table is missing or has no rows."""
        return self._look(lambda store: store.is_empty(target), True)

    def _look(self, look: Callable[[TableStore], T], missing: T) -> T:
        """The result of `look` on a store; `missing` if there is no database."""
        with self._lock:
            if not self._make_store(True).is_there():
                return missing
            with self._aside() as store:
                return look(store)

    def supersede(self, target: Target, epoch: int) -> None:
        """Make the target's lineage the owner of its table; other lineages are fenced."""
        with self._lock, self._aside() as store:
            store.take_over(target)
            store.supersede(target)
            if store.read_marker(target, lock=True).own is None:
                store.write_marker(target, first_marker(target, epoch))
            store.commit()

    def recover(self, target: Target, epoch: int, rows_kept: int | None) -> None:
        """Reset the step's marker to `epoch`, remove its later rows, and fence older attempts.
        rows_kept: the rows that the run had written at that epoch; None if none of them are valid,
        because the run has no checkpoint yet or was removed.
        """
        with self._lock:
            self._forget(target)
            self.abandon()
            if not self._make_store(True).is_there():
                return
            with self._aside() as store:
                store.take_over(target)
                row = store.read_marker(target, lock=True).own
                if rows_kept is None and target.mode == "mirror":
                    store.clear_keys(target)
                if row is not None:
                    take_back(store, target, row, epoch, rows_kept)
                elif rows_kept is None and self.remote:
                    store.write_marker(target, first_marker(target, epoch))
                store.commit()

    def execute(self, statements: Sequence[str]) -> None:
        """Run a user's statements in one separate transaction."""
        with self._lock, self._aside() as store:
            for statement in statements:
                store.execute(statement)
            store.commit()

    def execute_alone(self, statements: Sequence[str]) -> None:
        """Run a user's statements one by one, without a transaction."""
        with self._lock:
            if not self.remote:
                self.abandon()
            with closing(self._make_store(True)) as store:
                store.execute_alone(statements)

    def release(self, target: Target) -> None:
        """Discard the rows that the step has prepared and not committed."""
        with self._lock:
            released = self._forget(target)
            if any(m.copied or m.inside is not None for m in released) or not self._members:
                self.abandon()

    def _forget(self, target: Target) -> list[Member]:
        """Remove the step, of this attempt and of older ones, from the members."""
        of_step = [
            (run, step)
            for run, step in self._members
            if step == target.step and run[0] == target.lineage and run[1] <= target.attempt
        ]
        return [self._members.pop(key) for key in of_step]

    # -- the store ---------------------------------------------------------------------------------

    def _member(self, target: Target) -> Member:
        if self._run != target.run:
            self.abandon()
            self._run = target.run
        member = self._members.setdefault((target.run, target.step), Member(target))
        member.target = target
        return member

    def _opened(self) -> TableStore:
        """The open transaction; begins one if there is none."""
        if self._store is None:
            store = self._make_store(False)
            try:
                store.begin()
                if self._broken is not None:
                    store.replace(self._broken)
            except BaseException:
                store.rollback()
                store.close()
                raise
            self._store, self._begun, self._broken = store, True, None
        elif not self._begun:
            self._store.begin()
            self._begun = True
        return self._store

    def _rest(self) -> None:
        """After a commit: a remote store stays open; its next transaction begins with the next rows."""
        self._begun = False
        self._markers.clear()
        if not self.remote:
            self.abandon()

    def _rest_if_empty(self) -> None:
        """End a transaction without rows: it would keep locks on the objects that it has read."""
        if self._store is not None and not any(
            m.copied or m.inside is not None for m in self._members.values()
        ):
            self._store.rollback()
            self._rest()

    def abandon(self) -> None:
        """End the transaction and its connection; all steps continue from their redo files."""
        with self._lock:
            self._end()

    def _end(self) -> None:
        store, self._store, self._begun = self._store, None, False
        self._markers.clear()
        for member in self._members.values():
            member.cool()
        if store is not None:
            store.rollback()
            store.close()

    @contextmanager
    def _abandoning_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            store = self._store
            if store is not None and isinstance(error, DataFlareError) and store.is_lost(error):
                self._broken = store
                # A new connection is enough: the first retry needs no policy and no wait.
                error.retry_after_s = 0.0
            self.abandon()
            raise

    @contextmanager
    def _aside(self) -> Iterator[TableStore]:
        """A separate transaction, rolled back unless it commits."""
        store = self._make_store(True)
        if not self.remote:
            self.abandon()
        try:
            store.begin()
            yield store
        finally:
            store.rollback()
            store.close()


_sessions: WeakValueDictionary[Hashable, Session] = WeakValueDictionary()
_sessions_lock = threading.Lock()


def shared_session(key: Hashable, type_: str, make_store: Callable[[bool], TableStore]) -> Session:
    """The only session of this process for a key: the file, or the server and the attempt at a run."""
    with _sessions_lock:
        session = _sessions.get(key)
        if session is None:
            session = _sessions[key] = Session(type_, make_store)
        return session
