"""`dataflare status`: what is running on this machine now."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dataflare.cli import answers, common, complete, human, living, tables
from dataflare.formats.visible import visible_line

if TYPE_CHECKING:
    from dataflare.observability.view import RunView, StepView

Workflow = Annotated[
    str | None,
    typer.Argument(
        metavar="[WORKFLOW]",
        help="Only this workflow.",
        show_default=False,
        autocompletion=complete.workflows,
    ),
]


def _named(help: str) -> typer.models.ArgumentInfo:
    argument: typer.models.ArgumentInfo = typer.Argument(
        metavar="WORKFLOW", help=help, show_default=False, autocompletion=complete.workflows
    )
    return argument


RunningWorkflow = Annotated[str, _named("A workflow that is running.")]
KnownWorkflow = Annotated[str, _named("A workflow that is running, or has run.")]
File = Annotated[Path | None, typer.Option("--file", metavar="FILE", help="The workflow's file.")]
Cluster = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        metavar="WHERE",
        help="The runs of a Ray cluster, auto or ray://HOST:PORT, wherever their processes are.",
    ),
]


def status(
    workflow: Workflow = None,
    file: File = None,
    cluster: Cluster = None,
    json: common.Json = False,
) -> int:
    """Show the runs that are active now, their speed, lag, and the slowest step. Exits with 1 if there is none."""
    views = living.views(workflow, file, cluster)
    if json:
        answers.print_json([view.to_json() for view in views], indent=False)
        return 0 if views else 1
    if not views:
        print("nothing is running here")
        return 1
    columns = ("workflow", "status", "since", "rows read", "lag", "checkpoints", "memory", "slowest step")  # fmt: skip
    right = ("since", "rows read", "lag", "checkpoints", "memory")
    tables.print_table(columns, [_row(view) for view in views], right=right)
    for view in views:
        if view.message and view.status != "running":
            print(visible_line(f"{view.workflow}: {view.message}"))
        for line in [*held_back(view), *alerts(view)]:
            print(visible_line(f"{view.workflow}: {line}"))
    return 0


def _row(view: RunView) -> list[str]:
    rows = sum(step.rows_out or 0 for step in sources(view).values())
    memory = view.process.rss_bytes
    return [
        view.workflow,
        view.status,
        human.span(view.elapsed_s),
        human.count(rows),
        lag(view),
        human.count(view.checkpoints.completed),
        "" if memory is None else human.size(memory),
        slowest(view),
    ]


def held_back(view: RunView) -> list[str]:
    """A line for each step whose calls a circuit breaker holds back, or that gives less than it should; and one where memory is
    short."""
    degraded = [
        f"step '{name}': {step.is_degraded}"
        for name, step in view.steps.items()
        if step.is_degraded is not None
    ]
    memory = [] if view.memory_short is None else [view.memory_short]
    return (
        memory
        + degraded
        + [
            f"step '{name}': its circuit breaker is open: no calls are made for now"
            for name, step in view.steps.items()
            if step.is_held_back
        ]
    )


def alerts(view: RunView) -> list[str]:
    """A line for each alert that fires, or will if it stays so."""
    return [
        f"alert '{each.name}' ({each.severity}) {each.state}: {each.message}"
        + (f", for {human.span(max(0.0, view.at - each.since))}" if each.since is not None else "")
        for each in view.alerts
    ]


def sources(view: RunView) -> dict[str, StepView]:
    """The sources; not their streams, whose rows are counted for them too."""
    return {
        name: step
        for name, step in view.steps.items()
        if step.kind == "source" and name.partition(".")[0] not in view.steps.keys() - {name}
    }


def lag(view: RunView) -> str:
    """How far event time is behind, at the step where it is farthest."""
    lags = [found for name in view.steps if (found := view.lag_s(name)) is not None]
    return human.span(max(lags)) if lags else ""


def slowest(view: RunView, before: RunView | None = None) -> str:
    from dataflare.observability.bottleneck import bottleneck

    found = bottleneck(view, before)
    text = "" if found is None else found.text
    return ", ".join(each for each in (text, slowest_worker(view, before)) if each)


def slowest_worker(view: RunView, before: RunView | None = None) -> str:
    """The worker of a run on a cluster that the others wait for."""
    from dataflare.observability.worker_load import slowest_worker

    found = slowest_worker(view, before) if len(view.workers) > 1 else None
    return "" if found is None else f"{found.worker} is busy for {found.busy:.0%} of the time"


def links(view: RunView, before: RunView | None) -> list[str]:
    """A line for each worker: what it does, its memory, and what it sends to each other one."""
    from dataflare.observability.worker_load import worker_loads

    lines = []
    for load in worker_loads(view, before):
        facts = [f"{load.worker}  {load.busy:4.0%} busy"]
        if load.rss_bytes is not None:
            facts.append(f"{human.size(load.rss_bytes)} memory")
        facts += [f"→ {to} {human.size(sent)}/s" for to, sent in load.bytes_per_s.items()]
        lines.append("  ".join(facts))
    return lines
