"""The splits of one source that are still unread. Idle readers take the next one.

Always true: a split is given to one reader at a time; what was done or begun when a checkpoint was
cut is told by the readers' snapshots, and every other split that a checkpoint knows is unread.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

from dataflare.engine.messages import Assign
from dataflare.model.progress import Position, Split

WAITING_MAX = 16
"""Of the splits that were found later, so many may wait for a reader: each is in every manifest until it is
read. The source tells the others again."""


class SplitQueue:
    """splits: the listing at the run's start, and those that were found before the checkpoint. positions:
    where begun ones go on; done: ids. times: of begun ones, the greatest event time before that. discovers:
    whether more may be found.

    known: the ids of all splits that are unread, begun or done.
    """

    def __init__(
        self,
        splits: Sequence[Split],
        positions: Mapping[str, Position] | None = None,
        done: frozenset[str] = frozenset(),
        times: Mapping[str, int | None] | None = None,
        *,
        discovers: bool = False,
    ) -> None:
        self.splits, self.discovers = tuple(splits), discovers
        self.known = {split.id for split in splits} | done
        self._positions, self._times = dict(positions or {}), dict(times or {})
        begun = [s for s in splits if s.id in self._positions and s.id not in done]
        unread = [s for s in splits if s.id not in self._positions and s.id not in done]
        self._waiting = deque([*begun, *unread])
        self._found: deque[Split] = deque()
        self._admitted: list[Split] = []

    def take(self) -> Assign | None:
        """The next split and where to begin, or None when none is left."""
        if not self._waiting:
            return None
        split = self._waiting.popleft()
        self._admit()
        return Assign(split, self._positions.get(split.id), self._times.get(split.id))

    def find(self, splits: Sequence[Split]) -> None:
        """The source has told these splits. Those that are known are passed over."""
        self._found = deque(splits)
        self._admit()

    @property
    def has_news(self) -> bool:
        """Whether `admitted` would give some."""
        return bool(self._admitted)

    def admitted(self) -> list[Split]:
        """The splits that were found since the last call: the next manifest must have them."""
        admitted, self._admitted = self._admitted, []
        return admitted

    def __len__(self) -> int:
        return len(self._waiting)

    def _admit(self) -> None:
        while self._found and len(self._waiting) < WAITING_MAX:
            split = self._found.popleft()
            if split.id not in self.known:
                self.known.add(split.id)
                self._waiting.append(split)
                self._admitted.append(split)
