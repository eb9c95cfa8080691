"""`dataflare cdc`: the logs that servers keep for a workflow."""

from __future__ import annotations

from typing import Annotated

import typer

from dataflare.cli import answers, common, human, tables

_HELP = "What servers keep of their logs for a workflow, such as replication slots."

app = typer.Typer(name="cdc", help=_HELP)


@app.callback()
def explain() -> None:
    """What servers keep of their logs for a workflow, such as replication slots."""


@app.command("status")
def status(
    file: common.File,
    param: common.Params = None,
    sets: common.Sets = None,
    overlay: common.Overlays = None,
    env: common.Env = None,
    json: common.Json = False,
) -> int:
    """Show how far servers are kept, and how much of their logs they keep.

    Exits with 1 if changes are lost that the next run needs, as where a slot is gone.
    """
    workflow = common.read_workflow(file, param, sets, overlay, env)
    from dataflare.checkpoint.files import workflow_folder
    from dataflare.jobs.server_logs import kept_logs
    from dataflare.sdk.resyncs import resyncs

    found = kept_logs(workflow, common.home_of(file))
    again = resyncs(workflow_folder(common.home_of(file), workflow.name))
    if json:
        logs = [
            {
                "step": step,
                "name": log.name,
                "state": log.state,
                "lost": log.lost,
                "position": log.position or None,
                "kept_bytes": log.kept_bytes,
                **log.facts,
                "tables": list(log.tables),
            }
            for step, log in found.items()
        ]
        answers.print_json(
            {
                "workflow": workflow.name,
                "logs": logs,
                "resyncs": [{"source": each.source, "state": each.state} for each in again],
            },
            indent=False,
        )
    elif not found and not again:
        print(f"{workflow.name}: no source follows a log")
    elif found:
        rows = [
            (
                step,
                log.name,
                log.state,
                log.position,
                "" if log.kept_bytes is None else human.size(log.kept_bytes),
            )
            for step, log in found.items()
        ]
        tables.print_table(("step", "slot", "state", "position", "kept"), rows, right=("kept",))
    if again and not json:
        if found:
            print()
        tables.print_table(("read again", "state"), [(each.source, each.state) for each in again])
    return int(any(log.lost for log in found.values()))


@app.command("drop")
def drop(
    file: common.File,
    step: Annotated[
        str | None,
        typer.Argument(metavar="[STEP]", help="Only of this source.", show_default=False),
    ] = None,
    param: common.Params = None,
    sets: common.Sets = None,
    overlay: common.Overlays = None,
    env: common.Env = None,
    json: common.Json = False,
) -> int:
    """Drop the slots and publications of a workflow that will not run again, so that servers may remove their logs.

    A slot that is read is not dropped. A run after this needs --fresh.
    """
    workflow = common.read_workflow(file, param, sets, overlay, env)
    from dataflare.jobs.server_logs import drop_logs

    dropped = drop_logs(workflow, common.home_of(file), step)
    if json:
        answers.print_json({"workflow": workflow.name, "dropped": dropped}, indent=False)
        return 0
    for name, things in dropped.items():
        for thing in things:
            print(f"{name}: dropped {thing}")
    if not any(dropped.values()):
        print(f"{workflow.name}: there is nothing to drop")
    return 0
