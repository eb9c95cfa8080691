"""Read tables and their changes: the tables in parts, each part as it was at a place of the log, and the log from there on.

Always true: what was given of each table is the table up to the last key that was read, as it was at the position's place
of the log. So a run that goes on, and each next part, first reads the log up to the place of a new snapshot: of rows up to
that key it gives the changes, and it leaves out the rest, which the snapshot has.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import pymysql
from msgspec.structs import replace

from dataflare.connectors.mysql.cdc.batches import Batches, Behind, Table
from dataflare.connectors.mysql.cdc.checks import continued, end_of_log, is_another_log, refused
from dataflare.connectors.mysql.cdc.dump import Dump
from dataflare.connectors.mysql.cdc.events import Assembler, Change, Piece, Tracked, parts_of
from dataflare.connectors.mysql.cdc.following import Followed, Following, cut, new_columns
from dataflare.connectors.mysql.cdc.history import Columns, widens
from dataflare.connectors.mysql.cdc.lag import lag_of
from dataflare.connectors.mysql.cdc.log import Log
from dataflare.connectors.mysql.cdc.place import Place
from dataflare.connectors.mysql.cdc.ranges import Ranges
from dataflare.connectors.mysql.cdc.rereading import Rereading
from dataflare.connectors.mysql.cdc.standing import Standing, TableStanding
from dataflare.connectors.mysql.cdc.table_rows import KeyedRows, Snapshot, UnkeyedRows, keys_behind
from dataflare.connectors.mysql.connection import Db
from dataflare.connectors.mysql.errors import mysql_errors
from dataflare.errors import DataError, DataFlareError, Retry
from dataflare.model.batch import SharedDataBatch, truncation
from dataflare.model.new_tables import TablesAppeared
from dataflare.model.progress import Position
from dataflare.sdk.crashpoints import crash_point
from dataflare.sdk.source import EndOfSplit, SourceBatch
from dataflare.sdk.sql.changes import Committed, was_dropped
from dataflare.sdk.sql.log_reader import LogReader
from dataflare.sdk.sql.names import at_step
from dataflare.sdk.sql.table_reads import TableReads, Unread
from dataflare.sdk.threads import in_thread

_PART_ROWS = 1_000_000
"""After so many rows the snapshot is made anew, so that the server need not keep old versions of rows for long."""
_MOVE_S = 5.0
_LAG_S = 10.0
"""How often the server is asked how much of its log comes behind."""


class ChangeReader(LogReader[Standing]):
    ends_with = pymysql.MySQLError

    def __init__(self, following: Following, start: Standing, committed: Committed) -> None:
        super().__init__(following.step)
        self._following, self._committed = following, committed
        self._until, self._is_placed = following.until, False
        """Of the log of the server that is read; and whether the position is of that server."""
        self._log: Log | None = None
        self._snapshot: Snapshot | None = None
        self._reads: TableReads[str] | None = None
        self._leaves = False
        """Whether tables that were followed are to be read again, so that the log is left."""
        self._made: dict[str, Batches] = {}
        self._now: dict[str, Table] = {}
        self._asked_at = 0.0
        self._part_rows, self._may_part = 0, True
        self._rereading = Rereading(following, following.folder, self.warnings)
        self._ranges = Ranges(following, self.warnings)
        self._standing = self._rereading.taken_in(start)
        self._told: tuple[Mapping[str, TableStanding], Mapping[str, Any]] | None = None

    async def read_batch(self, rows_max: int) -> SharedDataBatch:
        while not self._queue:
            if self._reads is not None:
                batch = await self._of_tables(rows_max)
                if batch is not None:
                    return batch
                if self._queue:
                    continue
            if self._ranges.is_open and await self._of_range(rows_max):
                continue
            await self._end_with_problem()
            await in_thread(self._locked, self._advance, rows_max)
        batch, self._standing = self._next()
        return batch

    @property
    def holds_time(self) -> bool:
        return bool(self._standing.unread)

    def _is_committed(self, place: Standing) -> bool:
        return self._committed.position == place.to_json()

    def position(self) -> Position:
        standing = self._standing
        if self._told is None or self._told[0] is not standing.tables:
            self._told = standing.tables, standing.to_json()["tables"]
        place = {} if standing.place is None else standing.place.to_json()
        return Position({**place, "tables": self._told[1]})

    async def aclose(self) -> None:
        self._closed = True
        log = self._log
        if log is not None:
            log.db.abort()
        if self._reads is not None:
            await self._reads.aclose()
        await self._ranges.aclose()
        await in_thread(self._shut)

    def _shut(self) -> None:
        with self._lock:
            for held in (self._log, self._snapshot):
                if held is not None:
                    held.close()

    def _errors(self) -> AbstractContextManager[None]:
        return mysql_errors(self._following.server.label, self._following.label)

    def _known(self, error: Exception) -> DataFlareError | None:
        assert isinstance(error, pymysql.MySQLError)
        return refused(error, self._following.server.label)

    # -- where it is -------------------------------------------------------------------------------

    def _advance(self, rows_max: int) -> None:
        """Find the next rows, or wait for them for a while."""
        self._rereading.look()
        if self._log is None or not self._is_inside:
            asked = self._rereading.asked(self._standing)
            self._standing = self._standing.with_tables(asked)
            follows = self._log is not None and self._snapshot is None
            if asked or self._leaves or (follows and self._ranges.due(self._standing)):
                self._leave_log()
        if self._log is None:
            self._open_or_end()
        elif not self._take(rows_max):
            self._end_log()
        if self._log is not None and self._log.problem is not None:
            self._problem = self._log.problem.at(step=self._following.step)
        if self._log is not None and time.monotonic() - self._asked_at > _LAG_S:
            self._see_lag(self._log)
        if not self._queue and self._should_move():
            self._queue.append((self._nothing(), self._standing))

    def _leave_log(self) -> None:
        for held in (self._log, self._snapshot):
            if held is not None:
                held.close()
        self._log = self._snapshot = None
        self._leaves = False

    def _open_or_end(self) -> None:
        try:
            self._open()
        except DataFlareError as error:
            if self._given is None or error.retry is not Retry.NEVER:
                raise
            # What was given before is to be kept.
            self._problem = error.at(step=self._following.step)

    def _open(self) -> None:
        """Open what comes next: a snapshot of the tables, or the log. Nothing, where tables are to be read again first."""
        standing, due = self._standing, self._ranges.due(self._standing)
        if not standing.unread and due is None:
            if self._is_placed and self._has_ended(standing.place):
                raise EndOfSplit
            assert standing.place is not None
            db = self._connect()
            try:
                is_known = self._learn(db)
                place = self._placed(db, standing.place)
                if is_known and self._has_ended(place):
                    raise EndOfSplit
            except BaseException:
                db.close()
                raise
            if is_known:
                self._log = self._follow(db, place, self._until)
            else:
                db.close()
            return
        self._snapshot = snapshot = Snapshot(self._following.server, self._following.step)
        crash_point("mysql.cdc.after_snapshot")
        # From the first statement on a table keeps its columns until the snapshot ends.
        for name in standing.unread or [due[0] if due is not None else ""]:
            snapshot.hold(self._following.tables[name].reading.relation)
        if not self._learn(snapshot.db):
            self._leave_log()
        elif standing.place in (None, snapshot.place):
            self._is_placed = True
            self._begin_reads(snapshot)
        else:
            assert standing.place is not None
            place = self._placed(snapshot.db, standing.place)
            self._log = self._follow(self._connect(), place, snapshot.place)

    def _placed(self, db: Db, place: Place) -> Place:
        """A place as the server has it. Raises SystemError_ if its log does not go on there."""
        server, self._is_placed = self._following.server.label, True
        found = continued(db, place, server)
        if found is not place:
            self.warnings[is_another_log(server, place)] = 0
            if self._until is not None:
                self._until = end_of_log(db, server)
            self._standing = replace(self._standing, place=found)
        return found

    def _end_log(self) -> None:
        """The log was read up to its limit."""
        assert self._log is not None
        self._log.close()
        self._log = None
        if self._snapshot is not None:
            self._begin_reads(self._snapshot)

    def _begin_reads(self, snapshot: Snapshot) -> None:
        """The log was read up to the place of a snapshot."""
        if self._standing.unread:
            self._begin_tables(snapshot)
            return
        self._standing = replace(self._standing, place=snapshot.place)
        if (due := self._ranges.due(self._standing)) is not None:
            self._ranges.begin(*due, snapshot, self._nothing(due[0]))
        else:
            self._leave_log()

    async def _of_range(self, rows_max: int) -> bool:
        """Queue the next rows of a range that is read again."""
        found = await self._ranges.read_batch(self._standing, rows_max)
        if self._closed:
            raise EndOfSplit
        assert found is not None
        self._queue.append(found)
        if not self._ranges.is_open:
            snapshot, self._snapshot = self._snapshot, None
            assert snapshot is not None
            await in_thread(snapshot.close)
        return True

    def _has_ended(self, place: Place | None) -> bool:
        until = self._until
        return until is not None and place is not None and place.order >= until.order

    def _connect(self) -> Db:
        return self._following.server.connect(f"dataflare {self._following.step} log")

    def _follow(self, db: Db, place: Place, limit: Place | None) -> Log:
        try:
            dump = Dump(db, place, self._following.server_id)
        except BaseException:
            db.close()
            raise
        tracked = []
        for name, there in self._standing.tables.items():
            if there.has_begun and not there.gone:
                followed = self._following.tables[name]
                columns, table = there.columns, followed.table
                assert isinstance(columns, Columns)
                read = frozenset(name.casefold() for name in followed.read)
                tracked.append(
                    Tracked(
                        table.schema, table.name, columns, read, followed.reading.step,
                        followed.stream is not None, followed.not_truncated, self._following.copies,
                    )
                )  # fmt: skip
        tells = any(each.facts.names for each in self._following.tables.values())
        server, spelling = self._following.server.label, dump.spelling
        return Log(db, dump, Assembler(place, tracked, server, spelling, tells=tells), limit)

    def _learn(self, db: Db) -> bool:
        """Look at the columns of the tables now. Whether none of them is to be read again first."""
        tables, is_known = {}, True
        for name, followed in self._following.tables.items():
            there = self._standing.tables[name]
            if not there.gone:
                with at_step(followed.reading.step):
                    tables[name] = learned = self._learn_of(db, followed, there)
                    is_known &= learned.has_begun or not there.has_begun
        self._standing = self._standing.with_tables(tables)
        return is_known

    def _learn_of(self, db: Db, followed: Followed, there: TableStanding) -> TableStanding:
        """Where a table is, with its columns; it is read again if they are not those of the position. Raises DataError if they
        are not those of the plan."""
        relation, now = followed.reading.relation, followed.now(db, reads=there.reads)
        columns, columns_now = there.columns, now.described.columns
        if not there.has_begun or columns is None or columns == now.described.hash:
            columns = columns_now
        is_known = True
        for name in followed.read:
            column, logged = now.columns.get(name), columns_now.named(name)
            if column is None or logged is None or column != relation.column(name):
                raise DataError(
                    f"column '{name}' of {relation.label} was dropped, renamed or changed since the run began",
                    code="E0545",
                    help="run again: the run then has the columns that the table has now",
                )
            before = columns.named(name) if isinstance(columns, Columns) else None
            is_known &= not isinstance(columns, str)
            is_known &= before is None or before.equals(logged) or widens(before, logged)
        known = relation.names if followed.gives_new else None
        self._made[followed.name] = Batches(
            now, followed.reading.output, relation.key, followed.name, known,
            partial(self._look_again, followed),
        )  # fmt: skip
        self._now[followed.name] = now
        if not is_known:
            return self._rereading.of(followed.name, "it has other columns now", there)
        return replace(there, columns=columns)

    def _look_again(self, followed: Followed) -> Table:
        db = self._connect()
        try:
            return followed.now(db, reads=False)
        finally:
            db.close()

    # -- the tables --------------------------------------------------------------------------------

    def _begin_tables(self, snapshot: Snapshot) -> None:
        """Read the rows that the tables have in the snapshot, from the last keys on."""
        standing = self._standing = replace(self._standing, place=snapshot.place)
        if not self._following.copies:
            # Of a table that is new, only changes are wanted.
            new = {name: there for name, there in standing.tables.items() if there.is_new}
            read = {name: replace(there, reads=False) for name, there in new.items()}
            standing = self._standing = standing.with_tables(read)
        self._rereading.begin(standing)
        self._part_rows = 0
        self._reads = TableReads([self._unread(name, snapshot) for name in standing.unread])

    def _unread(self, name: str, snapshot: Snapshot) -> Unread[str]:
        followed, there, now = (
            self._following.tables[name],
            self._standing.tables[name],
            self._now[name],
        )
        reading, is_keyed = followed.with_new(now), bool(followed.reading.relation.key)
        start = {"after": there.after, "rows": there.rows}
        rows: Callable[[], Any] = partial(UnkeyedRows, reading, snapshot)
        if is_keyed:
            rows = partial(KeyedRows, reading, start, snapshot)
        new, given = new_columns(followed, now), followed.facts.of_table
        return Unread(name, followed.stream, rows, is_keyed, new, given)

    async def _of_tables(self, rows_max: int) -> SourceBatch | None:
        """The next rows of the tables; None behind the last one of the snapshot that is to be read."""
        reads = self._reads
        assert reads is not None
        while True:
            if self._part_rows >= _PART_ROWS and reads.may_stop and self._may_part:
                await self._leave_tables(reads)
                return None
            rows = await reads.read_batch(rows_max)
            if self._closed:
                raise EndOfSplit
            if rows is None:
                await self._leave_tables(reads)
                # Here a checkpoint may be cut again.
                return self._nothing() if self._rereading.end() or not reads.was_keyed else None
            there = self._standing.tables[rows.id].read(rows.after, rows.rows, rows.batch is None)
            self._standing = self._standing.with_tables({rows.id: there})
            if self._rereading.begins(rows.id):
                self._queue.append((self._truncation(rows.id), self._standing))
                self._may_part = False
                if rows.batch is not None:
                    rows.batch.may_cut = False
                    self._queue.append((rows.batch, self._standing))
                return None
            if rows.batch is not None:
                self._part_rows += rows.batch.num_rows
                self._may_part = self._rereading.may_cut(rows.id, rows.rows)
                rows.batch.may_cut &= self._may_part
                return rows.batch

    async def _leave_tables(self, reads: TableReads[str]) -> None:
        self._reads = None
        await reads.aclose()
        self._keep_warnings(reads.warnings)
        snapshot, self._snapshot = self._snapshot, None
        if snapshot is not None:
            await in_thread(snapshot.close)

    # -- the log -----------------------------------------------------------------------------------

    def _take(self, rows_max: int) -> bool:
        """Take what has come. False where the log was read up to its limit."""
        log = self._log
        assert log is not None
        piece = log.next(self.hold_s)
        behind = self._behind_of(piece)
        batches = []
        for name, changes in piece.by_table().items():
            try:
                for part in parts_of(changes):
                    if part is None:
                        batches.append(self._truncation(name))
                    else:
                        batches += self._batches(name, part, log.end, rows_max)
            except DataFlareError as error:
                # The statement behind may be why these rows are not those of the table now.
                if name not in piece.again:
                    raise log.problem or error from error.__cause__
        self._found(batches, self._standing, None if piece.end is None else behind)
        if not batches:
            self._standing = behind
        return bool(piece.changes) or not log.has_ended

    def _behind_of(self, piece: Piece) -> Standing:
        if piece.end is None:
            return self._standing
        for name in piece.gone:
            self.warnings[was_dropped(name)] = 0
        is_same = all(
            self._standing.tables[name].columns is each for name, each in piece.columns.items()
        )
        if is_same and not piece.gone and not piece.again:
            return replace(self._standing, place=piece.end)
        self._leaves = bool(piece.again)
        behind = self._standing.behind(piece.end, piece.columns, piece.gone)
        return self._rereading.with_other_rows(behind, piece.again)

    def _batches(
        self, name: str, changes: Sequence[Change], end: Place, rows_max: int
    ) -> list[SourceBatch]:
        """The rows of the changes of one table."""
        followed = self._following.tables[name]
        with at_step(followed.reading.step):
            decoded = self._made[name].decode(changes, self._behind(name))
        if not decoded.frame.height and not decoded.bad:
            return []
        label = f"{followed.reading.relation.label}, log up to {end}"
        return cut(
            decoded, changes, rows_max, followed, lambda row: f"{label}, row {row + 1} of its batch"
        )

    def _nothing(self, name: str = "") -> SourceBatch:
        """No rows, of any table."""
        name = name or next(iter(self._made))
        followed = self._following.tables[name]
        frame = followed.facts.of_table(self._made[name].nothing)
        return SourceBatch(frame, stream=followed.stream)

    def _truncation(self, name: str) -> SourceBatch:
        nothing = self._nothing(name)
        frame = truncation(nothing.frame.schema)
        return SourceBatch(frame, stream=nothing.stream, may_cut=False)

    def _behind(self, name: str) -> Behind | None:
        """Which keys of a table its reader has not reached; None once it is done."""
        there = self._standing.tables[name]
        if not there.reads:
            return None
        assert there.after is not None
        assert self._snapshot is not None
        reading = self._following.tables[name].reading
        return partial(keys_behind, KeyedRows(reading, {}, self._snapshot), there.after)

    def _see_lag(self, log: Log) -> None:
        """See how much of the log comes behind, and whether tables came. What cannot be found out now is asked for later."""
        self._asked_at, server = time.monotonic(), self._following.server.label
        try:
            with mysql_errors(server, "the size of its log"):
                db = self._connect()
                try:
                    lag = lag_of(db, log.end, log.assembler.second)
                    new = None if self._until else self._following.new_tables(db)
                finally:
                    db.close()
        except DataFlareError as error:
            if error.retry is Retry.NEVER:
                raise
            return
        self.kept_bytes = lag.size
        if new is not None:
            self.warnings.update(dict.fromkeys(new.warnings, 0))
        if new is not None and new.names and self._problem is None and not self._is_inside:
            self._problem = TablesAppeared(self._following.step, new.names)
        if (doubt := lag.doubt(server)) is not None:
            self.warnings[doubt] = 0

    def _should_move(self) -> bool:
        """Whether the position should move although there are no rows, so that the server may forget its log."""
        return (
            self._following.until is None
            and self._snapshot is None
            and self._log is not None
            and not self._is_inside
            and time.monotonic() - self._moved_at > _MOVE_S
        )
