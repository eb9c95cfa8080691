"""Which session a row joins that is behind its watermark, decided in the order of watermarks, then of times.

A session is closed for a row when it ends before the row's limit (its watermark, less `allowed_lateness`). Where a
row lies beside a session that is closed for it and yet not fired, because time moved far in one step, the closed one
must be taken out first. Otherwise the row would join two sessions that it must not. So each row gets a phase: before
the rows of a phase join, the sessions of their keys that are closed for them are taken out.

It looks at rows one by one. Only rows behind their watermark come here, and there are few.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable

LATE_PHASE = -1


def phases(
    rows: Iterable[tuple[int, int, int]], open_sessions: Iterable[tuple[int, int, int]], gap: int
) -> list[int]:
    """rows: key, time and limit, ordered by limit and then time. open_sessions: key, first and last time. Gives the
    phase of each row, LATE_PHASE for a late one."""
    firsts: dict[int, list[int]] = defaultdict(list)
    lasts: dict[int, list[int]] = defaultdict(list)
    for key, first, last in sorted(open_sessions):
        firsts[key].append(first)
        lasts[key].append(last)
    phase_of: dict[int, int] = defaultdict(int)
    found: list[int] = []
    for key, time, limit in rows:
        starts, ends = firsts[key], lasts[key]
        end = bisect_right(starts, time + gap)
        start = end
        while start and ends[start - 1] >= time - gap:
            start -= 1
        opened = start
        while opened < end and ends[opened] + gap < limit:
            opened += 1
        if opened == end and time + gap < limit:
            found.append(LATE_PHASE)
            continue
        first, last = time, time
        if opened < end:
            first, last = min(time, starts[opened]), max(time, ends[end - 1])
        starts[opened:end], ends[opened:end] = [first], [last]
        if opened > start:
            phase_of[key] += 1
            closed = opened
            del starts[:closed], ends[:closed]
        found.append(phase_of[key])
    return found
