"""What a run counted: each epoch holds what its tasks had counted when they answered for it."""

from __future__ import annotations

from dataflare.engine.metrics import JobMetrics


def test_rows_behind_a_barrier_belong_to_the_next_epoch() -> None:
    metrics = JobMetrics({"s": "source"})
    quick, slow = metrics.of_task("s"), metrics.of_task("s")
    quick.step("s").rows_out = 5
    quick.cut(1)
    quick.step("s").rows_out = 8
    slow.step("s").rows_out = 2
    slow.cut(1)
    metrics.publish(1)
    assert metrics.steps["s"].rows_out == 10
    metrics.begin(1)
    assert metrics.steps["s"].rows_out == 7, "what was counted behind the barrier is counted again"


def test_an_epoch_that_was_published_and_not_committed_counts_once_it_is_found_so() -> None:
    metrics = JobMetrics({"s": "source"})
    task = metrics.of_task("s")
    for epoch, rows in ((1, 3), (2, 9)):
        task.step("s").rows_out = rows
        task.cut(epoch)
        metrics.publish(epoch)
        if epoch == 1:
            metrics.commit(1)
    metrics.begin(1)
    assert metrics.steps["s"].rows_out == 3
