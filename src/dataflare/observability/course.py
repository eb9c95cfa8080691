"""The course of a run: what its counters were, over its time. Pure.

Always true:
- counters are since the run began, so a sample that is given up costs detail, and no row is missing from a rate;
- times grow, and there are never more than `SAMPLES_MAX` samples, however long the run is;
- of what is not a counter, such as memory, the greater one of two samples is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from msgspec import Struct, field
from msgspec.structs import replace

from dataflare.observability.times import StageTimes
from dataflare.observability.view import StepView

T = TypeVar("T")
N = TypeVar("N", int, float)

SAMPLES_MAX = 240
STEPS_MAX = 200
"""Of a run with more steps, these are sampled: sources and destinations first."""
_VALUES_MAX = 12_000
"""Samples times steps: a run of many steps has fewer samples."""
_SAMPLES_MIN = 60
_FIRST_S = 0.25


class StepSample(Struct, frozen=True, array_like=True):
    """Counters of a step. lag_s: how far its event time is behind the clock."""

    rows_in: int | None = 0
    rows_out: int | None = 0
    bytes_out: int = 0
    errors: int = 0
    dead_letters: int = 0
    late: int = 0
    lag_s: float | None = None


class StageSample(Struct, frozen=True, array_like=True):
    """Seconds of the tasks of a stage. latency: of a destination, as in `Histogram`."""

    busy_s: float = 0.0
    waiting_s: float = 0.0
    blocked_s: float = 0.0
    latency: list[int] | None = None


class Sample(Struct, frozen=True):
    """at_s: since the run began."""

    at_s: float
    steps: dict[str, StepSample] = field(default_factory=dict)
    stages: dict[str, StageSample] = field(default_factory=dict)
    rss_bytes: int | None = None


class CheckpointSample(Struct, frozen=True, array_like=True):
    """A checkpoint. at_s: when it was complete, since the run began."""

    epoch: int
    at_s: float
    seconds: float
    num_bytes: int


class Course(Struct):
    """every_s: between two samples, for now. checkpoints: of many, the slower ones."""

    every_s: float = _FIRST_S
    samples: list[Sample] = field(default_factory=list)
    checkpoints: list[CheckpointSample] = field(default_factory=list)

    def is_due(self, at_s: float) -> bool:
        return not self.samples or at_s - self.samples[-1].at_s >= self.every_s

    def add(self, sample: Sample) -> None:
        """Append a sample; with too many, every second one is given up, and they come half as often."""
        self.samples.append(sample)
        if len(self.samples) > _samples_max(len(sample.steps)):
            first, *later = self.samples
            self.samples = [first, *_thinned(later, _merged)]
            self.every_s *= 2

    def add_checkpoint(self, checkpoint: CheckpointSample) -> None:
        if self.checkpoints and self.checkpoints[-1].epoch >= checkpoint.epoch:
            return
        self.checkpoints.append(checkpoint)
        if len(self.checkpoints) > SAMPLES_MAX:
            self.checkpoints = _thinned(self.checkpoints, _slower)

    def copy(self) -> Course:
        """What it is now, for another thread."""
        return Course(self.every_s, [*self.samples], [*self.checkpoints])


def sample_of(
    at_s: float,
    now_s: float,
    steps: Mapping[str, StepView],
    stages: Mapping[str, StageTimes],
    rss_bytes: int | None,
) -> Sample:
    """at_s: since the run began; now_s: since 1970."""
    names = _sampled(steps)
    return Sample(
        round(at_s, 3),
        {
            name: StepSample(
                step.rows_in,
                step.rows_out,
                step.bytes_out,
                step.errors,
                step.dead_letters,
                step.late,
                None
                if step.watermark_us is None
                else round(max(0.0, now_s - step.watermark_us / 1e6), 3),
            )
            for name in names
            for step in (steps[name],)
        },
        {
            name: StageSample(
                round(times.spent.busy_s, 3),
                round(times.spent.waiting_s, 3),
                round(times.spent.blocked_s, 3),
                None if times.latency is None else times.latency.counts,
            )
            for name, times in stages.items()
            if name in names
        },
        rss_bytes,
    )


def _sampled(steps: Mapping[str, StepView]) -> Sequence[str]:
    if len(steps) <= STEPS_MAX:
        return [*steps]
    ends_first = sorted(steps, key=lambda name: steps[name].kind == "transformation")
    return ends_first[:STEPS_MAX]


def _samples_max(steps: int) -> int:
    return max(_SAMPLES_MIN, min(SAMPLES_MAX, _VALUES_MAX // max(1, steps)))


def _thinned(values: Sequence[T], one_of: Callable[[T, T], T]) -> list[T]:
    """One for each two; the last one stays."""
    pairs = zip(values[-2::-2], values[::-2], strict=False)
    made = [one_of(a, b) for a, b in pairs]
    return ([values[0]] if len(values) % 2 else []) + made[::-1]


def _slower(a: CheckpointSample, b: CheckpointSample) -> CheckpointSample:
    return a if a.seconds > b.seconds else b


def _merged(a: Sample, b: Sample) -> Sample:
    """The later one, with the greater lag and memory of both."""
    steps = {
        name: replace(step, lag_s=_greater(a.steps[name].lag_s, step.lag_s))
        if name in a.steps
        else step
        for name, step in b.steps.items()
    }
    return replace(b, steps=steps, rss_bytes=_greater(a.rss_bytes, b.rss_bytes))


def _greater(a: N | None, b: N | None) -> N | None:
    known = [each for each in (a, b) if each is not None]
    return max(known, default=None)
