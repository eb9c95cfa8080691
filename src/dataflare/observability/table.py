"""The metrics of a run, one row each: names, meaning, labels. Docs, dashboards and alert rules are made from it.

Names follow the conventions of Prometheus; `otel` is the name in OpenTelemetry, by its semantic conventions where these have
one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

from msgspec import Struct

from dataflare.observability.times import Histogram
from dataflare.observability.view import ProcessView, RunView, StepView

Value = float | Histogram
Sample = tuple[tuple[str, ...], Value]
"""The values of the labels after `workflow`, and the value."""


class Metric(Struct, frozen=True):
    """labels: those after `workflow`. read: the samples of a run."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...]
    otel: str
    unit: str
    read: Callable[[RunView], Iterator[Sample]]


def _steps(value: Callable[[StepView], Value | None]) -> Callable[[RunView], Iterator[Sample]]:
    def read(run: RunView) -> Iterator[Sample]:
        for name, step in run.steps.items():
            found = value(step)
            if found is not None:
                yield (name,), found

    return read


def _rows(run: RunView) -> Iterator[Sample]:
    for name, step in run.steps.items():
        for direction, rows in (("in", step.rows_in), ("out", step.rows_out)):
            if rows is not None:
                yield (name, direction), rows


def _rule_rows(run: RunView) -> Iterator[Sample]:
    for name, step in run.steps.items():
        for rule, count in step.shares.items():
            yield (name, rule, "broken"), count.broken
            yield (name, rule, "kept"), count.rows - count.broken


def _diverted(run: RunView) -> Iterator[Sample]:
    for name, step in run.steps.items():
        yield from (((name, to), rows) for to, rows in step.diverted.items())


def _lags(run: RunView) -> Iterator[Sample]:
    for name in run.steps:
        lag_s = run.lag_s(name)
        if lag_s is not None:
            yield (name,), lag_s


def _hot_shares(run: RunView) -> Iterator[Sample]:
    for edge in run.edges:
        if edge.hot_share is not None:
            yield (edge.to_stage, edge.from_stage), edge.hot_share


def _times(run: RunView) -> Iterator[Sample]:
    for stage in run.stages:
        yield (stage.name, "busy"), stage.spent.busy_s
        yield (stage.name, "waiting"), stage.spent.waiting_s
        yield (stage.name, "blocked"), stage.spent.blocked_s


def _results(run: RunView) -> Iterator[Sample]:
    yield ("completed",), run.checkpoints.completed
    yield ("failed",), run.checkpoints.failed


def _age(run: RunView) -> Iterator[Sample]:
    if run.checkpoints.has_all_of is not None:
        yield (), max(0.0, run.at - run.checkpoints.has_all_of)


def _of_run(value: Callable[[RunView], Value | None]) -> Callable[[RunView], Iterator[Sample]]:
    def read(run: RunView) -> Iterator[Sample]:
        found = value(run)
        if found is not None:
            yield (), found

    return read


def _workers(
    value: Callable[[ProcessView], float | None],
) -> Callable[[RunView], Iterator[Sample]]:
    def read(run: RunView) -> Iterator[Sample]:
        for name, worker in run.workers.items():
            found = value(worker.process) if worker.process is not None else None
            if found is not None:
                yield (name,), found

    return read


