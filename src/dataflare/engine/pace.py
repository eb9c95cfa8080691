"""How fast a step may go: its `rate`, as turns that its tasks take one after the other.

Always true:
- over any time, a step takes at most `rate` times that time, and what goes at once: a tenth of a second of it (two tenths
  after a pause), or one row;
- a barrier never waits for a turn. What is in front of it goes at once, and is paid for afterwards: the sources in front
  of the step read nothing meanwhile.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping

import polars as pl
from msgspec.structs import replace

from dataflare.engine.cost import Weight
from dataflare.engine.segments import Outcome
from dataflare.model import human
from dataflare.model.batch import KIND_COLUMN, RowKind, SharedDataBatch
from dataflare.planner.physical import PhysicalPlan, Stage

_AT_ONCE_S = 0.1
"""What goes at once takes so long at the rate. So long a pause is made up for, too."""
_AHEAD_S = 0.5
"""Sources read while what was let through is paid for after at most this time: rows need some time on their way."""
_ANY = float(1 << 62)


class Pace:
    """The rate of one step, shared by its tasks, also over restarts. rows_per_s and bytes_per_s: None for no limit."""

    def __init__(
        self,
        rows_per_s: float | None = None,
        bytes_per_s: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.rows_per_s, self.bytes_per_s = rows_per_s, bytes_per_s
        self._clock = clock
        self._paid_at = clock()
        self._taken_s = 0.0
        self._weight = Weight()

    @property
    def is_limit(self) -> bool:
        return self.rows_per_s is not None or self.bytes_per_s is not None

    def __str__(self) -> str:
        """In words: '1,000 rows/s'."""
        return human.highest_rate(self.rows_per_s, self.bytes_per_s)

    @property
    def used_s(self) -> float:
        """Of the time that has passed, how much the rate was used for."""
        return self._taken_s - self.owed_s()

    def used_elsewhere(self, seconds: float) -> None:
        """A part of it that another process has used it for so long."""
        self._taken_s += seconds

    @property
    def rows_at_once(self) -> int:
        """How large a batch should be at most."""
        rows = _ANY
        if self.rows_per_s is not None:
            rows = self.rows_per_s * _AT_ONCE_S
        if self.bytes_per_s is not None:
            rows = min(rows, self._weight.rows_of(self.bytes_per_s * _AT_ONCE_S))
        return max(1, int(rows))

    @property
    def bytes_at_once(self) -> int:
        """How large a chunk of bytes should be at most."""
        size = _ANY
        if self.bytes_per_s is not None:
            size = self.bytes_per_s * _AT_ONCE_S
        if self.rows_per_s is not None:
            size = min(size, self._weight.bytes_of(self.rows_per_s * _AT_ONCE_S))
        return max(1, int(size))

    def take(self, rows: int, num_bytes: int = 0) -> float:
        """Take the next turn. Returns the seconds until it comes."""
        self._weight.record(rows, num_bytes)
        now = self._clock()
        turn = max(self._paid_at, now - _AT_ONCE_S)
        cost_s = self._cost_s(rows, num_bytes)
        self._paid_at, self._taken_s = turn + cost_s, self._taken_s + cost_s
        return max(0.0, turn - now)

    def learn(self, rows: int, num_bytes: int) -> None:
        """So many bytes are so many rows."""
        self._weight.record(rows, num_bytes)

    def gave(self, rows_max: int, rows: int, num_bytes: int) -> None:
        """A turn for up to `rows_max` rows gave this."""
        self._weight.record(rows, num_bytes)
        cost_s = self._cost_s(rows, num_bytes) - self._cost_s(rows_max, 0)
        self._paid_at, self._taken_s = self._paid_at + cost_s, self._taken_s + cost_s

    def owed_s(self) -> float:
        """The seconds until all that was taken is paid for."""
        return max(0.0, self._paid_at - self._clock())

    def _cost_s(self, rows: int, num_bytes: int) -> float:
        cost_s = 0.0
        if self.rows_per_s is not None:
            cost_s = rows / self.rows_per_s
        if self.bytes_per_s is not None:
            cost_s = max(cost_s, num_bytes / self.bytes_per_s)
        return cost_s


class PacesBehind:
    """Those of the destinations that the rows of a task come to."""

    def __init__(self, paces: tuple[Pace, ...] = ()) -> None:
        self.paces = paces

    def held_s(self) -> float:
        """How long the task should send nothing new, because destinations have more than their rates allow."""
        return max((pace.owed_s() - _AHEAD_S for pace in self.paces), default=0.0)

    def rows_at_once(self, rows: int) -> int:
        """How large a batch should be at most. rows: by all else."""
        return min([rows, *(pace.rows_at_once for pace in self.paces)])


class RowTurns:
    """Lets the rows of one task through, at the pace of its step."""

    def __init__(self, pace: Pace) -> None:
        self.pace = pace
        self._barrier = asyncio.Event()

    def barrier_asked(self) -> None:
        """What waits goes at once, until `barrier_passed`."""
        self._barrier.set()

    def barrier_passed(self) -> None:
        self._barrier.clear()

    def parts(self, batch: SharedDataBatch) -> Iterator[SharedDataBatch]:
        """The batch in parts as large as the pace allows when each is asked for. The halves of an update stay together."""
        at = 0
        while at < batch.num_rows:
            rows = batch.num_rows - at
            if not self._barrier.is_set():
                rows = min(rows, self.pace.rows_at_once)
            end = _whole(batch.frame, at + rows)
            yield batch if end - at == batch.num_rows else batch.slice(at, end - at)
            at = end

    def parts_of(self, outcome: Outcome, num_bytes: int) -> Iterator[tuple[Outcome, int]]:
        """What left a tree, in parts as large as the pace allows when each is asked for, and the bytes of each. The rows keep
        their order, and the halves of an update stay together. All that is counted comes with the first part."""
        entered, left = outcome.rows_at_least, deque(outcome.frames)
        leaving = sum(frame.height for _, frame in left)
        self.pace.learn(entered, num_bytes)
        at = gone = 0
        while True:
            rows = entered - at
            if not self._barrier.is_set():
                rows = min(rows, self.pace.rows_at_once)
            begin, at = at, at + rows
            frames = [*left] if at >= entered else _first(left, leaving * at // entered - gone)
            gone += sum(frame.height for _, frame in frames)
            size = _share(num_bytes, begin, at, entered)
            counted = outcome.head_rows and _share(outcome.head_rows, begin, at, entered)
            if begin == 0:
                yield replace(outcome, frames=frames, head_rows=counted), size
            else:
                yield Outcome(frames, counted, event_time_us=outcome.event_time_us), size
            if at >= entered:
                return

    async def turn(self, rows: int, num_bytes: int) -> None:
        """Wait for a turn, or for a barrier."""
        turn_s = self.pace.take(rows, num_bytes)
        if turn_s > 0 and not self._barrier.is_set():
            try:
                async with asyncio.timeout(turn_s):
                    await self._barrier.wait()
            except TimeoutError:
                return


def _share(total: int, begin: int, end: int, of: int) -> int:
    """What falls on the rows from begin to end, of so many rows. The shares of all parts add up to the total."""
    return total if not of else total * end // of - total * begin // of


def _first(left: deque[tuple[int, pl.DataFrame]], rows: int) -> list[tuple[int, pl.DataFrame]]:
    """Take about so many rows from the front of frames."""
    taken: list[tuple[int, pl.DataFrame]] = []
    while rows > 0 and left:
        edge, frame = left.popleft()
        end = _whole(frame, min(rows, frame.height))
        taken.append((edge, frame.slice(0, end)))
        if end < frame.height:
            left.appendleft((edge, frame.slice(end)))
        rows -= end
    return taken


def _whole(frame: pl.DataFrame, end: int) -> int:
    """The end of a part, moved behind an update that it would cut in two."""
    if end >= frame.height or KIND_COLUMN not in frame.columns:
        return end
    return end + int(frame[KIND_COLUMN][end - 1] == RowKind.UPDATE_BEFORE)


class Paces:
    """Those of a plan. by_step: of the steps that have a rate."""

    def __init__(self, plan: PhysicalPlan, by_step: Mapping[str, Pace]) -> None:
        self._plan, self._by_step = plan, by_step
        self._behind: dict[int, PacesBehind] = {}

    def of(self, stage: Stage) -> Pace | None:
        return self._by_step.get(stage.name)

    def behind(self, stage: Stage) -> PacesBehind:
        """Of the destinations that the rows of a stage come to, each once."""
        if not self._by_step:
            return PacesBehind()
        if stage.id not in self._behind:
            found = tuple(dict.fromkeys(self._found_behind(stage)))
            self._behind[stage.id] = PacesBehind(found)
        return self._behind[stage.id]

    def _found_behind(self, stage: Stage) -> Iterator[Pace]:
        for edge in self._plan.out_of(stage.id):
            reader = self._plan.stages[edge.to_stage]
            if reader.destination is None:
                yield from self.behind(reader).paces
            elif (pace := self.of(reader)) is not None:
                yield pace
