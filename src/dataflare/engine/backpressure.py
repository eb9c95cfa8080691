"""Credits: how many rows may be on their way to a task.

A writer asks before it sends and waits while it gets none; a reader reports what it has processed.
Windows follow the reader's measured rate, between bounds, and shrink as memory fills. A refill
rate turns credits into a speed limit.

Always true: a task with nothing on its way to it is always granted its next batch, whatever its
size and whatever memory says, so the budget cannot deadlock a join.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

from msgspec import Struct, field

from dataflare.engine.cost import TIMELY_S, BatchCost

_WINDOW_S = TIMELY_S
"""A window holds about this much of the reader's work: enough to never starve it, little to lose."""
_SMOOTHING = 0.2


class _Task(Struct):
    window: float
    rows_max: int | None = None
    outstanding: int = 0
    rows_per_s: float | None = None
    cost: BatchCost = field(default_factory=BatchCost)
    tokens: float = 0.0
    refilled_at: float = 0.0


class BackpressureController:
    """Grants credits in rows. mode: fixed (the initial window for ever), dynamic (follows the
    reader's rate), adaptive (also shrinks above `memory_threshold`)."""

    def __init__(
        self,
        *,
        mode: Literal["fixed", "dynamic", "adaptive"] = "adaptive",
        initial_credits: int = 10_000,
        min_credits: int = 100,
        max_credits: int = 1_000_000,
        refill_rate: float | None = None,
        refill_interval: float = 0.05,
        memory_threshold: float = 0.7,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.mode = mode
        self.initial_credits, self.min_credits, self.max_credits = (
            initial_credits,
            min_credits,
            max_credits,
        )
        self.refill_rate, self.refill_interval = refill_rate, refill_interval
        self.memory_threshold = memory_threshold
        self.memory_pressure = self.process_pressure = 0.0
        self._clock = clock
        self._tasks: dict[str, _Task] = {}

    def register_task(self, task: str) -> None:
        """Know a reading task. Registering again starts it afresh."""
        self._tasks[task] = _Task(
            window=float(self.initial_credits),
            tokens=float(self.initial_credits),
            refilled_at=self._clock(),
        )

    def limit(self, task: str, rows_max: int) -> None:
        """No more rows than this are on their way to the task, except that each channel owns credit for one batch."""
        self._tasks[task].rows_max = rows_max

    def request_credits(self, task: str, rows: int, *, own: bool = False) -> int:
        """Credits for a batch of `rows` on its way to `task`: all of them, or 0 for "wait".

        own: the asking channel is empty, and so owns credit for one batch outside the window.
        """
        state = self._tasks[task]
        if self.refill_rate is not None and not self._refilled(state, rows):
            return 0
        if not own and state.outstanding and state.outstanding >= self.window(task):
            return 0
        state.outstanding += rows
        if self.refill_rate is not None:
            state.tokens -= rows
        return rows

    def report_processing(self, task: str, rows: int, seconds: float) -> None:
        """The task has processed `rows` in `seconds` of its own work: their credits come back."""
        state = self._tasks[task]
        state.outstanding = max(0, state.outstanding - rows)
        if seconds <= 0 or rows <= 0:
            return
        state.cost.record(rows, seconds)
        rate = rows / seconds
        known = state.rows_per_s
        state.rows_per_s = rate if known is None else known + _SMOOTHING * (rate - known)
        if self.mode != "fixed":
            state.window = min(
                self.max_credits, max(self.min_credits, state.rows_per_s * _WINDOW_S)
            )

    def update_memory_pressure(self, used_fraction: float) -> None:
        """used_fraction: share of the memory budget in use by rows and state; 1 and above is full. That of the whole process
        counts where it is greater."""
        self.memory_pressure = max(self.process_pressure, used_fraction)

    def window(self, task: str) -> int:
        """Rows that may be on their way to the task now."""
        window, rows_max = self._tasks[task].window, self._tasks[task].rows_max
        if rows_max is not None:
            return rows_max
        if self.mode == "adaptive" and self.memory_pressure > self.memory_threshold:
            room = max(0.0, 1.0 - self.memory_pressure) / max(1e-9, 1.0 - self.memory_threshold)
            window = self.min_credits + (window - self.min_credits) * room
        return int(min(self.max_credits, max(self.min_credits, window)))

    def timely_rows(self, task: str) -> int | None:
        """How large a batch may be so that the task is done with it within the time of a window: a barrier behind it
        waits so long. None while that is not known."""
        if self.mode == "fixed":
            return None
        rows = self._tasks[task].cost.timely_rows()
        return None if rows is None else max(self.min_credits, rows)

    def outstanding(self, task: str) -> int:
        """Rows on their way to the task."""
        return self._tasks[task].outstanding

    def wait_s(self, task: str, rows: int) -> float | None:
        """How long until a refill may grant `rows`; None when no speed limit is in the way."""
        if self.refill_rate is None:
            return None
        state = self._tasks[task]
        missing = min(rows, self.max_credits) - state.tokens
        return max(self.refill_interval, missing / self.refill_rate) if missing > 0 else None

    def _refilled(self, state: _Task, rows: int) -> bool:
        assert self.refill_rate is not None
        now = self._clock()
        if now - state.refilled_at >= self.refill_interval:
            gained = (now - state.refilled_at) * self.refill_rate
            state.tokens = min(float(self.max_credits), state.tokens + gained)
            state.refilled_at = now
        return state.tokens >= min(rows, self.max_credits)
