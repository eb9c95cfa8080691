"""Up to which watermark the windows of each key group have fired.

All subtasks of a step usually know the same watermark at a checkpoint. Where they do not (one is ahead with the
end of its input), a run with another parallelism brings key groups with different watermarks into one subtask.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from dataflare.model.event_time import NEVER
from dataflare.state.pieces import Groups
from dataflare.state.tables import Tables


class Behind(Struct, frozen=True):
    """The windows of these key groups have fired only up to a time."""

    groups: Groups
    time_us: int


class Fired:
    """time_us: the greatest watermark for which windows have fired. behind: the key groups that must still
    fire up to there."""

    def __init__(self, tables: Tables) -> None:
        self._groups = first, last = tables.groups
        self._value = tables.value("fired", [[first, last, NEVER]], _joined)
        parts = [
            Behind((max(first, low), min(last, high)), time_us)
            for low, high, time_us in self._value.value
            if low <= last and first <= high
        ]
        self._value.value = [[*part.groups, part.time_us] for part in parts]
        self.time_us = max((part.time_us for part in parts), default=NEVER)
        self.behind = [part for part in parts if part.time_us < self.time_us]

    def advance(self, time_us: int) -> None:
        """The windows of all own key groups have fired up to a time."""
        self.time_us, self.behind = max(time_us, self.time_us), []
        self._value.value = [[*self._groups, self.time_us]]


def _joined(former: Any) -> list[Any]:
    return [part for parts in former for part in parts]
