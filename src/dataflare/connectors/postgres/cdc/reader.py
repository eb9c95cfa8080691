"""The reader of tables and then of their changes.

Always true: a position is behind whole transactions; the rows of one that is longer than a batch say that no checkpoint
may be cut there. The server is told of this reader also while no rows are asked for.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from contextlib import AbstractContextManager
from typing import Any

import psycopg
from msgspec.structs import replace

from dataflare.connectors.postgres.cdc import objects, rewrites
from dataflare.connectors.postgres.cdc.connecting import begin, cancel, connected, readable, real
from dataflare.connectors.postgres.cdc.decoders import Decoders
from dataflare.connectors.postgres.cdc.following import Confirmed, Following
from dataflare.connectors.postgres.cdc.log import Assembler, Event, LoggedTable, Piece, Truncated
from dataflare.connectors.postgres.cdc.objects import KeptBytes
from dataflare.connectors.postgres.cdc.opening import check_published, checked, first_place
from dataflare.connectors.postgres.cdc.place import Place
from dataflare.connectors.postgres.cdc.ranges import Ranges
from dataflare.connectors.postgres.cdc.resyncing import Resyncs, truncation
from dataflare.connectors.postgres.cdc.server_time import ServerTime
from dataflare.connectors.postgres.cdc.snapshot import HeldSnapshot, Waiting
from dataflare.connectors.postgres.cdc.table_now import Files, as_it_is, unread_table
from dataflare.connectors.postgres.cdc.uncommitted import Uncommitted
from dataflare.connectors.postgres.cdc.wire import Replication
from dataflare.connectors.postgres.errors import postgres_errors
from dataflare.errors import DataFlareError, Retry
from dataflare.model.batch import SharedDataBatch
from dataflare.model.new_tables import TablesAppeared
from dataflare.model.progress import Position, Watermark
from dataflare.sdk.crashpoints import crash_point
from dataflare.sdk.source import EndOfSplit, SourceBatch
from dataflare.sdk.sql.changes import was_dropped
from dataflare.sdk.sql.log_reader import LogReader
from dataflare.sdk.sql.table_reads import TableReads
from dataflare.sdk.threads import in_thread

_BYTES = 8 << 20
_WAIT_S, _TELL_S, _MOVE_S, _BOUNDED_HOLD_S = 1.0, 1.0, 5.0, 0.02
_CHECK_S = 10.0
"""How often the publication is checked."""


class ChangeReader(LogReader[Place]):
    """place: where to go on; None: at the beginning."""

    ends_with = psycopg.errors.QueryCanceled

    def __init__(self, following: Following, place: Place | None, confirmed: Confirmed) -> None:
        super().__init__(following.step)
        self._following, self._place, self._confirmed = following, place, confirmed
        self._is_open = False
        self._opening: psycopg.Connection[Any] | None = None
        self._snapshot: HeldSnapshot | None = None
        self._reads: TableReads[int] | None = None
        self._files: Files | None = None
        self._resyncs = Resyncs(following.folder, following.tables, self.warnings)
        self._ranges = Ranges(following, self.warnings)
        self._replication: Replication | None = None
        self._uncommitted: Uncommitted | None = None
        self._assembler: Assembler | None = None
        self._decoders: Decoders | None = None
        self._reached = 0
        """Up to where the log was read."""
        self._telling: asyncio.Task[None] | None = None
        self._new_tables: list[str] = []
        """Those that came and were published: the run begins again with them, at a place between transactions."""
        self._time = ServerTime() if following.tells_time and following.until is None else None

    async def read_batch(self, rows_max: int) -> SharedDataBatch:
        if not self._is_open:
            await in_thread(self._locked, self._open)
            self._is_open = True
        if self._replication is not None and self._telling is None:
            self._telling = asyncio.create_task(self._tell())
        while True:
            if self._queue:
                found, self._place = self._next()
                return found
            batch = await self._of_tables(rows_max)
            if batch is not None:
                return batch
            if self._new_tables and not self._is_inside and self._problem is None:
                self._problem = TablesAppeared(self._following.step, self._new_tables)
            await self._end_with_problem()
            if await self._reads_again():
                await self._leave_log()
                continue
            if (batch := await self._of_range(rows_max)) is not None:
                return batch
            if self._has_ended():
                raise EndOfSplit
            is_idle = await in_thread(self._locked, self._pull, rows_max)
            if self._queue or self._problem is not None or self._has_ended():
                continue
            # A transaction that has not ended may come for long, with no rows to give.
            if self._time is not None and self._time.is_due:
                await in_thread(self._locked, self._ask_time)
            if not self._is_inside and self._should_move():
                return self._moved()
            if is_idle:
                await self._wait()

    @property
    def holds_time(self) -> bool:
        return not self._is_open or self._reads is not None

    def _is_committed(self, place: Place) -> bool:
        return self._confirmed.lsn >= place.lsn

    def position(self) -> Position:
        return Position({} if self._place is None else self._place.to_json())

    async def aclose(self) -> None:
        self._closed = True
        if self._telling is not None:
            self._telling.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._telling
        if self._reads is not None:
            await self._reads.aclose()
        opening = self._opening
        if opening is not None:
            await in_thread(cancel, opening)
        await in_thread(self._shut)

    def _shut(self) -> None:
        with self._lock:
            self._let_go()

    def _let_go(self) -> None:
        if self._replication is not None:
            self._confirmed.leave(self._replication)
            self._replication.close()
        for held in (self._snapshot, self._uncommitted, self._decoders, self._ranges):
            if held is not None:
                held.close()

    def _errors(self) -> AbstractContextManager[None]:
        return postgres_errors(self._following.server.label, self._following.label)

    # -- the beginning -----------------------------------------------------------------------------

    def _open(self) -> None:
        following, names = self._following, self._following.names
        if names is None:
            self._reads = TableReads([unread_table(each) for each in following.tables.values()])
            return
        self._replication = replication = connected(following, names)
        self._opening = db = following.server.connect(following.application)
        try:
            if self._place is None:
                opened = first_place(db, replication, following, names)
                crash_point("postgres.cdc.after_slot")
            else:
                opened = checked(db, replication, following, names, self._place)
            self._resyncs.look()
            self._ranges.look()
            self.warnings.update(dict.fromkeys(opened.warnings, 0))
            self._keep(objects.kept_bytes(db, names))
            self._resyncs.rewritten.update(opened.rewritten)
            self._go_on(db, opened.place, starts=True)
        finally:
            self._opening = None
            db.close()

    def _keep(self, kept: KeptBytes | None) -> None:
        """What the server keeps of its log."""
        names = self._following.names
        if kept is not None and names is not None:
            self.kept_bytes = kept.size
            self.warnings.update(dict.fromkeys(filter(None, [kept.doubt(names)]), 0))

    def _begin_tables(self, db: Any, place: Place) -> None:
        """Read the tables that are not read to their end, in a snapshot of now."""
        server, unread = self._following.server, place.unread
        sights = [part.sight for oid in unread for part in place.tables[oid].parts]
        places = [place.tables[oid] for oid in unread]
        is_first = any(not each.parts and not each.again for each in places)
        name = f"{self._following.application} (log) snapshot"
        waiting = Waiting(server, name, lambda: self._closed)
        self._files, storages = Files.of(db, unread), rewrites.storages(db, self._following, unread)
        self._snapshot = waiting.taken(db, sights, is_first=is_first)
        crash_point("postgres.cdc.after_snapshot")
        followed = {o: as_it_is(db, self._following.tables[o], server.label) for o in unread}
        for oid, each in followed.items():
            if not place.tables[oid].parts and place.tables[oid].after is None:
                begun = place.tables[oid].having(each.logged_columns, each.numbers)
                begun = replace(begun, storage=storages.get(oid))
                self._place = place = place.with_table(oid, begun)
        self._reads = TableReads(
            [
                unread_table(each, place.tables[oid], self._snapshot)
                for oid, each in followed.items()
            ]
        )

    def _check_files(self, table: int) -> None:
        if self._snapshot is not None and self._files is not None:
            followed, server = self._following.tables[table], self._following.server
            self._files.check(self._snapshot.connection, followed, server.label)

    def _follow(self, db: Any, place: Place) -> None:
        replication, names = self._replication, self._following.names
        assert replication is not None
        assert names is not None
        folder = self._following.folder
        # Pieces need room on this machine. A task elsewhere has none of the state's folder.
        in_pieces = replication.can_send_pieces and folder is not None and folder.is_dir()
        begin(replication, db, names, place.lsn, lambda: self._closed, in_pieces=in_pieces)
        self._confirmed.join(replication)
        timed = any(table.facts for table in self._following.tables.values())
        self._assembler = Assembler(place.lsn, timed=timed)
        self._uncommitted = Uncommitted(folder)
        self._decoders = Decoders(self._following)
        self._reached = place.lsn

    async def _reads_again(self) -> bool:
        place = self._place
        if place is None or self._is_inside or self._replication is None:
            return False
        if self._resyncs.may_look:
            await in_thread(self._resyncs.look)
            await in_thread(self._ranges.look)
        return bool(place.unread or self._resyncs.due(place))

    async def _of_range(self, rows_max: int) -> SourceBatch | None:
        """The next rows of a range that is read again, at a place between transactions."""
        if self._place is None or self._is_inside or self._replication is None:
            return None
        if self._ranges.due(self._place) is not None:
            await in_thread(self._locked, self._ranges.begin, self._place, lambda: self._closed)
        reached = max(self._reached, self._place.lsn)
        found = await self._ranges.read_batch(self._place, reached, rows_max)
        if found is None:
            return None
        batch, self._place = found
        return batch

    async def _leave_log(self) -> None:
        """Read tables that are to be read again, and then go on with the log."""
        if self._telling is not None:
            self._telling.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._telling
        await in_thread(self._locked, self._read_again)
        self._telling = asyncio.create_task(self._tell())

    def _read_again(self) -> None:
        following, place, names = self._following, self._place, self._following.names
        assert place is not None
        assert names is not None
        self._let_go()
        self._replication = connected(following, names)
        self._opening = db = following.server.connect(following.application)
        try:
            self._go_on(db, place)
        finally:
            self._opening = None
            db.close()

    def _go_on(self, db: Any, place: Place, *, starts: bool = False) -> None:
        """Read the tables that are not read to their end, and those that are due, behind a TRUNCATE of what was given; else
        the log. starts: as in `due`."""
        due = self._resyncs.due(place, starts=starts)
        self._place = place = self._resyncs.begin(place, due)
        if not place.unread:
            self._follow(db, place)
            return
        self._begin_tables(db, place)
        self._queue.extend((self._following.tables[oid].truncation, self._place) for oid in due)

    # -- the tables --------------------------------------------------------------------------------

    async def _of_tables(self, rows_max: int) -> SourceBatch | None:
        """The next rows that were there at the start; None where these were given."""
        reads = self._reads
        while reads is not None:
            rows = await reads.read_batch(rows_max)
            if rows is None:
                self._reads = None
                self._keep_warnings(reads.warnings)
                return await in_thread(
                    self._locked, self._tables_ended, reads.was_keyed and not self._resyncs.whole
                )
            await in_thread(self._locked, self._check_files, rows.id)
            if self._place is not None and self._snapshot is not None:
                after = None if rows.after is None else tuple(rows.after)
                there = self._place.tables[rows.id]
                there = there.read(after, rows.rows, self._snapshot.text, self._snapshot.lsn)
                self._place = self._place.with_table(rows.id, there)
            if rows.batch is not None:
                rows.batch.may_cut &= self._resyncs.may_cut(rows.id, rows.rows)
                return rows.batch
        return None

    def _tables_ended(self, was_keyed: bool) -> SourceBatch | None:
        following = self._following
        if following.names is None:
            return None
        assert self._place is not None
        assert self._snapshot is not None
        self._snapshot.close()
        self._snapshot = None
        db = following.server.connect(following.application)
        try:
            self._follow(db, self._place)
        finally:
            db.close()
        # Here a checkpoint may be cut again.
        wanted = following.has_event_time or not was_keyed
        return self._nothing() if wanted and following.until is None else None

    # -- the log -----------------------------------------------------------------------------------

    def _pull(self, rows_max: int) -> bool:
        """Take what has come. Whether there is nothing more now."""
        replication, assembler, place = self._replication, self._assembler, self._place
        uncommitted, is_idle = self._uncommitted, False
        assert replication is not None
        assert assembler is not None
        assert uncommitted is not None
        assert place is not None
        # Each message may be an update of two rows.
        most = max(1, rows_max // 2)
        hold_s = self.hold_s if self._following.until is None else max(self.hold_s, _BOUNDED_HOLD_S)
        if not uncommitted.has_more:
            received = replication.receive(most, _BYTES, hold_s)
            uncommitted.add(received)
            is_idle = not received.messages
        events = assembler.add(uncommitted.take())
        if assembler.held >= most:
            events += assembler.give_most()
        for event in events:
            if self._problem is None:
                try:
                    place = self._take(event, place, most)
                except DataFlareError as error:
                    self._problem = error.at(step=self._following.step)
        if not assembler.is_open and not uncommitted.has_more and self._problem is None:
            self._reached = max(self._reached, place.lsn, uncommitted.reached)
            if not self._queue and self._following.until is not None:
                place = place.moved(self._reached)
        if not self._queue:
            self._place = place
        return is_idle

    def _take(self, event: Event, place: Place, most: int) -> Place:
        """The place behind what came."""
        assert self._decoders is not None
        if isinstance(event, LoggedTable):
            columns = self._decoders.describe(event, place.tables)
            if columns is None:
                return place
            there, db = place.tables[event.id], self._decoders.connection()
            found = rewrites.look(db, self._following, {event.id: there})
            self.warnings.update(self._resyncs.note(found))
            if columns != there.columns:
                there = there.having(columns, self._decoders.numbers(event.id))
            return place.with_table(event.id, there)
        if isinstance(event, Truncated):
            for table in event.tables:
                if table in place.tables:
                    place, batch = truncation(self._following, event, table, place)
                    if batch is not None:
                        self._give([batch], place, None)
            return place
        return self._take_rows(event, place, most)

    def _take_rows(self, piece: Piece, place: Place, most: int) -> Place:
        assert self._decoders is not None
        batches: list[SourceBatch] = []
        for id_, (messages, transactions) in piece.by_table().items():
            decoder = self._decoders.of(id_)
            if decoder is None or place.tables[id_].reading:
                continue  # a table that is read again is read behind all of this
            self._ranges.note(id_, decoder, messages, transactions)
            for at in range(0, len(messages), most):
                batch = decoder.batch(
                    messages[at : at + most], transactions[at : at + most], place.tables[id_].parts,
                    piece.times,
                )  # fmt: skip
                if batch is not None:
                    batches.append(batch)
        return self._give(batches, place, piece.end)

    def _give(self, batches: list[SourceBatch], place: Place, end: int | None) -> Place:
        """Queue batches of the log. place: before them. end: the position behind them; None inside a transaction. Returns
        the place behind them."""
        behind = None if end is None else place.moved(end)
        self._found(batches, place, behind)
        return behind or place

    # -- waiting -----------------------------------------------------------------------------------

    def _has_ended(self) -> bool:
        if self._replication is None:
            return True
        if self._ranges.is_open:
            return False
        until, place = self._following.until, self._place
        if until is None or place is None:
            return False
        # Before that, changes that later snapshots saw are not there yet.
        return self._reached >= max(real(until), place.settled)

    def _should_move(self) -> bool:
        """Whether the position should move although there are no rows, so that the server may forget its log."""
        place = self._place
        if self._time is not None and self._time.reached(self._reached) is not None:
            return True
        return (
            self._following.until is None
            and place is not None
            and self._reached > place.lsn
            and time.monotonic() - self._moved_at > _MOVE_S
        )

    def _moved(self) -> SourceBatch:
        assert self._place is not None
        self._place = self._place.moved(self._reached)
        batch = self._nothing()
        if self._time is not None and (reached := self._time.reached(self._reached)) is not None:
            batch.watermark = Watermark(reached)
            self._time.told()
        return batch

    def _ask_time(self) -> None:
        assert self._time is not None
        assert self._decoders is not None
        self._time.ask(self._decoders.connection())

    def _nothing(self) -> SourceBatch:
        self._moved_at = time.monotonic()
        first = next(iter(self._following.tables.values()))
        return SourceBatch(first.truncation.frame.clear(), stream=first.stream)

    async def _wait(self) -> None:
        """Until the server sends something, or for a second."""
        replication = self._replication
        assert replication is not None
        if self._following.until is not None or self._time is not None:
            await in_thread(self._locked, lambda: replication.tell(wants_reply=True))
        await readable(replication.socket, _WAIT_S)

    async def _tell(self) -> None:
        """Tell the server in time, also while the steps behind are slow; and see whether it still gives the changes of
        the tables: of one that was dropped, or taken out of the publication, the log says nothing."""
        checked_at = time.monotonic()
        gone: set[int] = set()
        while self._problem is None:
            await asyncio.sleep(_TELL_S)
            assert self._replication is not None
            try:
                await in_thread(self._replication.tell_in_time)
            except DataFlareError:
                return  # the connection is lost, and the next read raises that
            if time.monotonic() - checked_at < _CHECK_S:
                continue
            checked_at, places = time.monotonic(), self._place.tables if self._place else {}
            try:
                checked_now = await in_thread(check_published, self._following, gone, places)
            except DataFlareError as error:
                if error.retry is Retry.NEVER:
                    self._problem = error.at(step=self._following.step)
                continue
            self._keep(checked_now.kept)
            self.warnings.update(self._resyncs.note(checked_now.looked))
            for oid in checked_now.gone:
                name = self._following.tables[oid].name
                self.warnings[was_dropped(name)] = 0
            gone |= checked_now.gone
            self.warnings.update(dict.fromkeys(checked_now.new.warnings, 0))
            self._new_tables += checked_now.new.names
