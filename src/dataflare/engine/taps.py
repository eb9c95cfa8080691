"""Look at some of the rows that go over an edge of a run, while it runs.

Always true: rows and their order are as without a look; a tap that is not read, or that gets more rows than it may, drops
rows and never waits. A look that fails is ended, and the run goes on.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import polars as pl

from dataflare.expr import Typed

RATES = (0.01, 10_000.0)
"""The lowest and the highest rate of a look, in rows a second."""
_LOOKED_MAX = 2_000
"""Of each batch, the condition is asked for so many rows at most."""
_BATCHES_MAX = 64
_LOOKS_PER_S = 10
"""It takes rows of so many batches a second: what is shown of a batch costs half a millisecond, however few its rows are."""


class Tap:
    """One look. edges: those whose rows it takes. where: only rows for which this is true. per_s: how many rows a second at
    most, within RATES. hide: what is done to a frame before it is shown. error: that ended it."""

    def __init__(
        self,
        edges: Sequence[int],
        per_s: float,
        where: Typed | None = None,
        hide: Callable[[pl.DataFrame], pl.DataFrame] = lambda frame: frame,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        assert RATES[0] <= per_s <= RATES[1], per_s
        self.edges = frozenset(edges)
        self.error: Exception | None = None
        self.where, self.per_s, self.hide, self._now = where, per_s, hide, now
        self._credit, self._credited_at = max(1.0, per_s), now()
        self._found: queue.Queue[pl.DataFrame | None] = queue.Queue(_BATCHES_MAX)

    def take(self, frame: pl.DataFrame) -> None:
        """Rows go over one of its edges. Called on the event loop."""
        if not self._may_take(self.per_s / _LOOKS_PER_S):
            return
        frame = frame.head(_LOOKED_MAX)
        if self.where is not None:
            frame = frame.filter(self.where.lower().value)
        frame = frame.head(int(self._credit))
        if frame.height:
            self._credit -= frame.height
            self._found.put_nowait(self.hide(frame))

    def show(self, frame: pl.DataFrame) -> None:
        """Rows that another process has taken for this look. Called on the event loop."""
        if self._may_take(1.0):
            frame = frame.head(int(self._credit))
            self._credit -= frame.height
            self._found.put_nowait(frame)

    def _may_take(self, rows: float) -> bool:
        """Whether so many rows, or one, may be shown now."""
        now = self._now()
        most = max(1.0, self.per_s)
        self._credit = min(most, self._credit + (now - self._credited_at) * self.per_s)
        self._credited_at = now
        return self._credit >= max(1.0, rows) and not self._found.full()

    def taken(self) -> Iterator[pl.DataFrame]:
        """What was taken since the last call, for one that does not wait."""
        while True:
            try:
                found = self._found.get_nowait()
            except queue.Empty:
                return
            if found is not None:
                yield found

    def end(self) -> None:
        """Nothing more comes."""
        try:
            self._found.put_nowait(None)
        except queue.Full:
            self._found.get_nowait()
            self._found.put_nowait(None)

    def rows(self, patience_s: float) -> Iterator[pl.DataFrame | None]:
        """What was taken, for another thread; None after so long without rows. Ends with the run."""
        while True:
            try:
                found = self._found.get(timeout=patience_s)
            except queue.Empty:
                yield None
                continue
            if found is None:
                return
            yield found


class Taps:
    """All looks at a run. Of its event loop. by_edge: those that take rows of an edge."""

    def __init__(self) -> None:
        self.by_edge: dict[int, list[Tap]] = {}

    def __bool__(self) -> bool:
        return bool(self.by_edge)

    def add(self, tap: Tap) -> None:
        for edge in tap.edges:
            self.by_edge.setdefault(edge, []).append(tap)

    def remove(self, tap: Tap) -> None:
        kept: Mapping[int, list[Tap]] = {
            edge: [each for each in taps if each is not tap] for edge, taps in self.by_edge.items()
        }
        self.by_edge = {edge: taps for edge, taps in kept.items() if taps}

    def take(self, edge: int, frame: pl.DataFrame) -> None:
        """Rows go over an edge."""
        for tap in self.by_edge.get(edge, ()):
            try:
                tap.take(frame)
            except Exception as error:  # whatever it is, the run must go on
                tap.error = error
                tap.end()
                self.remove(tap)

    def end(self) -> None:
        """The attempt has ended."""
        for tap in {each for taps in self.by_edge.values() for each in taps}:
            tap.end()
        self.by_edge = {}
