"""The warnings and the record at the end of a run. Pure."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec.structs import replace

from dataflare.checkpoint.runs import RunFailure, RunRecord, utc_text
from dataflare.engine.metrics import JobMetrics, StepMetrics
from dataflare.errors import DataFlareError, from_here
from dataflare.jobs.result import RunResult
from dataflare.model.run_status import EndStatus, recorded
from dataflare.observability.bottleneck import bottleneck
from dataflare.observability.view import RunView
from dataflare.planner import Plan
from dataflare.planner.facts import dead_letters
from dataflare.planner.graph import SourceNode
from dataflare.planner.physical import PhysicalPlan
from dataflare.planner.written_as import partial_results, unread_kinds
from dataflare.sdk.destination import Delivery

if TYPE_CHECKING:
    from dataflare.jobs.watching import Watch


def doubts_of(plan: Plan) -> Iterator[str]:
    """What looks wrong before anything runs, as `plan` and `preview` tell it: in the data of the sources, and in
    results over a part of the rows."""
    for node in plan.graph:
        if isinstance(node, SourceNode):
            for doubt in node.connector.doubts():
                yield f"step '{node.step}': {doubt}"
    for step, doubt in plan.written.doubts.items():
        yield f"step '{step}': {doubt}"
    yield from partial_results(plan.graph).values()
    yield from unread_kinds(plan.graph).values()


def told_of(step: str, warning: str, rows: int) -> str:
    """A warning of a step, with its number of rows; one without a number is told while the run goes on."""
    return f"step '{step}': {warning}" + (f" in {in_words(rows)}" if rows else "")


class RetriedCalls(Struct, frozen=True):
    """Of a step: how many calls were made again, and why the last one was."""

    calls: int
    last_error: DataFlareError


def closing_warnings(
    metrics: JobMetrics,
    retried: Mapping[str, RetriedCalls],
    held_back: Mapping[str, int],
    published: Mapping[str, Mapping[str, Any]],
    letters_at: Mapping[str, str],
) -> Iterator[str]:
    """Warnings about a run that has ended: retried calls, rows that failed or were left out.

    retried: by step, the calls that were retried. held_back: by step, how often its circuit breaker
    opened. published: by destination, what it has. letters_at: by step, where its dead letters are.
    """
    for name, calls in retried.items():
        times = "once" if calls.calls == 1 else f"{calls.calls:,} times"
        last_error = calls.last_error
        yield f"step '{name}': tried again {times} after {last_error.code}: {from_here(last_error.message)}"
    for name, count in held_back.items():
        times = "once" if count == 1 else f"{count:,} times"
        yield f"step '{name}': its circuit breaker opened {times}"
    for name, metric in metrics.steps.items():
        for warning, rows in metric.warnings.items():
            yield told_of(name, warning, rows)
        for path, left_out in metric.left_out.items():
            yield (
                f"step '{name}': field '{path}' came after the sample and was left out: "
                f"{in_words(left_out.rows)} with a value, the first at {left_out.place}"
            )
        for output, rows in metric.late_unread.items():
            verb = "was" if rows == 1 else "were"
            yield (
                f"step '{name}': {in_words(rows)} came too late and {verb} left out; a step that reads "
                f"'{name}.{output}' gets such rows"
            )
        for to, rows in metric.diverted.items():
            if rows:
                yield f"step '{name}': {in_words(rows)} went to '{to}' instead, while its circuit breaker was open"
        if metric.degraded:
            yield f"step '{name}': {in_words(metric.degraded)} went on without its values, or were left out, while it was degraded"
        if metric.late_in_part:
            rows = metric.late_in_part
            came = (
                "came too late for some of its windows and is"
                if rows == 1
                else "came too late for some of their windows and are"
            )
            yield f"step '{name}': {in_words(rows)} {came} only in the later ones"
        failed = metric.errors - metric.ending  # the error that ended the run is told by itself
        if failed:
            became = _became(metric, letters_at.get(name))
            if metric.kind == "source" and metric.rows_out == 0 and failed > 1:
                yield (
                    f"step '{name}': all {in_words(failed)} failed{became}: nothing was read; look at "
                    "'schema' and at the options of the format"
                )
            else:
                yield f"step '{name}': {in_words(failed)} failed{became}"
    for name, facts in published.items():
        rows = int(facts.get("not_deleted", 0))
        if rows:
            verb = "was" if rows == 1 else "were"
            yield (
                f"destination '{name}': {in_words(rows)} did not come from the source and {verb} not "
                "deleted, because the rows that failed may be among them; a run in which no row fails "
                "deletes what is gone"
            )


def letters_by_step(plan: PhysicalPlan) -> dict[str, str]:
    """By step, where its dead letters are written."""
    return {
        step: from_here(group["place"]) for group in dead_letters(plan) for step in group["steps"]
    }


def _became(metric: StepMetrics, letters_at: str | None) -> str:
    """What became of the rows of a step that failed, as the end of a sentence."""
    letters = metric.dead_letters if letters_at is not None else 0
    left_out = metric.errors - metric.ending - letters
    if not letters:
        return f" and {'was' if left_out == 1 else 'were'} left out"
    is_letter = "is a dead letter" if letters == 1 else "are dead letters"
    if not left_out:
        return f" and {is_letter} in {letters_at}"
    return f", {letters:,} {is_letter} in {letters_at}, and {left_out:,} {'was' if left_out == 1 else 'were'} left out"


def ended(record: RunRecord, result: RunResult, carried: Mapping[str, Any] | None) -> RunRecord:
    """The record of a run that has ended. carried: by source, the value that the next run starts from."""
    return replace(
        record,
        status=recorded(result.status),
        ended_at=utc_text(time.time()),
        resumed_from=result.resumed_from,
        counts=result.steps,
        carried=carried or {},
        error=RunFailure.of(result.error) if result.error is not None else None,
    )


def finished_before(record: RunRecord, counts: Mapping[str, Any]) -> RunResult:
    """The result of a command that found the last run finished but not reported. counts: by step."""
    return RunResult(
        workflow=record.workflow,
        run_id=record.run_id,
        status="finished",
        resumed_from=record.resumed_from,
        duration_s=0.0,
        steps=counts,
        checkpoints=0,
        last_checkpoint_bytes=0,
        warnings=[
            f"run {record.run_id} had finished, but its process ended before it reported this. There is "
            "nothing to do now; the next command starts a new run"
        ],
    )


def visible_at_once(plan: PhysicalPlan) -> frozenset[str]:
    """The destinations whose rows are visible when they are written, before they are committed."""
    return frozenset(
        stage.name
        for stage in plan.stages
        if stage.destination is not None
        and (told := stage.destination.capabilities()).delivery is not Delivery.TRANSACTIONAL
        and not told.at_commit
    )


def what_is_visible(plan: PhysicalPlan, metrics: JobMetrics) -> list[str]:
    """For a failed run: a line for each destination with the number of visible rows. Empty if no row is
    visible. metrics: of committed rows."""
    rows = {
        stage.name: 0
        if stage.destination.capabilities().bounded_only
        else metrics.steps[stage.name].rows_out or 0
        for stage in plan.stages
        if stage.destination is not None
        and stage.name in metrics.steps
        and stage.destination.capabilities().delivery is not Delivery.FLEETING
    }
    if not any(rows.values()):
        return []
    return [_shown(name, count) for name, count in rows.items()]


def _shown(destination: str, rows: int) -> str:
    if not rows:
        return f"destination '{destination}' shows nothing of this run"
    verb = "is" if rows == 1 else "are"
    return f"destination '{destination}': {in_words(rows)} of this run {verb} there"


def who_is_slow(view: RunView) -> tuple[dict[str, dict[str, float]], str | None]:
    """By stage, the seconds of its tasks; and which of them set the pace."""
    times = {
        stage.name: {
            "busy_s": round(stage.spent.busy_s, 3),
            "waiting_s": round(stage.spent.waiting_s, 3),
            "blocked_s": round(stage.spent.blocked_s, 3),
        }
        for stage in view.stages
    }
    found = bottleneck(view)
    if found is None or found.stage is None:
        return times, None
    return times, found.text


def result_of(
    watch: Watch,
    status: EndStatus,
    error: DataFlareError | None,
    resumed_from: int | None,
    published: Mapping[str, Mapping[str, Any]],
    notes: Mapping[str, Sequence[str]],
    letters_at: Mapping[str, str],
) -> RunResult:
    """The result of a run that has ended, with its last warnings. published: by destination, what it has. notes: by step, what
    sources say in the end. letters_at: by step, where its dead letters are."""
    metrics, calls = watch.metrics, watch.calls
    closing = closing_warnings(metrics, calls.retried, calls.held_back, published, letters_at)
    watch.warnings.extend(closing)
    times, slowest = who_is_slow(watch.view())
    return RunResult(
        times=times,
        slowest=slowest,
        workflow=watch.workflow.name,
        run_id=watch.run_id,
        status=status,
        resumed_from=resumed_from,
        duration_s=watch.elapsed_s,
        steps=with_deleted(metrics.to_json(), published),
        checkpoints=metrics.checkpoints.completed,
        last_checkpoint_bytes=metrics.checkpoints.last_bytes,
        error=error,
        warnings=watch.warnings.shown(),
        published=published,
        notes=notes_of(notes),
    )


def notes_of(notes: Mapping[str, Sequence[str]]) -> list[str]:
    """The facts for the user that are not warnings. notes: by step."""
    return [f"step '{name}': {note}" for name, those in notes.items() for note in those]


def with_deleted(
    steps: Mapping[str, dict[str, Any]], published: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """The counts by step, with the rows that a mirror deleted."""
    return {
        name: counts | ({"deleted": facts["deleted"]} if "deleted" in facts else {})
        for name, counts in steps.items()
        for facts in (published.get(name, {}),)
    }


def in_words(rows: int) -> str:
    """A number of rows as text, with `row` or `rows`."""
    return "1 row" if rows == 1 else f"{rows:,} rows"
