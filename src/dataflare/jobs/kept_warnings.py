"""The warnings of a run, of which a long one keeps the last."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable

WARNINGS_MAX = 200


class KeptWarnings:
    """The last warnings, in their order, and how many were given up. The log has all of them. Any thread may add some."""

    def __init__(self, most: int = WARNINGS_MAX) -> None:
        self._texts: deque[str] = deque(maxlen=most)
        self._total = 0
        self._shown: list[str] | None = []
        self._lock = threading.RLock()

    def append(self, text: str) -> None:
        with self._lock:
            self._texts.append(text)
            self._total += 1
            self._shown = None

    def add(self, text: str) -> bool:
        """Add a text that is not there. Gives whether it was added."""
        with self._lock:
            is_new = text not in self._texts
            if is_new:
                self.append(text)
        return is_new

    def extend(self, texts: Iterable[str]) -> None:
        """Add those that are not there."""
        for text in texts:
            self.add(text)

    def shown(self) -> list[str]:
        """For the user. It is the same list until another warning comes, and must not be changed."""
        with self._lock:
            if self._shown is None:
                before = self._total - len(self._texts)
                more = f"{before:,} earlier warning{'s' if before > 1 else ''} left out: the log has them"
                self._shown = [*([more] if before else []), *self._texts]
            return self._shown
