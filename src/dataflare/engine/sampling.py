"""Leave out some rows of sources while a run is degraded.

Always true: of any rows of one task, as many go on as their share says, give or take one, and evenly spread; what is left out is
counted in the epoch in which it would have gone on.
"""

from __future__ import annotations

from collections.abc import Callable

import polars as pl

from dataflare.engine.segments import Outcome
from dataflare.model.batch import KIND_COLUMN


class Sampling:
    """Of one run, for all of its sources; it lives over restarts. share: of rows that go on; None: all."""

    def __init__(self) -> None:
        self.share: float | None = None
        self.on_change: Callable[[float | None], None] | None = None
        """Called with each new share."""

    def set(self, share: float | None) -> None:
        if share != self.share:
            self.share = share
            if self.on_change is not None:
                self.on_change(share)


class Thinner:
    """Of one task. sampling: of its run."""

    def __init__(self, sampling: Sampling) -> None:
        self.sampling = sampling
        self._seen = 0

    def thin(self, outcome: Outcome, step: str) -> None:
        """Leave rows out, and count them for the step."""
        share = self.sampling.share
        if share is None:
            return
        kept: list[tuple[int, pl.DataFrame]] = []
        for edge, frame in outcome.frames:
            # Half of an update would leave a wrong row behind.
            if KIND_COLUMN not in frame.columns:
                fewer = frame[self._places(frame.height, share)]
                outcome.count_degraded(step, frame.height - fewer.height)
                frame = fewer
            kept.append((edge, frame))
        outcome.frames = kept

    def _places(self, rows: int, share: float) -> pl.Series:
        """Which of the next rows go on: those at which the number that may go on by then grows."""
        first, self._seen = self._seen, self._seen + rows
        allowed = (pl.int_range(first, first + rows + 1, eager=True) * share).floor()
        return allowed.diff().slice(1).gt(0).arg_true()
