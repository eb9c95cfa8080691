"""Random rows of several splits, fed to a window step in random batches."""

from __future__ import annotations

import random
from typing import Any

from msgspec import Struct
from reference import Row
from window_runs import WindowRun

from dataflare.model.event_time import NEVER

SECOND = 1_000_000
BASE = 1_700_000_000 * SECOND


class Case(Struct, frozen=True):
    """config: of the step. splits: rows by split, in their order."""

    config: dict[str, Any]
    splits: list[list[Row]]
    lateness: int


def random_splits(chance: random.Random, disorder: float, slack: int) -> list[list[Row]]:
    """Rows up to `disorder` seconds out of order. slack: `out_of_orderness`."""
    keys = chance.choice([["a"], ["a", "b", None], [f"k{n}" for n in range(20)]])
    pace = chance.choice([0.05, 0.5, 3, 40])
    number, splits = 0, []
    for _ in range(chance.choice([1, 2, 3])):
        rows: list[Row] = []
        clock, greatest = 0.0, -(10**18)
        for _ in range(chance.randrange(60)):
            clock += chance.random() * pace
            time = BASE + int((clock - chance.random() * disorder) * SECOND)
            greatest = max(greatest, time)
            value = chance.choice([None, *range(-5, 6)])
            rows.append(Row(chance.choice(keys), time, value, greatest - slack * SECOND, number))
            number += 1
        splits.append(rows)
    return splits


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
        if "trigger" in case.config and chance.random() < 0.3:
            run.tick()
        if chance.random() < 0.3:
            run.store()
            stored = list(feed.at)
        if left and chance.random() < 0.2:
            left -= 1
            run.restart(chance.choice([1, 2, 3]))
            feed.at = list(stored)
    run.end(chance.choice([None, 1, 2, 3]) if crashes else None, chance.choice([1, 2, 3]))
    return run
