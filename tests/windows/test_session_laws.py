"""The laws of sessions, over random rows: whatever the batches, the splits, the checkpoints, the crashes and the
number of subtasks."""

from __future__ import annotations

import random
from collections import Counter
from itertools import groupby
from typing import Any

import pytest
from reference import MEASURES, Row, in_order, measured
from window_feeds import BASE, SECOND, Case, keyed, random_splits, run_of
from window_runs import WindowRun

from dataflare.model.event_time import TIME_COLUMN
from dataflare.state import log as log_module


def random_case(seed: int, *, late: bool) -> tuple[Case, int]:
    chance = random.Random(seed)
    gap = chance.choice([1, 3, 10, 30])
    lateness = chance.choice([0, 0, 5, 20])
    disorder = chance.choice([5, 20, 60]) if late else chance.choice([0, 2, 10])
    slack = chance.choice([0, 2]) if late else disorder
    config: dict[str, Any] = {
        "kind": "session",
        "gap": f"{gap}s",
        "group_by": chance.choice([["k"], ["k"], []]),
        "measures": MEASURES,
        "allowed_lateness": f"{lateness}s" if lateness else 0,
    }
    splits = random_splits(chance, disorder, slack)
    return Case(config, splits, lateness * SECOND), gap * SECOND


def by_times(rows: list[Row], gap: int) -> dict[Any, dict[str, Any]]:
    """Sessions by their times alone, with what they measure."""
    found = {}
    rows = sorted(rows, key=lambda row: (str(row.key), row.time, row.number))
    for key, of_key in groupby(rows, key=lambda row: row.key):
        session: list[Row] = []
        for row in [*of_key, None]:
            if session and (row is None or row.time > session[-1].time + gap):
                at = (key, (session[0].time, session[-1].time + gap))
                found[at] = measured(in_order(session))
                session = []
            if row is not None:
                session.append(row)
    return found


def given(run: WindowRun) -> tuple[dict[Any, dict[str, Any]], Counter[Any]]:
    """The sessions that came out, and how often each did."""
    found: dict[Any, dict[str, Any]] = {}
    count: Counter[Any] = Counter()
    for row in run.given.results:
        start, end = (int(row[n].timestamp() * SECOND) for n in ("window_start", "window_end"))
        assert row[TIME_COLUMN] == end - 1
        at = (row.get("k"), (start, end))
        found[at] = {name: row[name] for name in MEASURES}
        count[at] += 1
    return found, count


@pytest.mark.parametrize("part", range(2))
def test_sessions_of_rows_in_time_are_those_of_their_times(part: int) -> None:
    for seed in range(part, 50, 2):
        case, gap = random_case(seed, late=False)
        expected = by_times([keyed(case, row) for split in case.splits for row in split], gap)
        for at in (seed, seed + 1):
            run = run_of(case, at)
            found, count = given(run)
            assert found == expected, (seed, at, case.config)
            assert set(count.values()) <= {1}
            assert not run.given.late


def test_also_where_state_is_split(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "SMALL_ROWS", 5)
    monkeypatch.setattr(log_module, "LOG_PARTIALS", 2)
    for seed in range(500, 515):
        case, gap = random_case(seed, late=False)
        expected = by_times([keyed(case, row) for split in case.splits for row in split], gap)
        assert given(run_of(case, seed))[0] == expected


def test_each_row_is_in_one_session_or_late() -> None:
    for seed in range(35):
        case, gap = random_case(seed, late=True)
        rows = [keyed(case, row) for split in case.splits for row in split]
        run = run_of(case, seed)
        late = [row["number"] for row in run.given.late]
        assert len(set(late)) == len(late)
        for row in rows:
            if row.number in late:
                assert row.time + gap < row.watermark - case.lateness
        if not case.lateness:
            found, count = given(run)
            assert set(count.values()) <= {1}
            assert sum(each["n"] for each in found.values()) + len(late) == len(rows), seed


GAP = {"kind": "session", "gap": "10s", "group_by": ["k"], "measures": {"n": "count(*)"}}


def rows(*times: tuple[int, int]) -> list[Row]:
    """Rows of one key at these seconds, with watermarks."""
    return [Row("a", BASE + t * SECOND, 1, BASE + w * SECOND, n) for n, (t, w) in enumerate(times)]


def shown(run: WindowRun) -> list[tuple[int, int, int]]:
    seconds = BASE // SECOND
    return [
        (
            int(r["window_start"].timestamp()) - seconds,
            int(r["window_end"].timestamp()) - seconds,
            r["n"],
        )
        for r in run.given.results
    ]


def test_two_rows_exactly_a_gap_apart_are_together() -> None:
    run = WindowRun(GAP)
    run.rows(rows((0, 0), (10, 10), (20, 20), (31, 31)))
    run.end()
    assert shown(run) == [(0, 30, 3), (31, 41, 1)]


def test_a_row_behind_its_watermark_joins_a_session_that_is_open_for_it() -> None:
    run = WindowRun(GAP)
    run.rows(rows((0, 0), (8, 8), (16, 16), (24, 24), (5, 24)))
    run.watermark(BASE + 24 * SECOND)
    run.watermark(BASE + 50 * SECOND)
    assert shown(run) == [(0, 34, 5)]
    assert run.given.late == []


def test_a_row_whose_session_is_closed_is_late() -> None:
    run = WindowRun(GAP)
    run.rows(rows((0, 0), (40, 40), (5, 40)))
    run.watermark(BASE + 40 * SECOND)
    assert shown(run) == [(0, 10, 1)]
    run.end()
    assert [row["number"] for row in run.given.late] == [2]
    assert shown(run) == [(0, 10, 1), (40, 50, 1)]


def test_within_the_allowed_lateness_a_session_comes_again_with_the_late_row() -> None:
    run = WindowRun({**GAP, "allowed_lateness": "30s"})
    run.rows(rows((0, 0), (40, 35)))
    run.watermark(BASE + 35 * SECOND)
    assert shown(run) == [(0, 10, 1)]
    run.rows(rows((5, 35)))
    assert shown(run) == [(0, 10, 1), (0, 15, 2)]
    run.end()
    assert shown(run) == [(0, 10, 1), (0, 15, 2), (40, 50, 1)]


def test_a_global_window_has_all_rows_of_a_key() -> None:
    run = WindowRun({"kind": "global", "group_by": ["k"], "measures": {"n": "count(*)"}})
    run.rows(rows((0, 0), (1000, 1000), (5, 1000)))
    run.watermark(BASE + 1000 * SECOND)
    run.end()
    (row,) = run.given.results
    assert (row["k"], row["window_start"], row["window_end"], row["n"]) == ("a", None, None, 3)
    assert row[TIME_COLUMN] == BASE + 1000 * SECOND
