"""How many workers a load needs, and a run that gets them by itself."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from test_crew import on_workers
from worker_processes import WorkerProcesses

from dataflare.jobs.autoscaling import Autoscaler, Load, busy_share, workers_for
from dataflare.jobs.on_workers import run_on_cluster
from dataflare.jobs.options import RunOptions
from dataflare.jobs.progress import Progress
from dataflare.observability.times import Spent
from dataflare.observability.view import StageView
from dataflare.workflow import load as load_workflow
from dataflare.workflow.settings import Autoscale


def settings(**more: Any) -> Autoscale:
    return Autoscale(max=50).model_copy(update=more)


@st.composite
def any_settings(draw: st.DrawFn) -> Autoscale:
    least = draw(st.integers(1, 20))
    return settings(
        min=least,
        max=draw(st.integers(least, 60)),
        target_busy=draw(st.floats(0.1, 0.95)),
        lag_max=draw(st.floats(1, 600)),
    )


shares = st.floats(0, 1)
lags = st.none() | st.floats(0, 10_000)


@given(any_settings(), st.integers(1, 60), shares, shares, lags, st.integers(1, 40))
def test_more_work_never_means_fewer_workers(
    chosen: Autoscale, workers: int, one: float, other: float, lag_s: float | None, state: int
) -> None:
    less, more = sorted((one, other))
    few = workers_for(Load(workers, less, lag_s, state), chosen)
    many = workers_for(Load(workers, more, lag_s, state), chosen)
    assert few <= many
    assert chosen.min <= few <= many <= chosen.max
    assert few >= min(state, chosen.max), "never below what the state needs"


@given(any_settings(), st.integers(1, 60), shares, st.floats(0, 10_000), st.floats(0, 10_000))
def test_more_lag_never_means_fewer_workers(
    chosen: Autoscale, workers: int, busy: float, one: float, other: float
) -> None:
    early, late = sorted((one, other))
    assert workers_for(Load(workers, busy, early), chosen) <= workers_for(
        Load(workers, busy, late), chosen
    )
    assert workers_for(Load(workers, busy, None), chosen) == workers_for(
        Load(workers, busy, 0.0), chosen
    )


@given(
    any_settings(),
    st.integers(1, 60),
    st.floats(0, 80),
    st.floats(0, 200),
    st.integers(1, 10),
    st.integers(1, 30),
    st.integers(1, 40),
)
def test_under_a_constant_load_the_size_goes_one_way_and_then_stays(
    chosen: Autoscale,
    workers: int,
    work: float,
    lag_s: float,
    grow_after: int,
    shrink_after: int,
    state: int,
) -> None:
    """work: as much as so many workers can do. What they cannot do comes late, and what they do beyond it makes that up."""
    chosen = chosen.model_copy(update={"grow_after": grow_after, "shrink_after": shrink_after})
    scaler, sizes, changed_at = Autoscaler(chosen), [workers], 0.0
    began = workers
    for second in range(2_000):
        # Workers that have something to make up work all the time.
        busy = 1.0 if lag_s > 0 and work > workers else min(1.0, work / workers)
        lag_s = max(0.0, lag_s + (work - workers) / max(work, 1.0))
        found = scaler.look(float(second), Load(workers, busy, lag_s, min(state, workers)))
        if found is not None:
            assert found != workers
            if second:
                assert second - changed_at >= (grow_after if found > workers else shrink_after)
            workers, changed_at = found, float(second)
            sizes.append(workers)
            scaler.rest(second + 1.0)
    assert second - changed_at > 300 or workers in (chosen.min, chosen.max)
    inside = [each for each in sizes if chosen.min <= each <= chosen.max] or [began]
    pairs = [*itertools.pairwise(inside)]
    assert all(a < b for a, b in pairs) or all(a > b for a, b in pairs), sizes
    assert chosen.min <= workers <= chosen.max
    # And it is enough, and not much too much.
    if workers < chosen.max:
        assert work / workers <= chosen.target_busy + 1e-5
    if workers > max(chosen.min, began, state) and lag_s == 0:
        assert work / (workers - 1) > chosen.target_busy * 0.8 - 1e-5


def test_one_busy_look_among_many_changes_nothing() -> None:
    scaler = Autoscaler(settings(grow_after=10, shrink_after=30))
    for second in range(200):
        busy = 0.1 if second % 9 == 0 else 0.95
        assert scaler.look(second, Load(4, 0.6 if second < 5 else busy)) is None


def test_what_the_busiest_stage_does() -> None:
    stages = [
        StageView("a", "source", ("a",), spent=Spent(9.0, 1.0, 0.0)),
        StageView("b", "operator", ("b",), spent=Spent(8.0, 2.0, 10.0)),
        StageView("c", "operator", ("c",)),
    ]
    assert busy_share(stages, {}) == 0.9
    assert busy_share(stages, {"a": Spent(9.0, 0.0, 0.0), "b": Spent(2.0, 2.0, 4.0)}) == 0.5
    assert busy_share([], {}) == 0.0


WORKFLOW = """
name: by_load
sources:
  numbers: {type: generate, rate: 1500/s, config: {rows: 24000, seed: 1, columns: {n: {sequence: 0}}}}
transformations:
  worked: {type: python, inputs: [numbers], config: {function: "slow_step:worked"}}
  sums: {type: aggregate, inputs: [worked], config: {group_by: [n], measures: {c: "count(*)"}}}
destinations: {out: {type: file, inputs: [sums], config: {path: out.csv}}}
settings:
  checkpoint: {interval: 500ms}
  cluster: {autoscale: {min: 1, max: 2, target_busy: 0.5, grow_after: 1s, shrink_after: 2s}}
"""
STEP = """
import time

def worked(rows):
    # The first rows take long, as if they were hard to compute.
    time.sleep(0.0006 * rows.filter(rows["n"] < 12000).height)
    return rows
"""


def test_a_run_on_a_local_cluster_gets_workers_and_gives_them_back(tmp_path: Path) -> None:
    (tmp_path / "w.yaml").write_text(WORKFLOW)
    (tmp_path / "slow_step.py").write_text(STEP)
    told: list[str] = []

    def listen(progress: Progress) -> None:
        if progress.message is not None and progress.message not in told:
            told.append(progress.message)

    workflow = load_workflow(tmp_path / "w.yaml")
    options = RunOptions(home=tmp_path / "home", listener=listen)
    result = run_on_cluster(workflow, options, "local:1", tuple)
    assert result.status == "finished", result.error
    sizes = [text for text in told if " workers instead of " in text]
    assert [text.partition(":")[0] for text in sizes[:2]] == [
        "2 workers instead of 1",
        "1 workers instead of 2",
    ], told
    lines = (tmp_path / "out.csv").read_text().splitlines()
    assert len(lines) == 24_001
    assert {line.split(",")[1] for line in lines[1:]} == {"1"}


def test_where_there_is_no_room_the_run_goes_on_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "slow_step.py").write_text(STEP.replace("12000", "99000"))
    told: list[str] = []

    def listen(progress: Progress) -> None:
        if progress.message is not None:
            told.append(progress.message)

    workers = WorkerProcesses(1, room=1)
    text = WORKFLOW.replace("rows: 24000", "rows: 9000")
    try:
        result = on_workers(tmp_path, text, workers, listener=listen, follows=True)
    finally:
        workers.close()
    assert result.status == "finished", result.error
    assert any("2 workers are wanted" in each and "no room" in each for each in told), told
    assert workers.wanted == 2, "nodes are still asked for"
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 9_001
