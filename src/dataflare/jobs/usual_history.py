"""What the runs of a workflow saw, for alerts that compare with what is usual: kept in its folder, and first read from
the history of its runs: for each rule of which nothing is known yet.

Always true: a file that was damaged is an error, never read as "nothing is known".
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

import msgspec

from dataflare.checkpoint.files import write_whole
from dataflare.checkpoint.runs import RunLog, RunRecord
from dataflare.observability.resources import this_process
from dataflare.observability.usual import History, Seen, UsualJudge, key_of
from dataflare.observability.view import RunView, StepView
from dataflare.workflow.model import Workflow

FILE = "usual.json"
_COUNTED = ("rows", "errors", "dead_letters", "late_rows", "elapsed")
"""Measures that the history of runs has."""


def kept_history(folder: Path) -> History:
    """What is known in a workflow's folder. Raises OSError, and ValueError for a file that was damaged."""
    try:
        known = msgspec.json.decode((folder / FILE).read_bytes(), type=dict[str, list[Seen]])
    except FileNotFoundError:
        return History()
    return History(known)


def learn_from_runs(history: History, folder: Path, workflow: Workflow) -> None:
    """Add what the runs before saw, for each rule of which nothing is known yet. Raises OSError."""
    rules = [
        rule
        for rule in workflow.alerts
        if rule.condition.is_usual
        and rule.condition.is_of_whole_run
        and rule.condition.measure_name in _COUNTED
        and not history.knows(key_of(rule.condition, rule.step or ""))
    ]
    views = [*_finished(folder, workflow)] if rules else []
    for rule in rules:
        for view in views:
            UsualJudge(rule.condition, rule.step, history).look(view)


def keep_history(folder: Path, seen: dict[str, list[Seen]]) -> None:
    """Raises OSError."""
    write_whole(folder / FILE, msgspec.json.encode(seen))


def _finished(folder: Path, workflow: Workflow) -> Iterable[RunView]:
    """The runs that finished and counted all of their rows, oldest first, as far as their records say."""
    kinds = {step.name: step.kind for step in workflow.steps()}
    for record in reversed(RunLog(folder).list()):
        if record.status == "finished" and record.resumed_from is None and record.ended_at:
            yield _view(record, kinds)


def _view(record: RunRecord, kinds: dict[str, str]) -> RunView:
    started = datetime.fromisoformat(record.started_at).timestamp()
    ended = datetime.fromisoformat(record.ended_at or record.started_at).timestamp()
    steps = {
        name: StepView(
            kinds[name],
            counts.get("rows_in"),
            counts.get("rows_out"),
            errors=counts.get("errors", 0),
            dead_letters=counts.get("dead_letters", 0),
            late=counts.get("late", 0),
        )
        for name, counts in record.counts.items()
        if name in kinds
    }
    names, times = (record.workflow, record.run_id), (ended, started, ended - started)
    return RunView(*names, "finished", *times, this_process(), steps=steps)
