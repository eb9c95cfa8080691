"""How far the log is read by the server's clock, so that event time moves while nothing is changed.

Always true: no change that is still to come was committed before the time that is told.
"""

from __future__ import annotations

import time

from dataflare.connectors.postgres.catalog import Connection
from dataflare.connectors.postgres.cdc.wire import lsn_of

_ASK = "select pg_current_wal_insert_lsn()::text, (extract(epoch from clock_timestamp()) * 1000000)::bigint"
_ASK_S = 1.0
_MARGIN_US = 1_000_000
"""A transaction takes the time of its commit a moment before it writes the commit to the log."""


class ServerTime:
    def __init__(self) -> None:
        self._end, self._clock_us = 0, 0
        """The end of the log, and the clock then; 0: not asked since the last time was told."""
        self._asked_at = -_ASK_S

    @property
    def is_due(self) -> bool:
        return time.monotonic() - self._asked_at > _ASK_S

    def ask(self, db: Connection) -> None:
        """Blocking. Raises psycopg's errors."""
        row = db.execute(_ASK).fetchone()
        assert row is not None
        if not self._clock_us:
            self._end, self._clock_us = lsn_of(str(row[0])), int(row[1])
        self._asked_at = time.monotonic()

    def reached(self, lsn: int) -> int | None:
        """The event time behind which all that comes is, where the log was read up to a position; None where that is not known."""
        return self._clock_us - _MARGIN_US if self._clock_us and lsn >= self._end else None

    def told(self) -> None:
        self._clock_us = 0
