"""One writing session per database and attempt at a run: the transaction that all its steps share.

Always true:
- the redo files are authoritative; the open transaction only avoids reading them again: it may be lost at any time (with the connection, with the server, by an error that can be retried). The call that notices it raises; when it is repeated, it begins another transaction from the redo files;
- rows are copied while they arrive, but only rows of the transaction's epoch: rows of the next epoch that arrive between `prepare` and `commit` wait in memory, and beyond some megabytes only in the redo file;
- a transaction is committed with the marker of every step whose rows are in it. The first `commit` call
  of an epoch commits all of them; that is right because the engine calls it only after the manifest
  that names all committables was published.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from weakref import WeakValueDictionary

import polars as pl
from msgspec.structs import replace

from dataflare.connectors.postgres.connection import Server
from dataflare.connectors.postgres.errors import is_lost, postgres_errors
from dataflare.connectors.postgres.shares import Member, Share, alike
from dataflare.connectors.postgres.store import PostgresStore
from dataflare.errors import CheckpointError, DataFlareError
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
from dataflare.sdk.sql.refusals import Refusal
from dataflare.sdk.sql.store import Target
from dataflare.sdk.sql.sweeping import Sweep

_COPY_ROWS = 50_000
_COPY_BYTES = 8 * 2**20
_WAITING_BYTES = 64 * 2**20


class Session:
    """All writes of one attempt to one database. Blocking; any thread may call it."""

    def __init__(self, server: Server, lineage: str, attempt: int) -> None:
        self._server, self._attempt = server, attempt
        self._name = f"dataflare {lineage.replace('-', '')[:8]} "
        self._lock = threading.RLock()
        self._store: PostgresStore | None = None
        self._begun = False
        self._broken: int | None = None
        self._members: dict[str, Member] = {}
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
        """Copy rows that are in the redo file already, or buffer them until they may be copied.
        rows_before: the rows that the run had written before this epoch."""
        with self._lock:
            member = self._member(target)
            member.target = target
            if member.cold:
                return
            member.held.append(frame)
            member.held_rows += frame.height
            member.held_bytes += num_bytes
            if self._closing is not None and member.last >= self._closing:
                if member.held_bytes > _WAITING_BYTES:
                    member.drop_held()
                    member.cold = True
            elif member.held_rows >= (rows_max or _COPY_ROWS) or member.held_bytes >= _COPY_BYTES:
                self._copy_held(member, rows_before)

    @property
    def _closing(self) -> int | None:
        """The epoch whose prepared rows are in the open transaction: rows of the next epoch may not
        be added before it is committed."""
        return max((m.inside for m in self._members.values() if m.inside is not None), default=None)

    def _copy_held(self, member: Member, rows_before: int) -> None:
        if not member.held:
            return
        member.copied = True  # or will be: after an error only the redo file has them
        with self._abandoning_on_error():
            store = self._opened()
            for frame in alike(member.held):
                store.copy(member.target, frame, rows_before, member.taken)
                member.taken += frame.height
            member.drop_held()

    def write_again(
        self, target: Target, frames: Callable[[], Iterator[pl.DataFrame]], rows_before: int
    ) -> None:
        """After `write` failed: copy all rows of the epoch so far. frames: returns them from the
        redo file that is not sealed yet."""
        with self._lock:
            member = self._member(target)
            waits = self._closing is not None and member.last >= self._closing
            if member.cold and not waits:
                self._copy_all(member, frames, rows_before)

    def _copy_all(
        self, member: Member, frames: Callable[[], Iterator[pl.DataFrame]], rows_before: int
    ) -> None:
        with self._abandoning_on_error():
            store, taken = self._opened(), 0
            for frame in frames():
                store.copy(member.target, frame, rows_before, taken)
                taken += frame.height
        member.drop_held()
        member.copied, member.taken, member.cold = True, taken, False

    def prepare(self, share: Share, epoch: int, *, final: bool) -> None:
        """Put all rows of the epoch into the transaction, and find every refusal."""
        with self._lock:
            crash_point("postgres.prepare.before_apply")
            member = self._member(share.target)
            member.last = epoch
            if not share.file.rows and not final:
                member.end_epoch()
                return
            if member.prepared or self._closing not in (None, epoch):
                self._rehearse(member, share, epoch, final=final)
                return
            self._copy_held(member, share.rows_before)
            if member.cold:
                self._apply(share, final=final)
            else:
                with self._abandoning_on_error():
                    self._settle(share, final=final)
            self._refuse_fenced(share, epoch)
            member.prepared[epoch] = share
            member.inside = epoch
            member.end_epoch()

    def settle(
        self, target: Target, frames: Callable[[], Iterator[pl.DataFrame]], rows_before: int
    ) -> list[Refusal]:
        """Put all rows so far into the transaction except the refused ones; returns these with
        their numbers in the epoch. frames: returns all rows of the epoch from the redo file that is
        not sealed yet."""
        with self._lock:
            member = self._member(target)
            if member.prepared or (self._closing is not None and member.last >= self._closing):
                # The epoch before is not committed: find the refusals, and commit both epochs from
                # their redo files later.
                self._abandon()
                for earlier in member.prepared.values():
                    self._apply(earlier, final=False)
                refused = self._sift(member, frames, rows_before)
                self._abandon()
                return refused
            self._copy_held(member, rows_before)
            if member.cold:
                return self._sift(member, frames, rows_before)
            with self._abandoning_on_error():
                self._opened().settle(target, final=False)
                return self._opened().refused(target.step)

    def _sift(
        self, member: Member, frames: Callable[[], Iterator[pl.DataFrame]], rows_before: int
    ) -> list[Refusal]:
        self._copy_all(member, frames, rows_before)
        with self._abandoning_on_error():
            store = self._opened()
            store.settle(member.target, final=False)
            return store.refused(member.target.step)

    def _apply(self, share: Share, *, final: bool) -> None:
        """Copy the epoch from its redo file."""
        with self._abandoning_on_error():
            store, target, taken = self._opened(), share.target, 0
            if share.file.refused:
                # The rows were accepted one by one, and may not be accepted together.
                target = replace(target, sift=True)
            for frame in redo.frames(share.folder, share.file):
                store.copy(target, frame, share.rows_before, taken)
                taken += frame.height
            self._settle(replace(share, target=target), final=final)
            for refusal in store.refused(target.step):
                raise refusal.error

    def _settle(self, share: Share, *, final: bool) -> None:
        sweep = self._opened().settle(share.target, final=final, left_out=share.file.left_out)
        if sweep is not None:
            self.sweeps[share.target.step] = sweep

    def _refuse_fenced(self, share: Share, epoch: int) -> None:
        with self._abandoning_on_error():
            decide(self._opened().read_marker(share.target), share.target, epoch)

    def _rehearse(self, member: Member, share: Share, epoch: int, *, final: bool) -> None:
        """An epoch is prepared after one that is not committed yet: find its refusals, and commit
        both from their redo files later."""
        self._abandon()
        for earlier in member.prepared.values():
            self._apply(earlier, final=False)
        self._apply(share, final=final)
        self._abandon()
        member.drop_held()
        member.end_epoch()
        member.prepared[epoch] = share

    # -- commits -----------------------------------------------------------------------------------

    def commit(self, share: Share, epoch: Epoch) -> None:
        """Make the rows and the marker visible, once."""
        with self._lock:
            member = self._member(share.target)
            if member.inside == epoch.number and self._store is not None:
                self._finish(epoch)
            else:
                self._commit_cold(share, epoch)

    def _commit_cold(self, share: Share, epoch: Epoch) -> None:
        target = share.target
        with self._abandoning_on_error():
            # If the answer to a COMMIT was lost, its transaction locks the row until it has ended.
            markers = self._opened().read_marker(target, lock=True)
            if decide(markers, target, epoch.number) is Verdict.DONE:
                self._end_epoch(target.step, epoch.number)
                self._rest_if_empty()
                return
        member = self._member(target)
        if any(m.copied or m.inside not in (None, epoch.number) for m in self._members.values()):
            # Rows of a later epoch must not be committed with it.
            self._abandon()
        self._apply(share, final=epoch.final)
        member.prepared[epoch.number] = share
        member.inside = epoch.number
        self._finish(epoch)

    def _finish(self, epoch: Epoch) -> None:
        """Write the markers of all steps in the transaction, and commit it."""
        with self._abandoning_on_error():
            store = self._opened()
            crash_point("postgres.commit.before_marker")
            inside = [m for m in self._members.values() if m.inside == epoch.number]
            for member in inside:
                share = member.prepared[epoch.number]
                self._move_marker(store, share, epoch)
            crash_point("postgres.commit.before_commit")
            store.commit()
        crash_point("postgres.commit.after_commit")
        for member in inside:
            self._end_epoch(member.target.step, epoch.number)
        self._rest()

    def _move_marker(self, store: PostgresStore, share: Share, epoch: Epoch) -> None:
        target = share.target
        markers = store.read_marker(target, lock=True)
        row = markers.own
        if decide(markers, target, epoch.number) is Verdict.DONE:
            raise CheckpointError(
                f"checkpoint {epoch.number} of step '{target.step}' is in {self._server.label} already, "
                "by another writer",
                code="E0705",
                step=target.step,
                help="let one run write at a time; to start over, use --fresh",
            )
        if row is not None and row.rows_total < share.rows_before:
            raise CheckpointError(
                f"{self._server.label} has {row.rows_total:,} rows of step '{target.step}', and "
                f"{share.rows_before:,} were committed: it was reset to an earlier state",
                code="E0705",
                step=target.step,
                notes=[
                    "a backup was restored, or a standby without the last transactions took over"
                ],
                help="check the rows of the table, then run with --fresh",
            )
        moved = MarkerRow(
            target.attempt, epoch.number, share.rows_total, epoch.manifest, target.token
        )
        store.write_marker(target, moved)

    def _end_epoch(self, step: str, epoch: int) -> None:
        member = self._members[step]
        member.prepared = {n: s for n, s in member.prepared.items() if n > epoch}
        if member.inside is not None and member.inside <= epoch:
            member.inside = None

    # -- beginnings and ends -----------------------------------------------------------------------

    def markers(self, target: Target) -> MarkerRows:
        """The marker rows of a step; creates nothing."""
        with self._lock, self._aside() as store:
            return store.read_marker(target)

    def is_missing(self, target: Target) -> bool:
        """Whether the target's table does not exist."""
        with self._lock, self._aside() as store:
            return store.is_missing(target)

    def is_empty(self, target: Target) -> bool:
        """Whether the table is missing or has no rows."""
        with self._lock, self._aside() as store:
            return store.is_empty(target)

    def supersede(self, target: Target, epoch: int) -> None:
        """Make the target's lineage the owner of its table; other lineages are fenced."""
        with self._lock, self._aside() as store:
            store.make_marker_table(target)
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
            self._members.pop(target.step, None)
            self._abandon()
            with self._aside() as store:
                store.end_older_sessions(self._name, self._attempt)
                store.make_marker_table(target)
                row = store.read_marker(target, lock=True).own
                if rows_kept is None and target.mode == "mirror":
                    store.clear_keys(target)
                if row is not None:
                    self._take_back(store, target, row, epoch, rows_kept)
                elif rows_kept is None:
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
        db = self._server.connect(f"{self._name}after")
        try:
            with postgres_errors(self._server.label, "the statement"):
                for statement in statements:
                    db.execute(statement.encode())
        finally:
            db.close()

    def _take_back(
        self,
        store: PostgresStore,
        target: Target,
        row: MarkerRow,
        epoch: int,
        rows_kept: int | None,
    ) -> None:
        free = target.mode != "append" or row.rows_total == 0
        moved = rewind_marker(row, target, epoch, can_rewind=free)
        if target.mode == "overwrite" and (rows_kept is None or row.epoch > epoch):
            staging = store.staging(target)
            if rows_kept and staging is None:
                raise CheckpointError(
                    f"table '{target.table}' was already replaced by checkpoint {row.epoch} and cannot be reset "
                    f"to checkpoint {epoch}",
                    code="E0705",
                    step=target.step,
                    help="run with --fresh to build it again",
                )
            if staging is not None:
                store.trim(staging, rows_kept or 0)
        marker = moved or row
        rows = row.rows_total
        if rows_kept is None:
            rows = 0
        elif row.epoch > epoch:
            rows = rows_kept
        store.write_marker(
            target, MarkerRow(target.attempt, marker.epoch, rows, marker.manifest, target.token)
        )

    def release(self, step: str) -> None:
        """Discard the rows that `step` has prepared and not committed."""
        with self._lock:
            if self._members.pop(step, None) is not None or not self._members:
                self._abandon()

    def _member(self, target: Target) -> Member:
        member = self._members.get(target.step)
        if member is None:
            member = self._members[target.step] = Member(target)
        return member

    @property
    def _name_now(self) -> str:
        return f"{self._name}{self._attempt}"

    def _opened(self) -> PostgresStore:
        """The open transaction; begins one if there is none."""
        if self._store is None:
            store = PostgresStore(self._server, self._name_now)
            try:
                store.begin()
                if self._broken is not None:
                    store.end_session(self._broken, self._name_now)
            except BaseException:
                store.close()
                raise
            self._store, self._begun, self._broken = store, True, None
        elif not self._begun:
            self._store.begin()
            self._begun = True
        return self._store

    def _rest(self) -> None:
        """After a commit: the connection stays open; its next transaction begins with the next
        rows."""
        self._begun = False

    def _rest_if_empty(self) -> None:
        """End a transaction without rows: it would keep locks on the objects that it has read."""
        if self._store is not None and not any(
            m.copied or m.inside is not None for m in self._members.values()
        ):
            self._store.rollback()
            self._begun = False

    def _abandon(self) -> None:
        """Close the transaction and its connection; all steps continue from redo files."""
        store, self._store, self._begun = self._store, None, False
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
            if self._store is not None and isinstance(error, DataFlareError) and is_lost(error):
                self._broken = self._store.backend
                # A new connection is enough: the first retry needs no policy and no wait.
                error.retry_after_s = 0.0
            self._abandon()
            raise

    @contextmanager
    def _aside(self) -> Iterator[PostgresStore]:
        """A separate transaction, rolled back unless it commits."""
        store = PostgresStore(self._server, f"{self._name}aside")
        try:
            store.begin()
            yield store
        finally:
            store.rollback()
            store.close()


_sessions: WeakValueDictionary[tuple[str, str, int], Session] = WeakValueDictionary()
_sessions_lock = threading.Lock()


def shared_session(server: Server, lineage: str, attempt: int) -> Session:
    """The only session of this process for a database and an attempt."""
    where = (server.conninfo, lineage, attempt)
    with _sessions_lock:
        session = _sessions.get(where)
        if session is None:
            session = _sessions[where] = Session(server, lineage, attempt)
        return session
