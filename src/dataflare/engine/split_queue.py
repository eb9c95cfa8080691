"""The splits of one source that are still unread. Idle readers take the next one.

Always true: a split is given to one reader at a time; what was done or begun when a checkpoint was
cut is told by the readers' snapshots, and every other split of the listing is unread.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

from dataflare.engine.messages import Assign
from dataflare.model.progress import Position, Split


class SplitQueue:
    """splits: the listing fixed at the run's start. positions: where begun ones go on; done: ids. times:
    of begun ones, the greatest event time before that."""

    def __init__(
        self,
        splits: Sequence[Split],
        positions: Mapping[str, Position] | None = None,
        done: frozenset[str] = frozenset(),
        times: Mapping[str, int | None] | None = None,
    ) -> None:
        self.splits = tuple(splits)
        self._positions, self._times = dict(positions or {}), dict(times or {})
        begun = [s for s in splits if s.id in self._positions and s.id not in done]
        unread = [s for s in splits if s.id not in self._positions and s.id not in done]
        self._waiting = deque([*begun, *unread])

    def take(self) -> Assign | None:
        """The next split and where to begin, or None when none is left."""
        if not self._waiting:
            return None
        split = self._waiting.popleft()
        return Assign(split, self._positions.get(split.id), self._times.get(split.id))

    def __len__(self) -> int:
        return len(self._waiting)
