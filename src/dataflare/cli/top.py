"""`dataflare top`: the runs of this machine, live: rates of each edge, what each step does with its time, who is slow."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dataflare.cli import human, living, status, terminal
from dataflare.formats.visible import visible_line

if TYPE_CHECKING:
    from rich.console import Group, RenderableType
    from rich.table import Table

    from dataflare.observability.times import Spent
    from dataflare.observability.view import RunView, StageView

_BAR = 12
_WIDE = 100
"""From so many columns on, a screen says where rows go."""
_PIPE = 160
_COLOURS = {"busy": "green", "blocked": "red", "waiting": "bright_black"}


def top(
    workflow: status.Workflow = None,
    file: status.File = None,
    cluster: status.Cluster = None,
    every: Annotated[
        float, typer.Option("--every", min=0.1, help="Seconds between two looks.")
    ] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Print one screen and end.")] = False,
) -> int:
    """Watch the runs that are active now: rows a second, busy and blocked steps, and the slowest. Ctrl-C ends it."""
    from rich.live import Live

    live = terminal.is_terminal(sys.stdout) and not once
    console = terminal.console()
    if not terminal.is_terminal(sys.stdout):
        console.width = _PIPE
    before: dict[str, RunView] = {}
    views = _look(workflow, file, cluster)
    if not views:
        print("nothing is running here")
        return 1
    if not live:
        time.sleep(every)
        before, views = views, _look(workflow, file, cluster)
        console.print(screen(views, before, console.width))
        return 0
    shown_first = screen(views, before, console.width)
    with Live(shown_first, console=console, screen=True, auto_refresh=False) as shown:
        while views:
            time.sleep(every)
            before, views = views, _look(workflow, file, cluster)
            shown.update(screen(views, before, console.width), refresh=True)
    return 0


def _look(workflow: str | None, file: Path | None, cluster: str | None) -> dict[str, RunView]:
    return {view.workflow: view for view in living.views(workflow, file, cluster)}


def screen(views: Mapping[str, RunView], before: Mapping[str, RunView], width: int) -> Group:
    """One screen, so many columns wide. before: the views of the look before, from which rates come."""
    from rich.console import Group

    parts: list[RenderableType] = []
    for name, view in views.items():
        earlier = before.get(name)
        if earlier is not None and earlier.run_id != view.run_id:
            earlier = None
        parts += [*_of_run(view, earlier, width), ""]
    return Group(*parts[:-1])


def _of_run(view: RunView, before: RunView | None, width: int) -> Iterator[RenderableType]:
    from rich.text import Text

    facts = [view.status, human.clock(view.elapsed_s)]
    lag = status.lag(view)
    if lag:
        facts.append(f"{lag} behind event time")
    checkpoints = view.checkpoints
    if checkpoints.completed:
        took = f", the last took {human.span(checkpoints.last_s)}" if checkpoints.last_s else ""
        facts.append(f"{human.counted(checkpoints.completed, 'checkpoint')}{took}")
    if view.process.rss_bytes:
        facts.append(human.size(view.process.rss_bytes))
    if view.restarts:
        facts.append(human.counted(view.restarts, "restart"))
    yield Text.assemble((view.workflow, "bold"), "  ", ("  ".join(facts), "dim"))
    yield _stages(view, before, width)
    for line in status.links(view, before):
        yield Text(f"  {line}", "dim")
    slowest = status.slowest(view, before)
    if slowest:
        yield Text.assemble(("  slowest  ", "dim"), slowest)
    for line in status.held_back(view):
        yield Text(f"  {line}", "red")
    for alert, line in zip(view.alerts, status.alerts(view), strict=True):
        yield Text(f"  {visible_line(line)}", "red" if alert.state == "firing" else "yellow")
    if view.message and view.status != "running":
        yield Text(f"  {visible_line(view.message)}", "yellow")


def _stages(view: RunView, before: RunView | None, width: int) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2, 0, 0))
    for justify in ("left", "right", "left", "right", "right", "left"):
        table.add_column(justify=justify, no_wrap=True)
    headings = ("  step", "rows/s", "busy █ blocked ▒", "queued", "errors", "")
    table.add_row(*(Text(text, "dim") for text in headings))
    seconds = view.at - before.at if before is not None else None
    for stage in view.stages:
        spent = stage.spent
        earlier = _stage(before, stage.name)
        if earlier is not None:
            spent = spent.since(earlier.spent)
        errors = sum(view.steps[name].errors for name in stage.steps if name in view.steps)
        table.add_row(
            Text(f"  {_steps(stage)}"),
            _rate(view, before, stage, seconds),
            _bar(spent),
            human.count(stage.queued_rows) if stage.queued_rows else "",
            Text(human.count(errors), "yellow") if errors else "",
            Text(" ".join(_to(view, stage)) if width >= _WIDE else "", "dim"),
        )
    return table


def _steps(stage: StageView) -> str:
    return " + ".join(stage.steps) if len(stage.steps) <= 3 else f"{stage.name} + {len(stage.steps) - 1} steps"  # fmt: skip


def _to(view: RunView, stage: StageView) -> Iterator[str]:
    for edge in view.edges:
        if edge.from_stage == stage.name:
            by = " by key" if edge.exchange == "hash" else ""
            yield f"→ {edge.to_stage}{by}"


def _stage(view: RunView | None, name: str) -> StageView | None:
    return next((s for s in view.stages if s.name == name), None) if view else None


def _rate(view: RunView, before: RunView | None, stage: StageView, seconds: float | None) -> str:
    """Rows a second that came in; of a source, that it gave."""
    if before is None or not seconds:
        return ""

    def rows(run: RunView) -> int:
        if stage.kind == "source":
            step = run.steps.get(stage.name)
            return (step.rows_out or 0) if step is not None else 0
        return sum(edge.rows for edge in run.edges if edge.to_stage == stage.name)

    return human.count(round(max(0, rows(view) - rows(before)) / seconds))


def _bar(spent: Spent) -> RenderableType:
    from rich.text import Text

    total = spent.total_s
    if total <= 0:
        return Text("·" * _BAR, "dim")
    shares = {"busy": spent.busy_s, "blocked": spent.blocked_s, "waiting": spent.waiting_s}
    bar, drawn = Text(), 0
    for name, seconds in shares.items():
        cells = _BAR - drawn if name == "waiting" else round(seconds / total * _BAR)
        cells = min(cells, _BAR - drawn)
        bar.append({"busy": "█", "blocked": "▒", "waiting": "·"}[name] * cells, _COLOURS[name])
        drawn += cells
    bar.append(f" {spent.busy_s / total:4.0%}")
    return bar
