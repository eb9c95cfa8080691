"""Which pieces of a log are merged while a checkpoint is stored. Pure.

A range of key groups has a merged base and pieces that came later. Merging them at once in all ranges would write the
whole state in one checkpoint. So merges are paid from a credit that grows with the rows that were appended, and is never
more than the largest merge needs. With one row in a hundred changed between two checkpoints, a checkpoint writes about two
hundredths of the state, and a range more now and then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct

RATIO = 1.0
"""A range whose later pieces have so many rows for each of its base is merged as a whole."""
TIER = 16
"""So many later pieces of like size become one."""
CREDIT = 3.0
"""Rows that may be merged for each row that was appended."""


class Merge(Struct, frozen=True):
    """Merge the pieces of a range from `first` to the end. rows: how many are written, about."""

    range: int
    first: int
    rows: int


def credit_after(credit: float, appended: int, rows: Mapping[int, Sequence[int]]) -> float:
    """The credit when so many rows were appended. rows: as for `merges`."""
    most = max((merge.rows for _, merge in _all_wanted(rows)), default=0)
    return min(credit + CREDIT * appended, most)


def merges(rows: Mapping[int, Sequence[int]], credit: float) -> list[Merge]:
    """rows: by range, of its base and of each later piece."""
    chosen = []
    for _, merge in sorted(_all_wanted(rows), key=lambda pair: pair[0], reverse=True):
        if merge.rows > credit:
            break  # saved for it, so that its turn comes
        chosen.append(merge)
        credit -= merge.rows
    return chosen


def _all_wanted(rows: Mapping[int, Sequence[int]]) -> list[tuple[float, Merge]]:
    return [each for number, run in rows.items() if (each := _wanted(number, run)) is not None]


def _wanted(number: int, rows: Sequence[int]) -> tuple[float, Merge] | None:
    """A merge of the range, and how urgent it is."""
    if len(rows) < 2:
        return None
    base, later = rows[0], sum(rows[1:])
    if later >= RATIO * base:
        return later / max(base, 1), Merge(number, 0, max(base, later))
    last = rows[-TIER:]
    if len(rows) > TIER and max(last) <= 4 * max(min(last), 1):
        return len(rows) / (2 * TIER), Merge(number, len(rows) - TIER, sum(last))
    return None
