"""The batcher settles where a batch takes the latency target, and does not swing."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataflare.engine.batcher import AdaptiveBatcher, BatchingMetrics


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def drive(
    batcher: AdaptiveBatcher, clock: Clock, overhead: float, per_row: float, looks: int
) -> list[int]:
    """Let batches go by that cost what the model says; the size after each."""
    sizes = []
    for _ in range(looks):
        rows = batcher.batch_size()
        seconds = overhead + per_row * rows
        clock.now += max(seconds, 0.5)
        batcher.record_batch(rows, seconds)
        sizes.append(batcher.batch_size())
    return sizes


@settings(deadline=None, max_examples=60, derandomize=True)
@given(
    overhead=st.floats(1e-5, 5e-3), per_row=st.floats(1e-7, 1e-4), initial=st.integers(100, 100_000)
)
def test_it_settles_near_the_latency_target_and_stays(
    overhead: float, per_row: float, initial: int
) -> None:
    clock = Clock()
    batcher = AdaptiveBatcher(initial=initial, evaluation_interval=1.0, clock=clock)
    sizes = drive(batcher, clock, overhead, per_row, 400)
    ideal = min(100_000, max(100, (0.02 - overhead) / per_row))
    assert sizes[-1] == pytest.approx(ideal, rel=0.15)
    assert len(set(sizes[-50:])) == 1
    assert batcher.stable


def test_it_approaches_from_one_side_without_swinging() -> None:
    clock = Clock()
    batcher = AdaptiveBatcher(initial=1_000, evaluation_interval=1.0, clock=clock)
    sizes = drive(batcher, clock, 1e-4, 1e-6, 300)
    assert sizes == sorted(sizes)


def test_a_lasting_change_of_cost_moves_it_again() -> None:
    clock = Clock()
    batcher = AdaptiveBatcher(initial=1_000, evaluation_interval=1.0, clock=clock)
    drive(batcher, clock, 1e-4, 1e-6, 300)
    before = batcher.batch_size()
    after = drive(batcher, clock, 1e-4, 1e-5, 600)[-1]
    assert after < before / 5


def test_a_throughput_target_asks_for_no_more_than_it_needs() -> None:
    clock = Clock()
    batcher = AdaptiveBatcher(
        initial=1_000, throughput_target=100_000, evaluation_interval=1.0, clock=clock
    )
    size = drive(batcher, clock, 1e-3, 1e-6, 400)[-1]
    # rows / (0.001 + 0.000001 rows) = 100,000 per second at 111 rows.
    assert size == pytest.approx(111, rel=0.2)


def test_sizes_stay_within_their_bounds() -> None:
    clock = Clock()
    batcher = AdaptiveBatcher(
        initial=500, min_rows=200, max_rows=800, evaluation_interval=1, clock=clock
    )
    assert all(200 <= n <= 800 for n in drive(batcher, clock, 0.0, 1e-9, 100))
    assert all(200 <= n <= 800 for n in drive(batcher, clock, 0.5, 1e-2, 100))


def test_metrics_count_what_went_by() -> None:
    clock = Clock()
    metrics = BatchingMetrics(clock)
    for rows, seconds in ((100, 0.1), (100, 0.3), (1_000, 0.2)):
        metrics.record(rows, seconds)
    clock.now = 2.0
    assert metrics.throughput() == 600.0
    assert metrics.average_latency() == pytest.approx(0.2)
    assert metrics.size_distribution() == {128: 2, 1024: 1}
    assert metrics.totals() == {"rows": 1_200, "batches": 3, "seconds": pytest.approx(0.6)}
