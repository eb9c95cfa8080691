"""`dataflare state show`: what a step remembers, as rows."""

from __future__ import annotations

import json as json_
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dataflare.cli import answers, common, frames, human, terminal
from dataflare.errors import CheckpointError, DataFlareError

if TYPE_CHECKING:
    import polars as pl

    from dataflare.planner.physical import PhysicalPlan

app = typer.Typer(name="state", help="The state of steps: what they remember of the rows so far.")


@app.callback()
def explain() -> None:
    """The state of steps: what they remember of the rows so far."""


@app.command("show")
def show(
    workflow: common.Name,
    step: Annotated[
        str, typer.Argument(metavar="STEP", help="A step with state.", show_default=False)
    ],
    key: Annotated[
        list[str] | None,
        typer.Option(
            "--key",
            metavar="[COLUMN=]VALUE",
            help="Only rows with this key; null is NULL. May be repeated, for keys of several columns.",
        ),
    ] = None,
    checkpoint: Annotated[
        str | None,
        typer.Option(
            "--checkpoint",
            metavar="EPOCH|SAVEPOINT",
            help="Of this checkpoint or savepoint. By default of the newest.",
        ),
    ] = None,
    rows: Annotated[
        int, typer.Option("--rows", "-n", min=0, help="At most so many rows of each table.")
    ] = 20,
    file: Annotated[
        Path | None,
        typer.Option(
            "--file", metavar="FILE", help="The workflow's file; by default that of its last run."
        ),
    ] = None,
    json: common.Json = False,
) -> int:
    """Show the state of a step in a checkpoint as rows: groups, keys that were seen, rows that wait."""
    from dataflare.cli.checkpoint_history import history_of, one_of

    history = history_of(workflow, thorough=False)
    name, fact, history = one_of(workflow, history, checkpoint)
    if fact.manifest is None or history.store is None:
        raise CheckpointError(
            f"checkpoint {fact.epoch} cannot be read: {fact.problem}",
            code="E0701",
            help="name another one with --checkpoint",
        )
    from dataflare.jobs.state_rows import state_of, with_key

    state = state_of(fact.manifest, history.store, step, _plan(workflow, file))
    tables = with_key(state, dict(map(_key, key))) if key else dict(state.tables)
    if json:
        answers.print_json(
            {
                "workflow": workflow,
                "step": step,
                "checkpoint": fact.epoch,
                **({"savepoint": name} if name else {}),
                "merged": state.merged,
                "tables": {n: _objects(_first(batches, rows)) for n, batches in tables.items()},
                "values": list(state.values),
            }
        )
        return 0
    for number, (table, batches) in enumerate(tables.items()):
        if number:
            print()
        terminal.print_heading(f"{table} of {step}, checkpoint {fact.epoch}")
        frame = _first(batches, rows)
        if frame is None or not frame.height:
            print("no rows")
        else:
            frames.print_frame(frame)
            if frame.height == rows:
                print(f"at most {human.counted(rows, 'row')}: --rows shows more")
    for values in state.values:
        for each, value in values.items():
            print(f"{each}: {json_.dumps(value)}")
    if not state.merged and any(fact.manifest.operators[step]):
        print("rows are shown as they are stored: a key may have several, which belong together")
    return 0


def _first(batches: Iterator[pl.DataFrame], rows_max: int) -> pl.DataFrame | None:
    """The first rows. None if there is no batch."""
    import polars as pl

    taken: list[pl.DataFrame] = []
    left = rows_max
    for batch in batches:
        if not taken or batch.height:
            taken.append(batch.head(left))
            left -= taken[-1].height
        if left <= 0:
            break
    return pl.concat(taken, how="diagonal_relaxed") if taken else None


def _objects(frame: pl.DataFrame | None) -> list[Any]:
    """The rows as the NDJSON of a destination has them."""
    from dataflare.formats.text_write import NdjsonText

    if frame is None:
        return []
    return [json_.loads(line) for line in NdjsonText().encode(frame).decode().splitlines()]


def _key(text: str) -> tuple[str, str]:
    column, sign, value = text.partition("=")
    return (column, value) if sign else ("", text)


def _plan(workflow: str, file: Path | None) -> PhysicalPlan | None:
    """The plan of the workflow as its file is now. None if there is none, or it cannot be made."""
    from dataflare.checkpoint.runs import RunLog

    if file is None:
        last = RunLog(common.workflow_folder(workflow)).last()
        file = Path(last.file) if last is not None and last.file else None
    if file is None:
        return None
    try:
        model = common.read_workflow(file)
        from dataflare.planner import plan

        return plan(model, home=common.home_of(file)).stages
    except DataFlareError:
        return None
