"""Where the time of a task goes, and how long rows take. Measured per batch, never per row."""

from __future__ import annotations

import enum
import time
from bisect import bisect_left
from collections.abc import Callable

from msgspec import Struct, field
from msgspec.structs import replace

LATENCY_BOUNDS_S = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0),
)
"""Upper bounds of the buckets of a histogram, seconds; one more bucket holds what is above."""


class Doing(enum.IntEnum):
    """What a task does with its time. BUSY: it works, or its work is done on other threads, or a system answers it.
    WAITING: there are no rows for it. BLOCKED: what it has made is not taken."""

    BUSY = 0
    WAITING = 1
    BLOCKED = 2


class RuleCount(Struct):
    """How many rows a rule was asked about, and how many of them broke it."""

    rows: int = 0
    broken: int = 0

    def add(self, rows: int, broken: int) -> None:
        self.rows += rows
        self.broken += broken


class Spent(Struct):
    """Seconds of one task, or of several together."""

    busy_s: float = 0.0
    waiting_s: float = 0.0
    blocked_s: float = 0.0

    def add(self, other: Spent) -> None:
        self.busy_s += other.busy_s
        self.waiting_s += other.waiting_s
        self.blocked_s += other.blocked_s

    def since(self, before: Spent) -> Spent:
        """What came in after `before`."""
        return Spent(
            self.busy_s - before.busy_s,
            self.waiting_s - before.waiting_s,
            self.blocked_s - before.blocked_s,
        )

    @property
    def total_s(self) -> float:
        return self.busy_s + self.waiting_s + self.blocked_s


class TaskClock:
    """The time of one task. Of one event loop. It stands until `enter` is called first."""

    __slots__ = ("_doing", "_last", "_now", "_seconds", "_since")

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self._now = now
        self._seconds = [0.0, 0.0, 0.0]
        self._doing: Doing | None = None
        self._since = 0.0
        self._last = (Doing.BUSY, 0.0)

    def enter(self, doing: Doing | None) -> Doing | None:
        """From now on it does this; None: it has ended. Returns what it did before."""
        now, before = self._now(), self._doing
        if before is not None:
            self._seconds[before] += now - self._since
            self._last = (before, now - self._since)
        self._doing, self._since = doing, now
        return before

    def last_was(self, doing: Doing) -> None:
        """What it did before the last `enter` turned out to be this."""
        was, seconds = self._last
        self._seconds[was] -= seconds
        self._seconds[doing] += seconds
        self._last = (doing, seconds)

    @property
    def is_on(self) -> bool:
        return self._doing is not None

    @property
    def moment(self) -> tuple[Doing | None, float]:
        """What it does, and since when. If it is the same at two looks, the task did nothing else between them."""
        return self._doing, self._since

    def spent(self) -> Spent:
        """Up to now, what it is doing included."""
        seconds = list(self._seconds)
        if self._doing is not None:
            seconds[self._doing] += self._now() - self._since
        return Spent(*seconds)


class Histogram(Struct):
    """How many values lie in each bucket of LATENCY_BOUNDS_S, and their sum."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(LATENCY_BOUNDS_S) + 1))
    sum: float = 0.0

    def record(self, seconds: float, times: int = 1) -> None:
        """A value that so many rows have."""
        self.counts[bisect_left(LATENCY_BOUNDS_S, seconds)] += times
        self.sum += seconds * times

    def add(self, other: Histogram) -> None:
        self.counts = [a + b for a, b in zip(self.counts, other.counts, strict=True)]
        self.sum += other.sum

    @property
    def count(self) -> int:
        return sum(self.counts)

    def quantile(self, share: float) -> float | None:
        """The value that this share of all lies at or below, linear inside its bucket; None without values. In the last
        bucket it is the bucket's lower bound."""
        wanted, seen = share * self.count, 0
        if not self.count:
            return None
        for index, number in enumerate(self.counts):
            if number and seen + number >= wanted:
                low = LATENCY_BOUNDS_S[index - 1] if index else 0.0
                if index == len(LATENCY_BOUNDS_S):
                    return low
                return low + (LATENCY_BOUNDS_S[index] - low) * (wanted - seen) / number
            seen += number
        return LATENCY_BOUNDS_S[-1]


class TaskTimes(Struct):
    """Of one task. latency: from the reading of rows until their destination's system has taken them."""

    clock: TaskClock = field(default_factory=TaskClock)
    latency: Histogram | None = None


class StageTimes(Struct):
    """Of all tasks of a stage, in all attempts of a run. alive: how many of them have not ended. lived_s: how long the
    longest of each attempt lived."""

    spent: Spent = field(default_factory=Spent)
    latency: Histogram | None = None
    alive: int = 0
    lived_s: float = 0.0

    def add(self, task: TaskTimes) -> None:
        self.spent.add(task.clock.spent())
        self.alive += task.clock.is_on
        if task.latency is not None:
            self.latency = self.latency or Histogram()
            self.latency.add(task.latency)


class JobTimes:
    """By stage, the times of a run. They only grow: those of attempts that failed are kept."""

    def __init__(self) -> None:
        self._before: dict[str, StageTimes] = {}
        self._tasks: list[tuple[str, TaskTimes]] = []

    def of_task(self, stage: str) -> TaskTimes:
        """The times of one more task of this attempt."""
        self._tasks.append((stage, TaskTimes()))
        return self._tasks[-1][1]

    def end_attempt(self) -> None:
        """Its tasks do nothing any more."""
        for _, task in self._tasks:
            task.clock.enter(None)
        self._before, self._tasks = self.stages(), []

    def stages(self) -> dict[str, StageTimes]:
        total: dict[str, StageTimes] = {}
        for name, before in self._before.items():
            latency = None
            if before.latency is not None:
                latency = Histogram(list(before.latency.counts), before.latency.sum)
            total[name] = StageTimes(replace(before.spent), latency, lived_s=before.lived_s)
        longest: dict[str, float] = {}
        for stage, task in self._tasks:
            total.setdefault(stage, StageTimes()).add(task)
            longest[stage] = max(longest.get(stage, 0.0), task.clock.spent().total_s)
        for stage, seconds in longest.items():
            total[stage].lived_s += seconds
        return total
