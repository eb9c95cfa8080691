"""The laws of tumbling and sliding windows, over random rows: whatever the batches, the splits, the checkpoints,
the crashes and the number of subtasks, the windows and the late rows are those of a plain evaluation."""

from __future__ import annotations

import random
from collections import Counter
from itertools import islice
from typing import Any

import pytest
from reference import MEASURES, evaluate, measured, periodic
from window_feeds import SECOND, Case, keyed, random_splits, run_of
from window_runs import WindowRun

from dataflare.model.event_time import TIME_COLUMN, WATERMARK_COLUMN
from dataflare.operators import window_panes as panes_module
from dataflare.state import log as log_module
from dataflare.state import slices as slices_module

pytestmark = pytest.mark.rotates(2)

Sizes = tuple[int, int, int]


def random_case(seed: int) -> tuple[Case, Sizes]:
    """A run, and the size, slide and offset of its windows."""
    chance = random.Random(seed)
    size = chance.choice([1, 2, 3, 5, 10, 60])
    slide = chance.choice([size, size, *(s for s in (1, 2, 3, 4, 7, 10) if s <= size)])
    offset = chance.choice([0, 0, 1, 7])
    lateness = chance.choice([0, 0, 1, 5, 30])
    disorder = chance.choice([0, 2, 10, 40])
    slack = chance.choice([0, disorder, 5])
    config: dict[str, Any] = {
        "kind": "tumbling" if slide == size else "sliding",
        "size": f"{size}s",
        "group_by": chance.choice([["k"], ["k"], []]),
        "measures": MEASURES,
        "offset": f"{offset}s" if offset else 0,
        "allowed_lateness": f"{lateness}s" if lateness else 0,
    }
    if slide != size:
        config["slide"] = f"{slide}s"
    case = Case(config, random_splits(chance, disorder, slack), lateness * SECOND)
    return case, (size * SECOND, slide * SECOND, offset * SECOND)


def check(case: Case, sizes: Sizes, run: WindowRun) -> None:
    rows = [keyed(case, row) for split in case.splits for row in split]
    expected = evaluate(rows, periodic(*sizes), case.lateness)
    assert sorted(row["number"] for row in run.given.late) == expected.late
    assert sorted(row["number"] for row in run.given.in_part) == expected.in_part
    final: dict[Any, dict[str, Any]] = {}
    count: Counter[Any] = Counter()
    for row in run.given.results:
        start, end = (
            int(row[name].timestamp() * SECOND) for name in ("window_start", "window_end")
        )
        at = (row.get("k"), (start, end))
        final[at] = {name: row[name] for name in MEASURES}
        count[at] += 1
        assert row[TIME_COLUMN] == end - 1
        assert row[WATERMARK_COLUMN] >= end - 1
    assert final == {at: measured(values) for at, values in expected.windows.items()}
    if not case.lateness:
        assert set(count.values()) <= {1}


SEEDS = 80


@pytest.mark.parametrize("part", range(4))
def test_windows_and_late_rows_are_those_of_a_plain_evaluation(part: int) -> None:
    for seed in range(part, SEEDS, 4):
        case, sizes = random_case(seed)
        for run in (seed * 2, seed * 2 + 1):
            try:
                check(case, sizes, run_of(case, run))
            except BaseException as error:
                error.add_note(f"case {seed}, run {run}: {case.config}")
                raise


@pytest.mark.parametrize("sizes", [(1, 1, 1), (20, 2, 4)])
def test_also_where_state_is_split_and_slices_are_wide(
    sizes: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_module, "SMALL_ROWS", sizes[0])
    monkeypatch.setattr(log_module, "LOG_PARTIALS", sizes[1])
    monkeypatch.setattr(slices_module, "SLICES_MAX", sizes[2])
    for seed in range(1000, 1020):
        case, sizes = random_case(seed)
        check(case, sizes, run_of(case, seed))


def test_sliding_windows_that_are_merged_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(panes_module, "_COPIES_MAX", 0)
    seeds = (seed for seed in range(2000, 3000) if random_case(seed)[0].config["kind"] == "sliding")
    for seed in islice(seeds, 16):
        case, sizes = random_case(seed)
        try:
            check(case, sizes, run_of(case, seed))
        except BaseException as error:
            error.add_note(f"case {seed}: {case.config}")
            raise
