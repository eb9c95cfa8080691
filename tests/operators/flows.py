"""Workflows as short texts: run them for real into memory, or see how they are refused."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import yaml

from dataflare.connectors import memory
from dataflare.errors import DataFlareError, render
from dataflare.jobs import RunOptions, run
from dataflare.jobs.result import RunResult
from dataflare.planner import Plan, plan, plan_async
from dataflare.workflow import Workflow
from dataflare.workflow.load import load_text

Rows = list[dict[str, Any]]

QUICK = "/dev/shm" if Path("/dev/shm").is_dir() else None
"""A folder in memory, where there is one: these tests are not about what a crash leaves."""


def flow(steps: str, *, base: str | Path = Path(), **more: Any) -> Workflow:
    """The workflow of `flow_text`. base: the folder that relative paths start from."""
    return load_text(flow_text(steps, **more), file="flow.yaml", base=base)


def flow_text(
    steps: str,
    *,
    outputs: str | dict[str, str] = "step",
    settings: str = "{parallelism: 2}",
    **sources: Rows | str,
) -> str:
    """steps: `name: {type: ..., inputs: [...], config: {...}}` lines. sources: rows, or the YAML of a
    source. outputs: step outputs by the name of the memory destination that takes them."""
    lines = ["name: flow", f"settings: {settings}", "sources:"]
    for name, given in sources.items():
        lines.append(f"  {name}: {given if isinstance(given, str) else inline(given)}")
    lines += ["transformations:", *(f"  {line}" for line in steps.strip().splitlines())]
    named = {"out": outputs} if isinstance(outputs, str) else outputs
    lines.append("destinations:")
    lines += [f"  {name}: {{type: memory, inputs: [{port}]}}" for name, port in named.items()]
    return "\n".join(lines) + "\n"


def inline(rows: Rows, **more: str) -> str:
    """A source of these rows, as YAML in one line. more: further keys, as `schema`."""
    shown = yaml.safe_dump(
        rows, default_flow_style=True, width=10**9, allow_unicode=True, sort_keys=False
    ).strip()
    extra = "".join(f", {key}: {value}" for key, value in more.items())
    return f"{{type: inline, config: {{rows: {shown}}}{extra}}}"


def ended(workflow: Workflow, *, optimise: bool = True) -> RunResult:
    """How a run of it ends; what it wrote is in the memory destinations."""
    memory.clear()
    with tempfile.TemporaryDirectory(dir=QUICK) as home, planned(optimise):
        return run(workflow, RunOptions(home=Path(home), fresh=True))


@contextlib.contextmanager
def planned(optimise: bool) -> Iterator[None]:
    with mock.patch.object(
        sys.modules[run.__module__], "plan_async", partial(plan_async, optimise=optimise)
    ):
        yield


def rows_of(workflow: Workflow, *names: str, optimise: bool = True) -> Any:
    """The rows that a run leaves in the destinations of these names; `out` if none is named."""
    result = ended(workflow, optimise=optimise)
    assert result.error is None, render(result.error)
    found = [memory.take(name).rows(named=True) for name in names or ("out",)]
    return found if len(found) > 1 else found[0]


def result_of(steps: str, /, *, outputs: str | dict[str, str] = "step", **more: Any) -> Any:
    """The rows at `out`, or of each of the named outputs in order."""
    names = ("out",) if isinstance(outputs, str) else tuple(outputs)
    return rows_of(flow(steps, outputs=outputs, **more), *names)


def failure(steps: str, /, **more: Any) -> DataFlareError:
    """The error of a run that fails because of its rows."""
    error = ended(flow(steps, **more)).error
    assert error is not None, "the run did not fail"
    return error


def refused(steps: str, /, **more: Any) -> str:
    """The error block of a workflow that is refused before anything runs."""
    with pytest.raises(DataFlareError) as caught:
        plan(flow(steps, **more))
    return render(caught.value)


def picture(steps: str, /, **more: Any) -> list[str]:
    """The error block without its header's line numbers: the line shown, the carets, and notes."""
    return [line for line in refused(steps, **more).splitlines() if not line.endswith(" |")]


def plan_of(steps: str, /, **more: Any) -> Plan:
    return plan(flow(steps, **more))


def ordered(rows: Rows) -> Rows:
    """Rows in one order, whatever order they came in."""
    return sorted(rows, key=repr)
