"""Windows of many keys over times from the year 1 to the year 9999: sums of times and keys do not overflow."""

from __future__ import annotations

import random
from typing import Any

import polars as pl
import pytest
from reference import MEASURES, Row, evaluate, measured, periodic
from test_session_laws import by_times
from window_feeds import SECOND, Case, run_of
from window_runs import WindowRun

from dataflare.operators.window_rows import FIRED, FIRST, LAST
from dataflare.operators.window_session_merge import sessions

YEAR = 365 * 86_400
FIRST_SECOND, LAST_SECOND = -62_135_596_800 + YEAR, 253_402_300_799 - 2 * YEAR
PLACES = (FIRST_SECOND, -1, 0, 1_700_000_000, LAST_SECOND)
GAPS = (1, 30, YEAR)


def far_time(chance: random.Random) -> int:
    """A whole second, near one of the places or anywhere."""
    near = chance.choice(PLACES) + chance.randrange(90)
    return SECOND * chance.choice([near, near, chance.randrange(FIRST_SECOND, LAST_SECOND)])


def far_rows(chance: random.Random, keys: int, *, in_time: bool) -> list[Row]:
    """in_time: rows come in the order of their times, so none is late."""
    rows = [(f"k{chance.randrange(keys)}", far_time(chance)) for _ in range(4 * keys)]
    if in_time:
        rows.sort(key=lambda row: row[1])
    found, greatest = [], FIRST_SECOND * SECOND
    for number, (key, time) in enumerate(rows):
        greatest = max(greatest, time)
        found.append(Row(key, time, chance.randrange(9), greatest, number))
    return found


def given(run: WindowRun) -> dict[Any, dict[str, Any]]:
    found = {}
    for row in run.given.results:
        at = (int(row[name].timestamp()) * SECOND for name in ("window_start", "window_end"))
        key = (row["k"], tuple(at))
        assert key not in found
        found[key] = {name: row[name] for name in MEASURES}
    return found


def config(kind: str, **more: str) -> dict[str, Any]:
    return {"kind": kind, "group_by": ["k"], "measures": MEASURES, **more}


@pytest.mark.parametrize("keys", [1, 40, 300])
@pytest.mark.parametrize("gap", GAPS)
def test_sessions_of_many_keys_over_all_years(keys: int, gap: int) -> None:
    chance = random.Random(f"{keys} {gap}")
    step = config("session", gap=f"{gap}s")
    rows = far_rows(chance, keys, in_time=True)
    streaming = run_of(Case(step, [rows], 0), chance.randrange(99))
    assert given(streaming) == by_times(rows, gap * SECOND)
    assert streaming.given.late == []
    rows = far_rows(chance, keys, in_time=False)
    batch = WindowRun(step, streams=False)
    for start in range(0, len(rows), 97):
        batch.rows(rows[start : start + 97])
    batch.end()
    assert given(batch) == by_times(rows, gap * SECOND)


@pytest.mark.parametrize("gap", [0, 3 * SECOND, YEAR * SECOND])
def test_sessions_inside_one_another_are_merged_by_key(gap: int) -> None:
    chance = random.Random(gap)
    spans = []
    for _ in range(3_000):
        first = far_time(chance)
        length = chance.choice([0, chance.randrange(9) * SECOND, chance.randrange(9 * YEAR)])
        spans.append((chance.randrange(900), first, first + length))
    expected = []
    for key, first, last in sorted(spans):
        if expected and expected[-1][0] == key and first - expected[-1][2] <= gap:
            expected[-1][2] = max(expected[-1][2], last)
            expected[-1][3] += 1
        else:
            expected.append([key, first, last, 1])
    frame = pl.DataFrame(spans, schema=["key", FIRST, LAST], orient="row")
    frame = frame.with_columns(pl.lit(0, pl.Int8).alias(FIRED), pl.lit(1).alias("n"))
    merged = sessions(frame, ["key"], gap, [pl.col("n").sum()])
    assert [list(row) for row in merged.drop(FIRED).rows()] == expected


@pytest.mark.parametrize("slide", [7, YEAR // 5])
@pytest.mark.parametrize("panes", [1, 3])
def test_tumbling_and_sliding_windows_over_all_years(slide: int, panes: int) -> None:
    chance = random.Random(f"{slide} {panes}")
    size = slide * panes
    kind = "tumbling" if panes == 1 else "sliding"
    more = {"size": f"{size}s"} | ({} if panes == 1 else {"slide": f"{slide}s"})
    for in_time in (True, False):
        rows = far_rows(chance, 40, in_time=in_time)
        expected = evaluate(rows, periodic(size * SECOND, slide * SECOND), 0)
        run = run_of(Case(config(kind, **more), [rows], 0), chance.randrange(99))
        assert given(run) == {at: measured(taken) for at, taken in expected.windows.items()}
        assert sorted(row["number"] for row in run.given.late) == expected.late