METRICS = (
    Metric(
        "dataflare_rows_total",
        "counter",
        "Rows that came into a step and went out of it, those of attempts that failed and those that a system refused later included.",
        ("step", "direction"),
        "dataflare.rows",
        "{row}",
        _rows,
    ),
    Metric(
        "dataflare_bytes_total",
        "counter",
        "Bytes that a source gave or a destination took, as rows in memory or as files, whichever is known.",
        ("step",),
        "dataflare.io",
        "By",
        _steps(lambda step: step.bytes_out if step.kind != "transformation" else None),
    ),
    Metric(
        "dataflare_errors_total",
        "counter",
        "Rows that failed in a step.",
        ("step",),
        "dataflare.errors",
        "{row}",
        _steps(lambda step: step.errors),
    ),
    Metric(
        "dataflare_dead_letters_total",
        "counter",
        "Rows that a step has set aside as dead letters.",
        ("step",),
        "dataflare.dead_letters",
        "{row}",
        _steps(lambda step: step.dead_letters),
    ),
    Metric(
        "dataflare_late_rows_total",
        "counter",
        "Rows that came after all of their windows, or after what they would have joined, had ended.",
        ("step",),
        "dataflare.late_rows",
        "{row}",
        _steps(lambda step: step.late),
    ),
    Metric(
        "dataflare_rule_rows_total",
        "counter",
        "Rows that a rule of a `validate` step with `allowed` was asked about, by whether they broke it.",
        ("step", "rule", "result"),
        "dataflare.rule.rows",
        "{row}",
        _rule_rows,
    ),
    Metric(
        "dataflare_retries_total",
        "counter",
        "Calls to outside systems that were made again.",
        ("step",),
        "dataflare.retries",
        "{call}",
        _steps(lambda step: step.retries),
    ),
    Metric(
        "dataflare_degraded_rows_total",
        "counter",
        "Rows for which a step gave less than it should: without the values of an optional lookup, or left out by `degrade`.",
        ("step",),
        "dataflare.degraded.rows",
        "{row}",
        _steps(lambda step: step.degraded),
    ),
    Metric(
        "dataflare_degraded",
        "gauge",
        "1 while a step gives less than it should, else 0.",
        ("step",),
        "dataflare.degraded",
        "1",
        _steps(lambda step: float(step.is_degraded is not None)),
    ),
    Metric(
        "dataflare_diverted_rows_total",
        "counter",
        "Rows of a destination that went to another one, because its circuit breaker was open.",
        ("step", "to"),
        "dataflare.diverted.rows",
        "{row}",
        _diverted,
    ),
    Metric(
        "dataflare_requests_under_way",
        "gauge",
        "Requests to the system of a step that have no answer yet; steps that share a system have the same number.",
        ("step",),
        "dataflare.requests.under_way",
        "{request}",
        _steps(lambda step: step.requests_under_way),
    ),
    Metric(
        "dataflare_requests_limit",
        "gauge",
        "How many requests to the system of a step may be under way: fewer while it fails or answers slowly.",
        ("step",),
        "dataflare.requests.limit",
        "{request}",
        _steps(lambda step: step.requests_max),
    ),
    Metric(
        "dataflare_breaker_opened_total",
        "counter",
        "How often the circuit breaker of a step opened.",
        ("step",),
        "dataflare.breaker.opened",
        "{event}",
        _steps(lambda step: step.held_back),
    ),
    Metric(
        "dataflare_breaker_open",
        "gauge",
        "1 while the circuit breaker of a step holds its calls back, else 0.",
        ("step",),
        "dataflare.breaker.open",
        "1",
        _steps(lambda step: float(step.is_held_back)),
    ),
    Metric(
        "dataflare_latency_seconds",
        "histogram",
        "From the reading of a row until the system of a destination has taken it, by row.",
        ("step",),
        "dataflare.latency",
        "s",
        _steps(lambda step: step.latency),
    ),
    Metric(
        "dataflare_watermark_lag_seconds",
        "gauge",
        "How far the event time of a step is behind the clock.",
        ("step",),
        "dataflare.watermark.lag",
        "s",
        _lags,
    ),
    Metric(
        "dataflare_hot_key_share",
        "gauge",
        "The share of the rows that come to a step by key which the most frequent key has, of a sample. All of them go to one task.",
        ("step", "from"),
        "dataflare.hot_key.share",
        "1",
        _hot_shares,
    ),
    Metric(
        "dataflare_log_kept_bytes",
        "gauge",
        "How much of its log a server keeps for a source.",
        ("step",),
        "dataflare.log.kept",
        "By",
        _steps(lambda step: step.kept_bytes),
    ),
    Metric(
        "dataflare_task_seconds_total",
        "counter",
        "Time of the tasks of a stage: busy, waiting for rows, or blocked by what is behind it. Steps that run as one are a"
        " stage, named after the first.",
        ("step", "state"),
        "dataflare.task.time",
        "s",
        _times,
    ),
    Metric(
        "dataflare_tasks",
        "gauge",
        "Tasks of a stage that have not ended.",
        ("step",),
        "dataflare.tasks",
        "{task}",
        lambda run: (((stage.name,), stage.alive) for stage in run.stages),
    ),
    Metric(
        "dataflare_queued_rows",
        "gauge",
        "Rows on their way to a stage.",
        ("step",),
        "dataflare.queued",
        "{row}",
        lambda run: (((stage.name,), stage.queued_rows) for stage in run.stages),
    ),
    Metric(
        "dataflare_state_bytes",
        "gauge",
        "State of a stage in memory.",
        ("step",),
        "dataflare.state",
        "By",
        lambda run: (((stage.name,), stage.state_bytes) for stage in run.stages),
    ),
    Metric(
        "dataflare_checkpoints_total",
        "counter",
        "Checkpoints, by how they ended.",
        ("result",),
        "dataflare.checkpoints",
        "{checkpoint}",
        _results,
    ),
    Metric(
        "dataflare_checkpoint_duration_seconds",
        "histogram",
        "How long checkpoints took, from the barrier until every destination has the rows.",
        (),
        "dataflare.checkpoint.duration",
        "s",
        _of_run(lambda run: run.checkpoints.seconds),
    ),
    Metric(
        "dataflare_checkpoint_bytes",
        "gauge",
        "Bytes that the last checkpoint refers to.",
        (),
        "dataflare.checkpoint.size",
        "By",
        _of_run(lambda run: run.checkpoints.last_bytes),
    ),
    Metric(
        "dataflare_checkpoint_age_seconds",
        "gauge",
        "How long ago a checkpoint had everything.",
        (),
        "dataflare.checkpoint.age",
        "s",
        _age,
    ),
    Metric(
        "dataflare_tasks_at_once_share",
        "gauge",
        "Of the tasks that may go on at once, how many may now: 1, and less while memory is short.",
        (),
        "dataflare.tasks.at_once.share",
        "1",
        lambda run: iter([((), run.memory_share)]),
    ),
    Metric(
        "dataflare_restarts_total",
        "counter",
        "Attempts of the run after the first one.",
        (),
        "dataflare.restarts",
        "{attempt}",
        _of_run(lambda run: run.restarts),
    ),
    Metric(
        "dataflare_alert_firing",
        "gauge",
        "1 for each alert of the workflow that fires.",
        ("alert", "severity"),
        "dataflare.alert.firing",
        "1",
        lambda run: (((a.name, a.severity), 1.0) for a in run.alerts if a.state == "firing"),
    ),
    Metric(
        "dataflare_alert_learning",
        "gauge",
        "1 for each alert of the workflow that does not know yet what is usual.",
        ("alert", "severity"),
        "dataflare.alert.learning",
        "1",
        lambda run: (((a.name, a.severity), 1.0) for a in run.alerts if a.state == "learning"),
    ),
    Metric(
        "dataflare_up",
        "gauge",
        "1 while the run has rows to move, 0 while it starts, waits for a restart or has ended.",
        (),
        "dataflare.up",
        "1",
        _of_run(lambda run: float(run.status == "running")),
    ),
    Metric(
        "dataflare_process_resident_memory_bytes",
        "gauge",
        "Memory of the process that the run lives in.",
        (),
        "process.memory.usage",
        "By",
        _of_run(lambda run: run.process.rss_bytes),
    ),
    Metric(
        "dataflare_process_cpu_seconds_total",
        "counter",
        "Processor time of the process that the run lives in.",
        (),
        "process.cpu.time",
        "s",
        _of_run(lambda run: run.process.cpu_s),
    ),
    Metric(
        "dataflare_process_open_files",
        "gauge",
        "Open files and connections of the process that the run lives in.",
        (),
        "process.unix.file_descriptor.count",
        "{file}",
        _of_run(lambda run: run.process.open_files),
    ),
    Metric(
        "dataflare_worker_resident_memory_bytes",
        "gauge",
        "Memory of a worker's process, on a cluster.",
        ("worker",),
        "dataflare.worker.memory.usage",
        "By",
        _workers(lambda process: process.rss_bytes),
    ),
    Metric(
        "dataflare_worker_cpu_seconds_total",
        "counter",
        "Processor time of a worker's process, on a cluster.",
        ("worker",),
        "dataflare.worker.cpu.time",
        "s",
        _workers(lambda process: process.cpu_s),
    ),
    Metric(
        "dataflare_worker_threads",
        "gauge",
        "Threads of a worker's process, on a cluster.",
        ("worker",),
        "dataflare.worker.threads",
        "{thread}",
        _workers(lambda process: process.threads),
    ),
)
