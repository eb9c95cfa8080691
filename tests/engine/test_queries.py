"""A query is written down once and made for each batch: the same rows, and few Python calls."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[1] / "operators"))
sys.path.insert(0, str(Path(__file__).parents[1] / "planner"))

from checked_queries import checked_queries
from flows import ended
from random_flows import Drawn, workflows

from dataflare import RunOptions
from dataflare.engine.queries import Query, counted
from dataflare.jobs import arun
from dataflare.operators.primitives import Select
from dataflare.workflow.load import load_text


@given(workflows())
@settings(
    derandomize=True,
    deadline=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
def test_noted_queries_are_those_that_the_operators_describe(drawn: Drawn) -> None:
    with checked_queries() as seen:
        assert ended(drawn.workflow).error is None
    assert not seen["described"], "these operators can all be noted"


class Looks(Select, frozen=True):
    """Asks for rows while it describes its query."""

    def lower(self, frame: pl.LazyFrame, lowering: Any) -> pl.LazyFrame:
        most = frame.select(pl.col("a").max()).collect().item()
        return frame.with_columns(most=pl.lit(most))


class Joins(Select, frozen=True):
    """Gives Polars' core the batch twice."""

    def lower(self, frame: pl.LazyFrame, lowering: Any) -> pl.LazyFrame:
        return frame.join(frame, on="a", how="inner", maintain_order="left")


class Stacks(Select, frozen=True):
    """Gives Polars' core the batch in a list."""

    def lower(self, frame: pl.LazyFrame, lowering: Any) -> pl.LazyFrame:
        return pl.concat([frame, frame])


@pytest.mark.parametrize("operator", [Looks, Joins, Stacks])
def test_what_cannot_be_noted_is_described_for_each_batch(operator: type[Select]) -> None:
    query = Query([operator("s", (("a", "a"),))], None, {})
    for values in ([1, 2], [5], []):
        frame = pl.DataFrame({"a": values}, schema={"a": pl.Int64})
        lazy, _ = query._described(frame.lazy(), frame.columns)
        assert query.run(frame).frame.equals(lazy.collect())
    assert query._noted is not None
    assert query._noted.calls is None


def test_a_frame_with_other_columns_gets_a_query_of_its_own() -> None:
    query = Query([Select("s", (("b", "a"),))], None, {})
    with_kind = pl.DataFrame({"a": [3], "__dataflare_kind": [1]})
    for frame in (pl.DataFrame({"a": [1]}), with_kind, pl.DataFrame({"a": [2]})):
        along = [n for n in frame.columns if n != "a"]
        assert query.run(frame).frame.columns == ["b", *along]
        assert query.run(frame).frame["b"].to_list() == frame["a"].to_list()


class Counts(Select, frozen=True):
    keeps: bool = True

    @property
    def keeps_rows(self) -> bool:
        return self.keeps


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=6),
    st.none() | st.integers(0, 9),
    st.integers(0, 9),
    st.dictionaries(st.sampled_from("abc"), st.integers(1, 3), max_size=2),
)
@settings(derandomize=True, deadline=None)
def test_counts_by_place_are_those_that_are_worked_out(
    steps: list[tuple[str, bool]], entered: int | None, left: int, failed: dict[str, int]
) -> None:
    operators = [Counts(step, (), keeps) for step, keeps in steps]
    query = Query(operators, None, {})
    assert query.counts(entered, left, failed) == counted(operators, None, entered, left, failed)


FLOW = """\
name: counted
settings: {{parallelism: 1, batch: {{initial: 50, min: 50, max: 50}}}}
sources:
  made: {{type: generate, config: {{rows: {rows}, seed: 1, columns: {{n: {{sequence: 0}}, k: {{int: [0, 100]}}}}}}}}
transformations:
  some: {{type: filter, inputs: [made], config: {{condition: k < 50}}}}
  more: {{type: map, inputs: [some], config: {{derive: {{double: n * 2}}}}}}
destinations:
  nowhere: {{type: blackhole, inputs: [more]}}
"""


def calls_of_a_run(folder: Path, batches: int) -> Counter[str]:
    """The Python calls of a run on this thread, by the function's name."""
    folder.mkdir(exist_ok=True)
    flow = load_text(FLOW.format(rows=50 * batches), base=folder)
    calls: Counter[str] = Counter()

    def count(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            calls[frame.f_code.co_name] += 1

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        result = asyncio.run(arun(flow, RunOptions(folder / f"home-{batches}")))
    finally:
        sys.setprofile(before)
    assert result.error is None
    return calls


def test_a_small_batch_costs_at_most_110_python_calls_and_2_turns_of_the_loop(
    tmp_path: Path,
) -> None:
    """What comes by the clock is counted too, so the least of a few tries is what a batch costs."""
    calls_of_a_run(tmp_path, 20)  # imports
    tries = []
    for number in range(5):
        folder = tmp_path / str(number)
        few, many = calls_of_a_run(folder, 100), calls_of_a_run(folder, 500)
        tries.append({name: (many[name] - few[name]) / 400 for name in many})
    more = min(tries, key=lambda each: sum(each.values()))
    assert sum(more.values()) <= 110, sorted(more.items(), key=lambda each: -each[1])[:30]
    assert more["_run_once"] <= 1.2
