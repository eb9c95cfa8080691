"""Which stage sets the pace."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

from dataflare.jobs import RunOptions, run
from dataflare.observability.bottleneck import bottleneck
from dataflare.observability.times import Spent
from dataflare.observability.view import EdgeView, ProcessView, RunView, StageView
from dataflare.workflow import load_text


def view(*stages: tuple[str, float, float, float], bounded: bool = True) -> RunView:
    kinds = ["source", *["operator"] * (len(stages) - 2), "destination"]
    made = [
        StageView(name, kind, (name,), 1, 1, Spent(*times), lived_s=sum(times))
        for (name, *times), kind in zip(stages, kinds, strict=True)
    ]
    edges = [EdgeView(a[0], b[0], "forward") for a, b in pairwise(stages)]
    process = ProcessView(1, 0.0)
    return RunView(
        "w", "r", "running", 0, 0, 10, process, bounded=bounded, stages=made, edges=edges
    )


def test_a_slow_destination_is_named_with_those_that_wait_for_it() -> None:
    found = bottleneck(view(("read", 2, 0, 8), ("sum", 1, 0, 9), ("write", 9.5, 0.5, 0)))
    assert found is not None
    assert found.stage == "write"
    assert found.reason == "busy 95% of the time, and sum must wait for it"


def test_a_slow_source_is_named() -> None:
    found = bottleneck(view(("read", 9.9, 0.1, 0), ("write", 1, 9, 0)))
    assert found is not None
    assert (found.stage, found.reason) == (
        "read",
        "busy 99% of the time: reading sets the pace",
    )


def test_a_stream_with_few_rows_has_none() -> None:
    found = bottleneck(view(("read", 0.1, 9.9, 0), ("write", 0.2, 9.8, 0), bounded=False))
    assert found is not None
    assert (found.stage, found.reason) == (None, "its sources have few new rows")


def test_only_the_time_since_an_earlier_view_is_looked_at() -> None:
    before = view(("read", 90, 0, 0), ("write", 1, 89, 0))
    now = view(("read", 91, 0, 9), ("write", 11, 89, 0))
    found = bottleneck(now, before)
    assert found is not None
    assert found.stage == "write"
    assert bottleneck(before, before) is None


def test_a_run_that_has_not_begun_has_none() -> None:
    assert bottleneck(view(("read", 0, 0, 0), ("write", 0, 0, 0))) is None


def test_steps_that_run_as_one_are_named_together() -> None:
    shown = view(("read", 9.9, 0.1, 0), ("write", 1, 9, 0))
    shown.stages[0].steps = ("read", "slow")
    found = bottleneck(shown)
    assert found is not None
    assert found.text == "'read' to 'slow', which run as one: busy 99% of the time"


def test_a_step_that_was_busy_for_all_of_a_short_life_is_not_the_slowest() -> None:
    found = bottleneck(view(("read", 1, 0, 0), ("write", 9.8, 0.2, 0)))
    assert found is not None
    assert (found.stage, found.text) == ("write", "write: busy 98% of the time")
    two = view(("read", 1, 0, 0), ("write", 12, 8, 0))
    two.stages[1].lived_s = 10
    found = bottleneck(two)
    assert found is not None
    assert found.reason == "busy 60% of the time", "of two tasks for ten seconds"
    # Of two tasks one had nothing to do, and ended at once.
    two.stages[1].spent, two.stages[1].lived_s = Spent(9, 0.1, 0), 9
    found = bottleneck(two)
    assert found is not None
    assert found.reason == "busy 89% of the time"


def test_a_source_that_waits_until_its_rows_are_due_is_not_slow(tmp_path: Path) -> None:
    workflow = """\
name: paced
sources: {g: {type: generate, config: {columns: {id: {sequence: 0}}, rate: 1000/s, rows: 600}}}
destinations: {out: {type: blackhole, inputs: [g]}}
"""
    result = run(load_text(workflow, base=tmp_path), RunOptions(tmp_path / "home"))
    assert result.times["g"]["waiting_s"] > result.times["g"]["busy_s"]
    assert result.slowest is None


def test_a_step_that_lived_long_before_is_judged_by_its_last_moments() -> None:
    before = view(("read", 90, 0, 0), ("write", 1, 9, 0))
    found = bottleneck(view(("read", 91, 0, 0), ("write", 10.8, 9.2, 0)), before)
    assert found is not None
    assert found.stage == "write"
