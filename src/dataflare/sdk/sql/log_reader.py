"""What readers of a server's log have in common: what was found and is to be given, and how they end.

Always true: no checkpoint is cut inside a transaction; before a reader ends with an error, a checkpoint has the rows
before it. Nothing here knows what a log looks like.
"""

from __future__ import annotations

import threading
import time
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, ClassVar, Generic, TypeVar

from dataflare.errors import DataFlareError
from dataflare.model.new_tables import TablesAppeared
from dataflare.sdk.source import EndOfSplit, SourceBatch, SplitReader
from dataflare.sdk.sql.changes import until_committed
from dataflare.sdk.sql.names import at_step

P = TypeVar("P")
T = TypeVar("T")


class LogReader(SplitReader, Generic[P]):
    """P: a place of the log. step: for errors."""

    ends_with: ClassVar[type[Exception]]
    """The errors of the driver that closing causes while something is asked for."""

    def __init__(self, step: str) -> None:
        self._step, self._lock, self._closed = step, threading.Lock(), False
        self._queue: deque[tuple[SourceBatch, P]] = deque()
        """What was found, each with the place behind it."""
        self._given: P | None = None
        """Behind the last rows of the log that were given."""
        self._is_inside = False
        """Whether the rows of a transaction that has not ended were given."""
        self._problem: DataFlareError | TablesAppeared | None = None
        self._moved_at = time.monotonic()
        self.warnings: dict[str, int] = {}

    # -- for subclasses ----------------------------------------------------------------------------

    @abstractmethod
    def _errors(self) -> AbstractContextManager[None]:
        """Makes DataFlare's errors of the driver's."""

    @abstractmethod
    def _is_committed(self, place: P) -> bool:
        """Whether a checkpoint has everything up to a place."""

    @abstractmethod
    def _nothing(self) -> SourceBatch:
        """No rows, behind which a checkpoint may be cut."""

    def _known(self, error: Exception) -> DataFlareError | None:
        """DataFlare's error for one of `ends_with` that concerns the log; None for another one."""
        return None

    # -- what was found ----------------------------------------------------------------------------

    def _next(self) -> tuple[SourceBatch, P]:
        """Of what was found, the first, with the place behind it."""
        batch, place = self._queue.popleft()
        self._given, self._moved_at = place, time.monotonic()
        return batch, place

    def _found(self, batches: list[SourceBatch], place: P, behind: P | None) -> None:
        """Take batches of the log. place: before them. behind: the place behind them; None inside a transaction."""
        if not batches and behind is not None and self._is_inside:
            # The rest of the transaction has no rows that are read, and now a checkpoint may be cut.
            batches.append(self._nothing())
        for batch in batches:
            batch.may_cut = False
            self._queue.append((batch, place))
        if batches:
            self._is_inside = behind is None
        if batches and behind is not None:
            batches[-1].may_cut = True
            self._queue[-1] = (batches[-1], behind)

    def _keep_warnings(self, told: Mapping[str, int]) -> None:
        for text, number in told.items():
            self.warnings[text] = self.warnings.get(text, 0) + number

    # -- how it ends -------------------------------------------------------------------------------

    @property
    def wants_checkpoint(self) -> bool:
        """What comes before a change that cannot be followed is to be kept."""
        return self._problem is not None and not self._queue

    async def _end_with_problem(self) -> None:
        """Raise the problem, if there is one, when what comes before is kept."""
        if self._problem is not None:
            given = self._given
            await until_committed(lambda: given is None or self._is_committed(given))
            raise self._problem

    def _locked(self, do: Callable[..., T], *values: Any) -> T:
        """Call it alone: one call after the other, and none once the reader is closed. Blocking."""
        with self._lock, at_step(self._step), self._errors():
            if self._closed:
                raise EndOfSplit
            try:
                return do(*values)
            except self.ends_with as error:
                if self._closed:
                    raise EndOfSplit from error
                known = self._known(error)
                if known is None:
                    raise
                raise known from error
