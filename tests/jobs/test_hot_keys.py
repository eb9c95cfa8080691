"""A key with most of the rows is seen, and told."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataflare import RunOptions, RunResult, load, run
from dataflare.engine.hot_keys import KeyCounts, KeySampler, is_hot, joined
from dataflare.jobs.watching import Watch
from dataflare.observability.view import RunView


@given(
    share=st.floats(0.4, 1.0),
    tasks=st.integers(1, 4),
    batch=st.integers(600, 5_000),
    seed=st.integers(0, 1 << 30),
)
def test_a_hot_key_is_found_whatever_the_batches(
    share: float, tasks: int, batch: int, seed: int
) -> None:
    samplers = [KeySampler(("a", "b")) for _ in range(tasks)]
    rows = 120_000
    frame = pl.DataFrame({"n": range(rows)}).with_columns(
        a=pl.when(pl.col("n").hash(seed) % 1_000 < int(share * 1_000))
        .then(pl.lit("hot"))
        .otherwise(pl.col("n").cast(pl.String)),
        b=1,
    )
    for number, part in enumerate(frame.iter_slices(batch)):
        samplers[number % tasks].look(part)
    counts = joined(sampler.counts for sampler in samplers)
    assert all(sampler.counts.rows <= 2_048 * -(-rows // batch) for sampler in samplers)
    assert counts.hottest is not None
    key, found = counts.hottest
    assert key == "a = hot, b = 1"
    assert found == pytest.approx(share, abs=0.05)


def test_many_keys_are_not_kept() -> None:
    counts = KeyCounts()
    for number in range(10_000):
        counts.add(1, {f"k = {number}": 1})
    assert len(counts.by_key) <= 32
    assert counts.hottest is not None
    assert counts.hottest[1] < 0.01


def test_what_is_hot_depends_on_the_tasks() -> None:
    assert not is_hot(1.0, 1)
    assert is_hot(0.5, 2)
    assert not is_hot(0.49, 4)
    assert is_hot(0.25, 8)
    assert not is_hot(0.24, 8)


WORKFLOW = """
name: skewed
sources: {orders: {type: file, config: {path: in.csv}}}
transformations:
  sums: {type: aggregate, inputs: [orders], config: {group_by: [shop], measures: {n: "count(*)"}}}
destinations: {out: {type: file, inputs: [sums], config: {path: out.csv}}}
settings: {parallelism: 4}
"""


def go(folder: Path, hot: int, text: str = WORKFLOW) -> tuple[RunResult, RunView]:
    """hot: of 10 rows, so many are of one shop."""
    rows = pl.DataFrame({"n": range(100_000)}).with_columns(
        shop=pl.when(pl.col("n") % 10 < hot).then(7).otherwise(1_000 + pl.col("n") % 9_973)
    )
    rows.write_csv(folder / "in.csv")
    (folder / "w.yaml").write_text(text)
    watches: list[Watch] = []

    def observed(watch: Watch) -> contextlib.nullcontext[None]:
        watches.append(watch)
        return contextlib.nullcontext()

    options = RunOptions(home=folder / "home", observers=[observed])
    result = run(load(folder / "w.yaml"), options)
    assert result.status == "finished", result.error
    return result, watches[0].view()


def test_a_key_with_most_rows_is_named(tmp_path: Path) -> None:
    result, view = go(tmp_path, 7)
    (edge,) = [edge for edge in view.edges if edge.exchange == "hash"]
    assert edge.hot_key == "shop = 7"
    assert edge.hot_share == pytest.approx(0.7, abs=0.03)
    (warning,) = [warning for warning in result.warnings if "shop = 7" in warning]
    assert warning.startswith("step 'sums': ")
    assert re.search(r"about (6[7-9]|7[0-3])% of its rows", warning)
    assert "4 tasks" in warning


def test_keys_that_are_alike_are_not_told(tmp_path: Path) -> None:
    result, view = go(tmp_path, 2)
    (edge,) = [edge for edge in view.edges if edge.exchange == "hash"]
    assert edge.hot_share is not None
    assert edge.hot_share < 0.25
    assert not [warning for warning in result.warnings if "shop" in warning]


def test_a_key_that_the_workflow_masks_is_not_shown(tmp_path: Path) -> None:
    text = WORKFLOW.replace("inputs: [sums], config", "inputs: [masked], config").replace(
        "destinations:",
        "  masked: {type: mask, inputs: [sums], config: {columns: {shop: hash}}}\ndestinations:",
    )
    result, view = go(tmp_path, 7, text)
    assert [edge.hot_key for edge in view.edges if edge.hot_key] == ["***"]
    (warning,) = [warning for warning in result.warnings if "one key" in warning]
    assert "shop" not in warning
