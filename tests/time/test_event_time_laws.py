"""Whatever the batches, the subtasks, the checkpoints and the crashes: the same windows and the same late rows.

A plain evaluator, row by row, says what is right. The engine gets the same rows in other batches, from several
splits, with another parallelism before and after a crash.
"""

from __future__ import annotations

import datetime
import random
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from dataflare import Workflow
from dataflare.testing import Checkpoint, Crash, Lab, ScriptedSource

pytestmark = pytest.mark.rotates(2)

START = datetime.datetime(2026, 3, 1, tzinfo=datetime.UTC)
SECOND = datetime.timedelta(seconds=1)
SEEDS, PER_TEST = 500, 25

Row = dict[str, Any]


class Case:
    """A window, rows of several splits, and where to stop."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        pick = self.random
        self.size = pick.choice([4, 10, 30])
        self.slide = pick.choice([self.size, self.size, self.size // 2, 1])
        self.disorder = pick.choice([0, 3, 12])
        self.out_of_orderness = pick.choice([0, 3, 12])
        self.lateness = pick.choice([0, 0, 5])
        self.keyed = pick.random() < 0.8
        self.batch = pick.choice([1, 2, 7, 100])
        self.splits = [self._rows(split) for split in range(pick.choice([1, 1, 2, 3]))]

    def _rows(self, split: int) -> list[Row]:
        pick, time, rows = self.random, 0, []
        for number in range(pick.randrange(1, 40)):
            time += pick.choice([0, 1, 1, 2, 9])
            late = pick.randrange(self.disorder + 1)
            rows.append(
                {
                    "id": f"{split}.{number}",
                    "k": pick.choice(["a", "b", None]),
                    "v": pick.randrange(100),
                    "at": START + (time - late) * SECOND,
                }
            )
        return rows

    def script(self) -> list[list[Any]]:
        """The rows of each split with marks among them."""
        scripts: list[list[Any]] = []
        for rows in self.splits:
            items: list[Any] = []
            for row in rows:
                items.append(row)
                if self.random.random() < 0.05:
                    items.append(Checkpoint())
            scripts.append(items)
        if self.random.random() < 0.7:
            crashing = self.random.choice(scripts)
            crashing.insert(self.random.randrange(len(crashing) + 1), Crash())
        return scripts

    def workflow(self, parallelism: int) -> Workflow:
        wf = Workflow(
            "law",
            settings={
                "mode": "streaming",
                "parallelism": parallelism,
                "batch": {"initial": self.batch, "min": 1, "max": self.batch},
            },
        )
        event_time = {"column": "at", "out_of_orderness": f"{self.out_of_orderness}s"}
        schema = {"id": "string", "k": "string", "v": "int64", "at": "timestamp[us, UTC]"}
        source = ScriptedSource(*self.script(), schema=schema)
        rows = source.add_to(wf, "rows", event_time=event_time)
        window = rows.process(
            "windowed",
            "window",
            kind="tumbling" if self.slide == self.size else "sliding",
            size=f"{self.size}s",
            **({} if self.slide == self.size else {"slide": f"{self.slide}s"}),
            group_by=["k"] if self.keyed else [],
            measures={"n": "count(*)", "total": "sum(v)", "ids": "string_agg(id, ' ' ORDER BY id)"},
            allowed_lateness=f"{self.lateness}s",
        )
        window.to("windows", "memory")
        window.output("late").to("late", "memory")
        return wf

    def expected(self) -> tuple[dict[Any, Any], list[str]]:
        """Row by row: the rows of each window by its key, start and end, and the late rows."""
        windows: dict[Any, list[Row]] = defaultdict(list)
        late: list[str] = []
        for rows in self.splits:
            seen: int | None = None
            for row in rows:
                time = round((row["at"] - START).total_seconds())
                seen = time if seen is None else max(seen, time)
                watermark = seen - self.out_of_orderness
                first = time // self.slide * self.slide
                starts = [
                    s for s in range(first, time - self.size, -self.slide) if s + self.size > time
                ]
                taking = [s for s in starts if s + self.size + self.lateness > watermark]
                if not taking:
                    late.append(row["id"])
                for start in taking:
                    windows[(row["k"] if self.keyed else None, start)].append(row)
        sums = {
            key: (
                len(rows),
                sum(row["v"] for row in rows),
                " ".join(sorted(row["id"] for row in rows)),
            )
            for key, rows in windows.items()
        }
        return sums, sorted(late)


@pytest.mark.parametrize("first", range(0, SEEDS, PER_TEST))
def test_windows_and_late_rows_are_those_of_the_plain_evaluator(first: int, tmp_path: Path) -> None:
    for seed in range(first, first + PER_TEST):
        case = Case(seed)
        lab = Lab(tmp_path / str(seed))
        wf = case.workflow(case.random.choice([1, 2, 4]))
        result = lab.run(wf, restarts=0)
        if result.status == "failed":
            result = lab.run(wf, parallelism=case.random.choice([1, 2, 3]), restarts=0)
        assert result.status == "finished", (seed, result.error)
        windows, late = case.expected()
        got: dict[Any, tuple[int, int, str]] = {}
        fired = 0
        for row in lab.rows("windows"):
            start = round((row["window_start"] - START).total_seconds())
            assert row["window_end"] - row["window_start"] == case.size * SECOND
            key = (row.get("k"), start)
            fired += 1
            # Each later row within allowed_lateness fires the window again, with all of its rows.
            got[key] = max(got.get(key, (0, 0, "")), (row["n"], row["total"], row["ids"]))
        assert got == windows, seed
        assert sorted(row["id"] for row in lab.rows("late")) == late, seed
        if not case.lateness:
            assert fired == len(windows), f"seed {seed}: a window came twice"
