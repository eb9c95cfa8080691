"""The laws of windows, over random rows: whatever the batches, the splits, the checkpoints, the crashes and the
number of subtasks, the windows and the late rows are those of a plain evaluation."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from msgspec import Struct
from reference import MEASURES, Outcome, Row, evaluate, measured, periodic
from window_runs import WindowRun

from dataflare.model.event_time import NEVER, TIME_COLUMN, WATERMARK_COLUMN
from dataflare.state import log as log_module
from dataflare.state import slices as slices_module

SECOND = 1_000_000
BASE = 1_700_000_000 * SECOND


class Case(Struct, frozen=True):
    """A random run. splits: rows by split, in their order."""

    config: dict[str, Any]
    size: int
    slide: int
    offset: int
    lateness: int
    splits: list[list[Row]]
    seed: int

    @property
    def expected(self) -> Outcome:
        rows = sorted((row for split in self.splits for row in split), key=lambda row: row.number)
        return evaluate(rows, periodic(self.size, self.slide, self.offset), self.lateness)


def random_case(seed: int) -> Case:
    chance = random.Random(seed)
    size = chance.choice([1, 2, 3, 5, 10, 60])
    slide = chance.choice([size, size, *(s for s in (1, 2, 3, 4, 7, 10) if s <= size)])
    offset = chance.choice([0, 0, 1, 7])
    lateness = chance.choice([0, 0, 1, 5, 30])
    disorder = chance.choice([0, 2, 10, 40])
    slack = chance.choice([0, disorder, 5])
    keys = chance.choice([["a"], ["a", "b", None], [f"k{n}" for n in range(20)]])
    pace = chance.choice([0.05, 0.5, 3, 40])
    number, splits = 0, []
    for _ in range(chance.choice([1, 2, 3])):
        rows: list[Row] = []
        clock, greatest = 0.0, -(10**9)
        for _ in range(chance.randrange(60)):
            clock += chance.random() * pace
            time = BASE + int((clock - chance.random() * disorder) * SECOND)
            greatest = max(greatest, time)
            value = chance.choice([None, *range(-5, 6)])
            rows.append(Row(chance.choice(keys), time, value, greatest - slack * SECOND, number))
            number += 1
        splits.append(rows)
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
    return Case(
        config, size * SECOND, slide * SECOND, offset * SECOND, lateness * SECOND, splits, seed
    )


class Feed:
    """Gives the rows of the splits in random batches. A watermark follows each batch."""

    def __init__(self, case: Case, chance: random.Random) -> None:
        self.case, self.chance = case, chance
        self.at = [0] * len(case.splits)

    def batch(self) -> list[Row]:
        number = self.chance.choice([n for n in range(len(self.at)) if self._left(n)])
        start = self.at[number]
        self.at[number] += self.chance.randrange(1, self._left(number) + 1)
        return self.case.splits[number][start : self.at[number]]

    def watermark(self) -> int:
        """Of all splits that have rows left; of those that have none it is infinite."""
        marks = [
            split[at - 1].watermark if at else NEVER
            for split, at in zip(self.case.splits, self.at, strict=True)
            if at < len(split)
        ]
        return min(marks, default=NEVER)

    @property
    def is_done(self) -> bool:
        return not any(map(self._left, range(len(self.at))))

    def _left(self, number: int) -> int:
        return len(self.case.splits[number]) - self.at[number]


def keyed(case: Case, row: Row) -> Row:
    return (
        row
        if case.config["group_by"]
        else Row(None, row.time, row.value, row.watermark, row.number)
    )


def run_of(case: Case, seed: int, *, crashes: bool = True) -> WindowRun:
    """Feed it all, with checkpoints and crashes at random moments."""
    chance = random.Random(seed)
    run, feed = WindowRun(case.config, chance.choice([1, 1, 2, 3])), Feed(case, chance)
    run.store()
    stored = list(feed.at)
    left = chance.choice([0, 1, 3]) if crashes else 0
    while not feed.is_done:
        run.rows(feed.batch())
        if chance.random() < 0.8:
            run.watermark(feed.watermark())
        if chance.random() < 0.3:
            run.store()
            stored = list(feed.at)
        if left and chance.random() < 0.2:
            left -= 1
            run.restart(chance.choice([1, 2, 3]))
            feed.at = list(stored)
    run.end(chance.choice([None, 1, 2, 3]) if crashes else None, chance.choice([1, 2, 3]))
    return run


def check(case: Case, run: WindowRun) -> None:
    grouped = Case(
        **{
            **{f: getattr(case, f) for f in case.__struct_fields__},
            "splits": [[keyed(case, r) for r in s] for s in case.splits],
        }
    )
    expected = grouped.expected
    assert sorted(row["number"] for row in run.given.late) == expected.late
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
        case = random_case(seed)
        for run in (seed * 2, seed * 2 + 1):
            try:
                check(case, run_of(case, run))
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
        case = random_case(seed)
        check(case, run_of(case, seed))
