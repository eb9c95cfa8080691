"""`settings.degrade`: some rows are left out while a condition holds, and counted."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataflare.engine.sampling import Sampling, Thinner
from dataflare.engine.segments import Outcome
from dataflare.errors import DataFlareError
from dataflare.jobs import RunOptions, run
from dataflare.jobs.degrading import Degrading
from dataflare.observability.view import CheckpointView, RunView
from dataflare.workflow.load import load_text
from dataflare.workflow.settings import Degrade

FLOW = """
name: degraded
sources:
  numbers: {{type: generate, config: {{rows: 20000, rate: 8000/s, seed: 1, columns: {{n: {{sequence: 0}}}}}}}}
destinations:
  out: {{type: file, inputs: [numbers], config: {{path: out.csv}}}}
settings:
  parallelism: 1
  degrade: {{when: "{when}", sample: 0.25, recover_after: 0s}}
"""


@given(
    sizes=st.lists(st.integers(0, 50), max_size=20),
    share=st.floats(0.01, 0.99),
)
def test_as_many_rows_go_on_as_the_share_says_and_evenly(sizes: list[int], share: float) -> None:
    sampling = Sampling()
    sampling.set(share)
    thinner, went, first = Thinner(sampling), [], 0
    left_out = 0
    for size in sizes:
        frame = pl.DataFrame({"n": range(first, first + size)}, schema={"n": pl.Int64})
        outcome = Outcome(frames=[(0, frame)])
        thinner.thin(outcome, "s")
        went += outcome.frames[0][1]["n"].to_list()
        left_out += outcome.degraded.get("s", 0)
        first += size
    assert len(went) == int(first * share)
    assert len(went) + left_out == first
    for number, row in enumerate(went):
        assert int((row + 1) * share) == number + 1, "the row at which one more may go on"


def test_a_run_leaves_rows_out_while_its_condition_holds_and_counts_them(tmp_path: Path) -> None:
    result = run(
        load_text(FLOW.format(when="elapsed > 1s"), base=tmp_path), RunOptions(tmp_path / "home")
    )
    assert result.status == "finished"
    rows = pl.read_csv(tmp_path / "out.csv")["n"].to_list()
    left_out = result.steps["numbers"]["degraded"]
    assert left_out > 0
    assert len(rows) + left_out == 20_000
    assert result.steps["numbers"]["rows_out"] == 20_000
    assert rows[:3_000] == [*range(3_000)], "all go on before"
    assert any("left out" in warning for warning in result.warnings)


def test_it_goes_on_for_a_while_after_the_condition() -> None:
    sampling, degraded = Sampling(), dict[str, str]()
    settings = Degrade(when="rows > 10 for 5s", sample=0.5, recover_after="10s")
    degrading = Degrading(settings, sampling, ["s"], degraded)

    def look(at_s: float, rows: int) -> float | None:
        view = RunView("w", "r", "running", at_s, 0.0, at_s, None, checkpoints=CheckpointView())  # type: ignore[arg-type]
        view.steps = {"s": step(rows)}
        degrading.look(view)
        return sampling.share

    def step(rows: int):  # type: ignore[no-untyped-def]
        from dataflare.observability.view import StepView

        return StepView("source", 0, rows, 0, 0, 0, 0)

    shares = [
        look(at_s, rows) for at_s, rows in ((0, 20), (4, 20), (6, 20), (8, 5), (12, 5), (19, 5))
    ]
    assert shares == [None, None, 0.5, 0.5, 0.5, None]
    assert degraded == {}


def test_changes_are_not_left_out(tmp_path: Path) -> None:
    text = """
name: changes
sources: {s: {type: inline, config: {changelog: columns, rows: [{_op: insert, n: 1}]}}}
destinations: {out: {type: file, inputs: [s], config: {path: out.ndjson, changelog: columns}}}
settings: {degrade: {when: "lag > 5m", sample: 0.1}}
"""
    with pytest.raises(DataFlareError) as told:
        run(load_text(text, base=tmp_path), RunOptions(tmp_path / "home"))
    assert told.value.code == "E0342"


@pytest.mark.parametrize("when", ["lag", "rows < usual", "nothing > 1", "rows < 5"])
def test_a_condition_that_cannot_be_judged_at_each_moment_is_refused(
    when: str, tmp_path: Path
) -> None:
    with pytest.raises(DataFlareError):
        load_text(FLOW.format(when=when), base=tmp_path)
