"""The summary of a run, on standard error when it ends.

On a terminal it has a few lines: rows read and written, speed, and what to do next. In a log it is one
line.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataflare.cli import common, human, terminal
from dataflare.formats.visible import visible
from dataflare.model.run_status import ResultStatus

if TYPE_CHECKING:
    from dataflare.jobs import RunResult
    from dataflare.workflow.model import Workflow

_SIGNS = {"finished": ("✔", "green"), "failed": ("✘", "red")}
_NAMED_MAX = 3
_SLOW_S = 2.0
"""Of a run that takes less, the slowest step is not named."""
_LINES_MAX = 40
_ENDINGS: dict[ResultStatus, str] = {
    "finished": "finished in {}",
    "failed": "failed after {}",
    "stopped": "stopped after {}",
    "interrupted": "interrupted after {}",
}


def print_summary(result: RunResult, workflow: Workflow) -> None:
    """Print the summary."""
    steps = result.to_json()["steps"]
    if terminal.is_terminal(sys.stderr):
        _print_lines(result, workflow, steps)
    else:
        terminal.say(one_line(result, workflow, steps))


def one_line(result: RunResult, workflow: Workflow, steps: Mapping[str, Any]) -> str:
    """`flights: finished in 1.93 s, 336,776 rows read, 16 rows written to out.parquet`."""
    facts = [_ending(result)]
    counts = [
        rows_read_of(steps, each)
        for name in common.streamed_sources(workflow)
        for each in tables_of(name, steps)
    ]
    if None not in counts:
        rows_read = sum(rows for rows in counts if rows is not None)
        facts.append(f"{human.counted(rows_read, 'row')} read")
    for name in list(workflow.destinations)[:_NAMED_MAX]:
        tables = tables_of(name, steps)
        rows = _sum(rows_written_of(steps, each) for each in tables)
        written = "written" if rows is None else f"{human.counted(rows, 'row')} written"
        place = where(name, result.published.get(name, {}))
        if tables != [name]:
            place = f"{human.counted(len(tables), 'table')} of {name}"
        facts.append(f"{written} to {place}")
        if deleted := _sum(_count(steps, each, "deleted") for each in tables):
            facts.append(f"{human.counted(deleted, 'row')} deleted there")
    more = len(workflow.destinations) - _NAMED_MAX
    if more > 0:
        facts.append(f"and {human.counted(more, 'more destination')}")
    facts += [
        f"{human.count(rows)} {written[:-1] if rows == 1 and written.endswith('s') else written}"
        for written, rows in _losses(steps).items()
    ]
    facts += result.notes
    if result.slowest and result.duration_s >= _SLOW_S:
        facts.append(f"slowest step {result.slowest}")
    if result.status in ("stopped", "interrupted"):
        facts.append("the same command resumes from the last checkpoint")
    return f"{workflow.name}: {', '.join(facts)}"


def tables_of(name: str, steps: Mapping[str, Any]) -> list[str]:
    """The names under which a step is counted: its own, or one for each of its tables."""
    tables = [each for each in steps if each.startswith(f"{name}.")]
    return tables or [name]


def _sum(counts: Iterable[int | None]) -> int | None:
    """The sum; None if a part of it is unknown."""
    known = list(counts)
    return None if None in known else sum(rows for rows in known if rows is not None)


def _print_lines(result: RunResult, workflow: Workflow, steps: Mapping[str, Any]) -> None:
    from rich.console import JustifyMethod
    from rich.table import Table
    from rich.text import Text

    console = terminal.console(stderr=True)
    sign, colour = _SIGNS.get(result.status, ("■", "yellow"))
    head = Text.assemble((sign, colour), " ", (workflow.name, "bold"), f" {_ending(result)}")
    console.print(head.append(f"  run {result.run_id}", "dim"))
    table = Table.grid(padding=(0, 2, 0, 0))
    columns: tuple[JustifyMethod, ...] = ("left", "left", "right", "left")
    for justify in columns:
        table.add_column(justify=justify)
    lines = list(_rows(result, workflow, steps))
    for verb, name, rows, more in lines[:_LINES_MAX]:
        table.add_row(Text(f"  {verb}", "dim"), name, f"{rows} rows", Text(more, "dim"))
    console.print(table)
    if len(lines) > _LINES_MAX:
        console.print(
            Text(f"  and {len(lines) - _LINES_MAX} more lines: run --json has all", "dim")
        )
    if result.slowest and result.duration_s >= _SLOW_S:
        console.print(Text(f"  slowest step {result.slowest}", "dim"))
    for line in [*result.notes, *_next(result, workflow)]:
        console.print(Text(f"  {visible(line)}", "dim"))


def _rows(
    result: RunResult, workflow: Workflow, steps: Mapping[str, Any]
) -> Iterator[tuple[str, str, str, str]]:
    sources = [t for name in common.streamed_sources(workflow) for t in tables_of(name, steps)]
    for name in sources:
        rows = rows_read_of(steps, name)
        speed = rows / result.duration_s if rows and result.duration_s else None
        yield "read", name, human.count(rows), human.rate(speed) if speed else ""
    for name in [t for step in workflow.destinations for t in tables_of(step, steps)]:
        published = result.published.get(name, {})
        size = f" ({human.size(published['bytes'])})" if published.get("bytes") else ""
        place = where(name, published)
        place_text = "" if place == name else f"{place}{size}"
        yield "wrote", name, human.count(rows_written_of(steps, name)), place_text
        if deleted := _count(steps, name, "deleted"):
            yield "deleted", name, human.count(deleted), ""
    for name, counts in steps.items():
        for loss, rows in _losses({name: counts}).items():
            yield loss, name, human.count(rows), ""


def _next(result: RunResult, workflow: Workflow) -> Iterator[str]:
    """Lines about what the user can do next."""
    if result.status in ("stopped", "interrupted"):
        yield "run the same command again to resume from the last checkpoint"
    elif result.status == "failed":
        yield f"fix the cause, then the same command resumes the run; see dataflare checkpoints {workflow.name}"
    yield f"see also: dataflare runs {workflow.name}"


def where(name: str, published: Mapping[str, Any]) -> str:
    """Where a destination's rows are: `table t in shop.db`, a path, or the destination's name."""
    path, table = published.get("path"), published.get("table")
    shown_path = _near(str(path)) if path else None
    if table and table != path:
        return f"table {table} in {shown_path}" if shown_path else f"table {table}"
    return shown_path or name


def _near(path: str) -> str:
    """A path, relative to the working directory if it is inside of it. In `/` every path is, and stays."""
    try:
        here = Path.cwd()
        return path if here == Path(here.anchor) else str(Path(path).relative_to(here))
    except (ValueError, OSError):
        return path


def _ending(result: RunResult) -> str:
    ending = _ENDINGS.get(result.status, f"{result.status} after {{}}")
    return ending.format(human.span(result.duration_s))


def _count(steps: Mapping[str, Any], name: str, counter: str) -> int | None:
    count = steps.get(name, {}).get(counter)
    return count if isinstance(count, int) else None


def _losses(steps: Mapping[str, Any]) -> dict[str, int]:
    """Rows that were not written, or not everywhere, by the reason."""
    losses = {}
    for counter in ("errors", "dead_letters", "late", "late_in_part", "degraded"):
        counts = [_count(steps, name, counter) or 0 for name in steps]
        if sum(counts):
            losses[counter.replace("_", " ")] = sum(counts)
    return losses


def rows_read_of(steps: Mapping[str, Any], name: str) -> int | None:
    """The number of rows that a source read: those that went on, and those that failed."""
    rows = _count(steps, name, "rows_out")
    return None if rows is None else rows + (_count(steps, name, "errors") or 0)


def rows_written_of(steps: Mapping[str, Any], name: str) -> int | None:
    """The number of rows that a destination took: without those that its system refused."""
    rows = _count(steps, name, "rows_out")
    return _count(steps, name, "rows_in") if rows is None else rows
