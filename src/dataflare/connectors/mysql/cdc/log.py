"""The log as it comes, up to a limit."""

from __future__ import annotations

import time
from collections import deque

from dataflare.connectors.mysql.cdc.dump import Dump
from dataflare.connectors.mysql.cdc.events import Assembler, Piece
from dataflare.connectors.mysql.cdc.place import Place
from dataflare.connectors.mysql.connection import Db
from dataflare.errors import DataFlareError

_BYTES = 8 << 20
_WAIT_S = 1.0
_BUSY_S = 0.1
"""How long changes are gathered while more of them have come already."""


class Log:
    """problem: why it cannot be followed from here on;
    everything before was given."""

    def __init__(self, db: Db, dump: Dump, assembler: Assembler, limit: Place | None) -> None:
        self.db, self.assembler = db, assembler
        self.problem: DataFlareError | None = None
        self._dump, self._limit = dump, limit
        self._events: deque[bytes] = deque()

    @property
    def end(self) -> Place:
        return self.assembler.end

    @property
    def has_ended(self) -> bool:
        limit = self._limit
        return limit is not None and self.assembler.end.order >= limit.order

    def next(self, hold_s: float) -> Piece:
        """The next changes. There may be none."""
        assembler, since = self.assembler, time.monotonic()
        while True:
            while self._events and not self._is_over:
                self._add(self._events.popleft())
                if assembler.held_bytes >= _BYTES:
                    return assembler.give()
            waited = time.monotonic() - since
            least, most = (
                (hold_s, max(hold_s, _BUSY_S)) if assembler.has_complete else (_WAIT_S, _WAIT_S)
            )
            if self._is_over or waited > most:
                break
            received = self._dump.receive(max(least - waited, 0.0))
            if not received:
                break
            self._events.extend(received)
        if assembler.is_open and not assembler.has_complete:
            return Piece([], assembler.columns, assembler.gone, assembler.again)
        return assembler.give()

    @property
    def _is_over(self) -> bool:
        return self.has_ended or self.problem is not None

    def _add(self, event: bytes) -> None:
        try:
            self.assembler.add(event)
        except DataFlareError as error:
            self.problem = error

    def close(self) -> None:
        self.db.abort()
        self.db.close()
