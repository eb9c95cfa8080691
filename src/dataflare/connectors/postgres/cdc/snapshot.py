"""Snapshots in which the table is read, behind the slot's position.

Always true: what a snapshot does not see comes later in the log of the slot. A transaction's commit may stand in the log
before others see it (it waits for a standby), so a first snapshot is taken only when the transactions that were open at
the slot's position have ended, and a later one only when it sees all that earlier ones saw.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from msgspec import Struct

from dataflare.connectors.postgres.catalog import Connection
from dataflare.connectors.postgres.cdc.sight import Sight
from dataflare.connectors.postgres.cdc.wire import lsn_of
from dataflare.connectors.postgres.connection import Server
from dataflare.errors import Retry, SystemError_

_LOOK_S, _WAIT_S = 0.1, 300.0
_NOW = "select txid_current_snapshot()::text"


class HeldSnapshot:
    """Kept open by a connection of its own. text: what it sees. lsn: the log up to here has all that it sees."""

    def __init__(self, server: Server, name: str) -> None:
        self._db: Connection | None = server.connect(name)
        server.begin(self._db, "isolation level repeatable read read only")
        row = self._db.execute(
            "select pg_export_snapshot(), txid_current_snapshot()::text, pg_current_wal_insert_lsn()::text"
        ).fetchone()
        assert row is not None
        self._id, self.text, self.lsn = str(row[0]), str(row[1]), lsn_of(str(row[2]))

    def take(self, server: Server, name: str) -> str:
        """As SharedSnapshot."""
        return self._id

    @property
    def connection(self) -> Connection:
        """The one that keeps it open."""
        assert self._db is not None
        return self._db

    def close(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            db.close()


class Waiting(Struct, frozen=True):
    """is_closed: whether the reader is not wanted any more."""

    server: Server
    name: str
    is_closed: Callable[[], bool]

    def taken(self, db: Connection, seen: Sequence[Sight], *, is_first: bool) -> HeldSnapshot:
        """A snapshot that sees all that these saw. is_first: and every transaction whose commit is in the log now, or
        which was open when its table was published. Raises psycopg's errors."""
        if is_first:
            before = _now(db)
            self._until(lambda: before.open & _now(db).open)
        held: list[HeldSnapshot] = []

        def lacking() -> frozenset[int]:
            while held:
                held.pop().close()
            held.append(HeldSnapshot(self.server, self.name))
            sight = Sight.of(held[0].text)
            return frozenset().union(*(sight.lacks_of(each) for each in seen))

        self._until(lacking)
        return held[0]

    def _until(self, lacking: Callable[[], frozenset[int]]) -> None:
        end = time.monotonic() + _WAIT_S
        while numbers := lacking():
            if self.is_closed() or time.monotonic() > end:
                shown = ", ".join(map(str, sorted(numbers)[:5]))
                raise SystemError_(
                    f"{self.server.label} has transactions that are open for minutes: {shown}; what they write could "
                    "not be told from what the snapshot has",
                    code="E0605",
                    retry=Retry.LATER,
                    help="end them (pg_stat_activity, backend_xid), or wait",
                )
            time.sleep(_LOOK_S)


def _now(db: Any) -> Sight:
    return Sight.of(db.execute(_NOW).fetchone()[0])
