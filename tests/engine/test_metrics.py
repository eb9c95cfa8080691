"""What a run counted: each epoch holds what its tasks had counted when they answered for it."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import asdict

from dataflare.engine.metrics import JobMetrics, LeftOut, StepMetrics
from dataflare.observability.times import RuleCount

NOT_COUNTS = {"kind", "tasks", "ended", "watermark_us", "kept_bytes"}
"""What a step is, or where it stands."""
IN_A_RESULT = {
    *("rows_in", "rows_out", "bytes_out", "errors", "dead_letters", "late", "late_in_part"),
    *("degraded", "diverted", "kept_bytes"),
}
NOT_IN_A_RESULT = {
    "taken_back",
    *("kind", "refused", "ending", "seconds", "tasks", "ended", "watermark_us", "late_unread"),
    *("warnings", "left_out", "shares"),
}
"""The watermark is there as a time; the rest is told in warnings, or is for the run itself."""


def counted(field: str, number: int) -> Any:
    """A count of so much."""
    match field:
        case "late_unread" | "warnings" | "diverted":
            return {"a": number}
        case "left_out":
            return {"a": LeftOut(number, "row 1")}
        case "shares":
            return {"a": RuleCount(number, number)}
    return number


COUNTS = [name for name in StepMetrics.__struct_fields__ if name not in NOT_COUNTS]


@pytest.mark.parametrize("field", COUNTS)
def test_every_count_is_added_and_taken_away(field: str) -> None:
    total = StepMetrics(**{field: counted(field, 3)})
    total.add(StepMetrics(**{field: counted(field, 4)}))
    assert asdict(total) == asdict(StepMetrics(**{field: counted(field, 7)}))
    less = total.less(StepMetrics(**{field: counted(field, 2)}))
    assert asdict(less) == asdict(StepMetrics(**{field: counted(field, 5)}))


def test_every_count_is_in_a_result_or_is_named_as_one_that_is_not() -> None:
    assert set(StepMetrics.__struct_fields__) == IN_A_RESULT | NOT_IN_A_RESULT
    counts = {name: counted(name, 5) for name in IN_A_RESULT}
    assert StepMetrics(**counts).to_json() == counts


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
