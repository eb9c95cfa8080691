"""What a condition may look at: measures of a run by name, over its views. Pure.

A measure has a value for each step (or for the run, under the name ''), now or over a time. What it means for all
steps together depends on it: a sum, or the value of the step that is farthest out.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any, Literal

from msgspec import Struct

from dataflare.observability.times import Histogram, RuleCount, Spent
from dataflare.observability.view import RunView, StageView, StepView
from dataflare.sdk.measure import OwnMeasure

Raw = Any
"""A number that grows, a value of now, `Spent`, or a `Histogram`."""

WINDOW_S = 60.0
"""Over how long rates and shares are taken where a condition does not say."""


class Measure(Struct, frozen=True):
    """unit: of its values: seconds, bytes, a share of 1, a number, or 1 for true. read: by step. over: its value from
    what was read now, and what was read so many seconds before; None: it is what was read. grows: it counts since the run
    began, and may be taken over a time. whole: a share that is of the whole run, where no time is given. is_total: of all steps together it is the sum. words: of a
    flag, what is said where it is true; '{of}' names the step."""

    name: str
    unit: Literal["duration", "size", "share", "number", "rate", "flag"]
    help: str
    read: Callable[[RunView], Mapping[str, Raw]]
    over: Callable[[Raw, Raw, float], float | None] | None = None
    grows: bool = False
    whole: bool = False
    is_total: bool = False
    words: str = ""


def _steps(
    value: Callable[[StepView], Raw | None], *kinds: str
) -> Callable[[RunView], Mapping[str, Raw]]:
    def read(run: RunView) -> Mapping[str, Raw]:
        return {
            name: found
            for name, step in run.steps.items()
            if (not kinds or step.kind in kinds) and (found := value(step)) is not None
        }

    return read


def _stages(value: Callable[[StageView], Raw]) -> Callable[[RunView], Mapping[str, Raw]]:
    return lambda run: {stage.name: value(stage) for stage in run.stages}


def _run(value: Callable[[RunView], Raw | None]) -> Callable[[RunView], Mapping[str, Raw]]:
    def read(run: RunView) -> Mapping[str, Raw]:
        found = value(run)
        return {} if found is None else {"": found}

    return read


def _lags(run: RunView) -> Mapping[str, Raw]:
    lags = {name: run.lag_s(name) for name in run.steps}
    return {name: lag for name, lag in lags.items() if lag is not None}


def _per_s(now: float, before: float | None, seconds: float) -> float | None:
    return (now - (before or 0.0)) / seconds if seconds > 0 else None


def _share(part: str) -> Callable[[Spent, Spent | None, float], float | None]:
    def over(now: Spent, before: Spent | None, _: float) -> float | None:
        spent = now.since(before or Spent())
        total: float = spent.total_s
        return getattr(spent, part) / total if total > 0 else None

    return over


def _p99(now: Histogram, before: Histogram | None, _: float) -> float | None:
    if before is None:
        return now.quantile(0.99)
    counts = [a - b for a, b in zip(now.counts, before.counts, strict=True)]
    return Histogram(counts, now.sum - before.sum).quantile(0.99)


def _rows(step: StepView) -> int | None:
    return step.rows_out if step.kind == "source" else step.rows_in


def _shares(run: RunView) -> Mapping[str, Raw]:
    """By step and rule; those of a step for many tables together."""
    found: dict[str, RuleCount] = {}
    for name, step in run.steps.items():
        for rule, count in step.shares.items():
            key = f"{name.partition('.')[0]}.{rule}"
            found.setdefault(key, RuleCount()).add(count.rows, count.broken)
    return found


def _broken(now: RuleCount, before: RuleCount | None, _: float) -> float | None:
    rows, broken = now.rows, now.broken
    if before is not None:
        rows, broken = rows - before.rows, broken - before.broken
    return broken / rows if rows else None


def _age(run: RunView) -> float:
    ended = run.checkpoints.has_all_of
    return max(0.0, run.at - (run.started if ended is None else ended))


def _freshness(run: RunView) -> Mapping[str, Raw]:
    """A step that has come to its end gets no more rows, and is not waited for."""
    return {
        name: max(0.0, run.at - (step.last_row_at or run.started))
        for name, step in run.steps.items()
        if not step.is_done
    }


def _all() -> Iterator[Measure]:
    yield Measure("lag", "duration", "how far event time is behind the clock", _lags)
    yield Measure(
        "freshness",
        "duration",
        "how long ago the last row came, or the run began without one",
        _freshness,
    )
    yield Measure(
        "latency",
        "duration",
        "from the reading of a row until a destination has it, for 99% of the rows",
        _steps(lambda step: step.latency),
        over=_p99,
    )
    yield Measure(
        "rows",
        "number",
        "rows: of all steps together those that were read, of a step those that came in",
        _steps(_rows),
        grows=True,
        is_total=True,
    )
    yield Measure(
        "rows_per_s", "rate", "the same, a second", _steps(_rows), over=_per_s, is_total=True
    )
    counts: tuple[tuple[str, str, Callable[[StepView], Raw]], ...] = (
        ("errors", "rows that failed", lambda step: step.errors),
        ("dead_letters", "rows set aside as dead letters", lambda step: step.dead_letters),
        ("late_rows", "rows that came too late", lambda step: step.late),
        ("retries", "calls to outside systems that were made again", lambda step: step.retries),
        (
            "degraded_rows",
            "rows for which a step gave less than it should",
            lambda step: step.degraded,
        ),
        ("breakers_opened", "how often a circuit breaker opened", lambda step: step.held_back),
    )
    for name, help, value in counts:
        yield Measure(name, "number", help, _steps(value), grows=True, is_total=True)
    yield Measure(
        "degraded",
        "flag",
        "whether a step gives less than it should: an optional lookup, or `degrade`",
        _steps(lambda step: float(step.is_degraded is not None)),
        words="what comes out{of} is degraded",
    )
    yield Measure(
        "breaker_open",
        "flag",
        "whether a circuit breaker holds calls back",
        _steps(lambda step: float(step.is_held_back)),
        words="the circuit breaker{of} holds calls back",
    )
    yield Measure(
        "broken_share",
        "share",
        "share of the rows that break a rule of a `validate` step which has `allowed`",
        _shares,
        over=_broken,
        whole=True,
    )
    yield Measure(
        "kept_bytes",
        "size",
        "how much of its log a server keeps for a source",
        _steps(lambda step: step.kept_bytes),
    )
    for state, help in (
        ("busy", "share of the time of a step's tasks in which they work"),
        ("waiting", "share of that time in which there are no rows for them"),
        ("blocked", "share of that time in which their rows are not taken"),
    ):
        yield Measure(
            state, "share", help, _stages(lambda stage: stage.spent), over=_share(f"{state}_s")
        )
    yield Measure(
        "queued_rows",
        "number",
        "rows on their way to a step",
        _stages(lambda stage: stage.queued_rows),
        is_total=True,
    )
    yield Measure(
        "state_bytes",
        "size",
        "state in memory",
        _stages(lambda stage: stage.state_bytes),
        is_total=True,
    )
    yield Measure(
        "checkpoint_age",
        "duration",
        "how long ago a checkpoint had everything, or the run began without one",
        _run(_age),
    )
    yield Measure(
        "checkpoint_duration",
        "duration",
        "how long the last checkpoint took",
        _run(lambda run: run.checkpoints.last_s),
    )
    yield Measure(
        "checkpoints_failed",
        "number",
        "checkpoints that failed",
        _run(lambda run: run.checkpoints.failed),
        grows=True,
    )
    yield Measure(
        "restarts",
        "number",
        "attempts of the run after the first one",
        _run(lambda run: run.restarts),
        grows=True,
    )
    yield Measure(
        "failed",
        "flag",
        "whether the run has ended with an error",
        _run(lambda run: float(run.status == "failed")),
        words="the run failed",
    )
    yield Measure(
        "memory", "size", "memory of the process", _run(lambda run: run.process.rss_bytes)
    )
    yield Measure(
        "open_files",
        "number",
        "open files and connections of the process",
        _run(lambda run: run.process.open_files),
    )
    yield Measure("elapsed", "duration", "how long the run has lasted", _run(lambda run: run.elapsed_s))  # fmt: skip


MEASURES = {measure.name: measure for measure in _all()}


def measure_names() -> list[str]:
    """All that there are, those of plugins last."""
    from dataflare.sdk import registry  # with polars; a workflow is read without it

    return [*MEASURES, *(name for name in registry.measure_types() if name not in MEASURES)]


def measure_of(name: str) -> Measure | None:
    """The measure of a name; None for one that there is not. Raises ConfigError (E0402, E0418) for a plugin that cannot be
    loaded."""
    if name in MEASURES:
        return MEASURES[name]
    from dataflare.sdk import registry

    own = registry.measure(name)
    return None if own is None else _of_plugin(name, own)


@cache
def _of_plugin(name: str, own: type[OwnMeasure]) -> Measure:
    reader = own()

    def read(run: RunView) -> Mapping[str, Raw]:
        values = reader.read(run.to_json())
        return {str(step): float(value) for step, value in values.items()}

    return Measure(
        name,
        own.unit,
        own.help,
        read,
        grows=own.grows,
        is_total=own.is_total,
        words=own.words or own.help,
    )


def of_step(run: RunView, read: Mapping[str, Raw], step: str | None) -> Mapping[str, Raw]:
    """What was read of a step. Of a source of many tables it is said for each of them; of steps that run as one, for their
    stage. step: None for all."""
    if step is None or "" in read:
        return read
    if step in read:
        return {step: read[step]}
    stages = {stage.name for stage in run.stages if step in stage.steps}
    return {n: value for n, value in read.items() if n in stages or n.startswith(f"{step}.")}


def of_whole_run(measure: Measure, raw: Mapping[str, Raw], run: RunView) -> Mapping[str, Raw]:
    """What was read, where no time is given: of a share of the whole run, that share."""
    if measure.over is None or not measure.whole:
        return raw
    found = {name: measure.over(value, None, run.elapsed_s) for name, value in raw.items()}
    return {name: share for name, share in found.items() if share is not None}


def counted_once(run: RunView, values: Mapping[str, float], name: str) -> Mapping[str, float]:
    """What is summed for all steps: not the streams of a source, which are counted for it too; and rows where they are
    read."""
    kept = {n: v for n, v in values.items() if n.partition(".")[0] not in values.keys() - {n}}
    if name in ("rows", "rows_per_s"):
        return {n: v for n, v in kept.items() if run.steps[n].kind == "source"}
    return kept


def shown(value: float, unit: str) -> str:
    """A value as people read it, as precise as conditions are written."""
    if unit == "duration":
        return _span(value)
    if unit == "size":
        for size, name in ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
            if value >= size:
                return f"{value / size:.4g} {name}"
        return f"{value:.0f} B"
    if unit == "share":
        return f"{value:.0%}"
    if unit == "flag":
        return "true" if value else "false"
    number = f"{value:,.0f}" if value == round(value) or value >= 100 else f"{value:.3g}"
    return f"{number}/s" if unit == "rate" else number


def _span(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def utc(at: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))
