"""`dataflare runs`: the history of runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dataflare.cli import answers, common, complete, human, tables

if TYPE_CHECKING:
    from dataflare.checkpoint.runs import RunRecord


def runs(
    workflow: Annotated[
        str | None,
        typer.Argument(
            metavar="[WORKFLOW]",
            help="Only this workflow's runs.",
            show_default=False,
            autocompletion=complete.workflows,
        ),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="The most runs to list.")] = 20,
    file: Annotated[
        Path | None,
        typer.Option("--file", metavar="FILE", help="The workflow's file: its runs are listed."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print complete records as JSON.")] = False,
) -> int:
    """List the runs of workflows, newest first."""
    if file is not None:
        workflow = workflow or common.read_workflow(file).name
    records = _records(workflow, file, limit)
    if json:
        answers.print_json([record.to_json() for record in records])
        return 0
    if not records:
        print(f"nothing has run here yet ({common.home()})")
        return 0
    name_column = () if workflow else ("workflow",)
    columns = ("run", *name_column, "started", "took", "status", "rows read", "what happened")
    rows = [_row(record, with_name=not workflow) for record in records]
    tables.print_table(columns, rows, right=("took", "rows read"))
    return 0


def _records(workflow: str | None, file: Path | None, limit: int) -> list[RunRecord]:
    """The newest runs of one workflow or of all. Run ids sort by time."""
    from dataflare.jobs.replay_history import with_replays

    if workflow is not None:
        return list(with_replays(common.workflow_folder(workflow, file), limit))
    records = [
        record
        for name in common.known_workflows()
        for record in with_replays(common.home() / name, limit)
    ]
    return sorted(records, key=lambda record: record.run_id, reverse=True)[:limit]


def _row(record: RunRecord, *, with_name: bool) -> list[str]:
    name = [record.workflow] if with_name else []
    duration_s = None
    if record.ended_at or record.status == "running":
        duration_s = human.between(record.started_at, record.ended_at)
    return [
        record.run_id,
        *name,
        human.moment(record.started_at),
        human.span(duration_s),
        record.status,
        human.count(rows_read(record.counts)),
        _story(record),
    ]


def rows_read(counts: Mapping[str, Any]) -> int | None:
    """The number of rows that the sources read, failed ones included. A source is a step without input
    rows. None if it is unknown."""
    rows_read = [
        step["rows_out"] + int(step.get("errors") or 0)
        for step in counts.values()
        if isinstance(step, Mapping)
        and step.get("rows_in") == 0
        and isinstance(step.get("rows_out"), int)
    ]
    return sum(rows_read) if rows_read else None


def _total(counts: Mapping[str, Any], counter: str) -> int:
    return sum(int(step.get(counter) or 0) for step in counts.values() if isinstance(step, Mapping))


def _story(record: RunRecord) -> str:
    """The checkpoint that the run resumed, and the error that ended it."""
    parts = ["replay of dead letters"] if record.kind == "replay" else []
    if record.resumed_from is not None:
        parts.append(f"resumed from checkpoint {record.resumed_from}")
    if failed := _total(record.counts, "errors"):
        parts.append(f"{human.counted(failed, 'row')} failed")
    if deleted := _total(record.counts, "deleted"):
        parts.append(f"{human.counted(deleted, 'row')} deleted")
    if record.error is not None:
        parts.append(f"{record.error.code}: {record.error.message}")
    return "; ".join(parts)
