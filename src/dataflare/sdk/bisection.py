"""Find the rows that a system refuses among those that it was asked to take at once. Pure.

Always true: the rows are tried in their order, and a row is refused only if it was refused alone, after
all accepted rows before it. So the result is the same as that of rows which are tried one by one.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from dataflare.errors import DataError
from dataflare.sdk.max_errors import Bound, end_search

_PART_MIN = 256


class Refusal(Struct, frozen=True):
    """row: its number among the tried rows. error: of the system."""

    row: int
    error: DataError


class Pace(Struct):
    """How many rows to try at once: fewer after a refusal, more after each success. It is kept from
    batch to batch, because bad rows often come close together."""

    rows: int = 2**31

    def failed(self, tried: int) -> None:
        self.rows = max(_PART_MIN, tried // 4)

    def passed(self) -> None:
        self.rows = min(2**31, self.rows * 2)


class Bisection:
    """A search in rows 0 to `count`. refused: those found so far, in order. bound: how many there may be; one more
    raises DataError (E0530)."""

    def __init__(self, count: int, pace: Pace | None = None, *, bound: Bound | None = None) -> None:
        self.refused: list[Refusal] = []
        self._pace, self._bound = pace or Pace(), bound
        self._counted = 0
        self._parts = [(0, count)] if count else []

    @property
    def part(self) -> tuple[int, int] | None:
        """The rows to try next: the first, and the one behind the last. The same until their outcome is told. None: all
        rows are taken or refused."""
        if not self._parts:
            return None
        first, behind = self._parts[-1]
        if behind - first > self._pace.rows:
            middle = first + self._pace.rows
            self._parts[-1:] = [(middle, behind), (first, middle)]
        return self._parts[-1]

    def took(self) -> None:
        """The system took the part."""
        self._parts.pop()
        self._pace.passed()

    def refuse(self, error: DataError, suspects: Sequence[int] = ()) -> None:
        """The system refused the part, and took nothing of it. suspects: rows that may be the cause, in order, if
        known; wrong ones only cost time."""
        first, behind = self._parts.pop()
        if behind - first == 1:
            self.refused.append(Refusal(first, error))
            if self._bound is not None:
                self._counted += self._bound.counts(error)
                end_search(self._bound.step, self._counted, self._bound.most)
            return
        self._pace.failed(behind - first)
        rows = [row for row in suspects if first <= row < behind]
        cuts = [cut for row in rows for cut in (row, row + 1)] or [(first + behind) // 2]
        parts = zip([first, *cuts], [*cuts, behind], strict=True)
        self._parts += [part for part in reversed([*parts]) if part[0] < part[1]]
