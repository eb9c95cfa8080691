"""A run at one moment, as plain data: what `status`, `top`, metrics, alerts and reports are made of.

Always true: all counters of a view only grow while a run lives, also over attempts that fail; `RunResult` has the counts
of what was committed.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct, field

from dataflare.model.run_status import LIVING, Status
from dataflare.observability.times import Histogram, RuleCount, Spent


class StepView(Struct):
    """Of a step, or of one stream of a source ('shop.orders'). kind: source, transformation, destination. rows: None
    where fusion or pushdown makes a count unknowable. retries: calls that were made again. held_back: how often its circuit
    breaker opened; is_held_back: whether it is open. watermark_us: the least event time that is still expected. latency: of a destination, from the reading of
    rows until its system has taken them. kept_bytes: how much of a log its server keeps for it. committed_us: rows of earlier
    event times are committed. last_row_at: when it was last seen that it had more rows. shares: by rule of a `validate` step of which a share may be broken. degraded: rows for which it gave
    less than it should; is_degraded: why it does so now. diverted: by destination, rows that went there instead. requests_under_way: to its
    system; requests_max: how many may be, of all steps that talk to it."""

    kind: str
    rows_in: int | None = 0
    rows_out: int | None = 0
    bytes_out: int = 0
    errors: int = 0
    dead_letters: int = 0
    late: int = 0
    retries: int = 0
    held_back: int = 0
    is_held_back: bool = False
    watermark_us: int | None = None
    kept_bytes: int | None = None
    latency: Histogram | None = None
    is_done: bool = False
    committed_us: int | None = None
    degraded: int = 0
    is_degraded: str | None = None
    diverted: dict[str, int] = field(default_factory=dict)
    requests_under_way: int | None = None
    requests_max: float | None = None
    last_row_at: float | None = None
    shares: dict[str, RuleCount] = field(default_factory=dict)


class StageView(Struct):
    """Steps that run as one, named after the first. tasks: its parallel copies; alive: those that have not ended.
    queued_rows: on their way to it. lived_s: how long the longest of its tasks lived. rate: the highest that its step may have, in
    words; rate_used_s: how long it had this rate, with its parts added up."""

    name: str
    kind: str
    steps: tuple[str, ...]
    tasks: int = 0
    alive: int = 0
    spent: Spent = field(default_factory=Spent)
    queued_rows: int = 0
    state_bytes: int = 0
    lived_s: float = 0.0
    rate: str | None = None
    rate_used_s: float = 0.0


class EdgeView(Struct):
    """Rows from one stage to another. exchange: forward, hash or gather. rows: of this attempt. hot_key: of a hash exchange, the most frequent key of
    a sample of them; hot_share: its share of the rows. None where too few were sampled."""

    from_stage: str
    to_stage: str
    exchange: str
    rows: int = 0
    hot_key: str | None = None
    hot_share: float | None = None


class CheckpointView(Struct):
    """seconds: how long those that were completed took, from the barrier until every destination has the rows.
    not_needed_at: when one was due last and left out, because the one before has everything."""

    completed: int = 0
    failed: int = 0
    last_epoch: int | None = None
    last_s: float | None = None
    last_bytes: int = 0
    ended_at: float | None = None
    not_needed_at: float | None = None
    seconds: Histogram = field(default_factory=Histogram)

    def add(self, epoch: int, seconds: float, num_bytes: int) -> None:
        """A checkpoint is complete."""
        self.completed += 1
        self.last_epoch, self.last_s, self.last_bytes = epoch, seconds, num_bytes
        self.ended_at = time.time()
        self.seconds.record(seconds)

    @property
    def has_all_of(self) -> float | None:
        """The last time, in seconds since 1970, at which a checkpoint had everything; None before the first one."""
        times = [at for at in (self.ended_at, self.not_needed_at) if at is not None]
        return max(times, default=None)


class ProcessView(Struct):
    """Of a process that the run lives in. rss_bytes: memory; None where the system does not say."""

    pid: int
    cpu_s: float
    rss_bytes: int | None = None
    threads: int = 0
    open_files: int | None = None


class AlertView(Struct):
    """An alert that is pending or firing, or does not know yet what is usual: learning. since: when it began to fire."""

    name: str
    state: str
    severity: str
    message: str
    since: float | None = None


class ErrorView(Struct):
    """What ended a run. message: with its code and step, without secrets and values of masked columns."""

    code: str
    step: str | None
    message: str


class WorkerView(Struct, frozen=True):
    """Of another process that runs tasks of the run, as it said last. tasks: how many. spent: what they did with their time in
    this attempt, added up. sent_bytes: by name of each other worker that it has a link to, in this attempt. held_back: steps whose circuit
    breaker is open there. process: None until it was told."""

    tasks: int = 0
    spent: Spent = field(default_factory=Spent)
    sent_bytes: dict[str, int] = field(default_factory=dict)
    held_back: tuple[str, ...] = ()
    process: ProcessView | None = None


class RunView(Struct):
    """status: see `model.run_status`. at and started: seconds since 1970. restarts:
    attempts after the first one. bounded: whether its input has an end. message: the last notice. is_resumed: it goes on where
    an earlier run ended, and counts its own rows. memory_short: why fewer tasks than all go on at once; memory_share: of them, how
    many may. workers: by name, the other processes that run its tasks."""

    workflow: str
    run_id: str
    status: Status
    at: float
    started: float
    elapsed_s: float
    process: ProcessView
    restarts: int = 0
    bounded: bool = True
    steps: dict[str, StepView] = field(default_factory=dict)
    stages: list[StageView] = field(default_factory=list)
    edges: list[EdgeView] = field(default_factory=list)
    checkpoints: CheckpointView = field(default_factory=CheckpointView)
    alerts: list[AlertView] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    message: str | None = None
    file: str | None = None
    failure: ErrorView | None = None
    is_resumed: bool = False
    memory_short: str | None = None
    memory_share: float = 1.0
    workers: dict[str, WorkerView] = field(default_factory=dict)

    @property
    def has_ended(self) -> bool:
        return self.status not in LIVING

    def lag_s(self, step: str) -> float | None:
        """How far the event time of a step is behind the clock, seconds; None if it has none."""
        watermark_us = self.steps[step].watermark_us
        return None if watermark_us is None else max(0.0, self.at - watermark_us / 1e6)

    def to_json(self) -> dict[str, Any]:
        encoded = msgspec.to_builtins(self)
        assert isinstance(encoded, dict)
        return encoded

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> RunView:
        return msgspec.convert(value, cls)
