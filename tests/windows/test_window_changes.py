"""Results that come early, again or for windows without rows: triggers, changelogs and filling."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import test_session_laws
import test_window_laws
from reference import MEASURES, Row, evaluate, measured, periodic
from test_session_laws import by_times
from window_feeds import BASE, SECOND, Case, keyed, run_of
from window_runs import WindowRun

from dataflare.model.batch import KIND_COLUMN, RowKind

EVERY = {"trigger": {"every": "1s"}}
UPDATES = {"emit": "updates"}


def with_config(case: Case, **more: Any) -> Case:
    return Case({**case.config, **more}, case.splits, case.lateness)


def at_of(row: dict[str, Any]) -> tuple[Any, tuple[int, int]]:
    start, end = (int(row[n].timestamp() * SECOND) for n in ("window_start", "window_end"))
    return row.get("k"), (start, end)


def values(row: dict[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in MEASURES}


def folded(rows: list[dict[str, Any]]) -> dict[Any, dict[str, Any]]:
    """The table that a changelog describes. Each change fits what is there, and halves stand side by side."""
    table: dict[Any, dict[str, Any]] = {}
    for before, row in pairwise([{KIND_COLUMN: None}, *rows]):
        kind, at = row[KIND_COLUMN], at_of(row)
        assert (before[KIND_COLUMN] == RowKind.UPDATE_BEFORE) == (kind == RowKind.UPDATE_AFTER)
        if kind in (RowKind.UPDATE_BEFORE, RowKind.DELETE):
            assert table.pop(at) == values(row)
        else:
            assert at not in table
            table[at] = values(row)
    return table


@pytest.mark.parametrize("more", [EVERY, UPDATES, {**EVERY, **UPDATES}])
def test_the_last_result_of_a_window_has_all_its_rows(more: dict[str, Any]) -> None:
    for seed in range(3000, 3020):
        case, sizes = test_window_laws.random_case(seed)
        case = with_config(case, **more)
        rows = [keyed(case, row) for split in case.splits for row in split]
        expected = evaluate(rows, periodic(*sizes), case.lateness)
        run = run_of(case, seed)
        results = run.given.results
        if results and KIND_COLUMN in results[0]:
            last = folded(results)
        else:
            last = {at_of(row): values(row) for row in results}
        assert last == {at: measured(taken) for at, taken in expected.windows.items()}, seed


@pytest.mark.parametrize("more", [EVERY, UPDATES, {**EVERY, **UPDATES}])
def test_the_last_result_of_a_session_has_all_its_rows(more: dict[str, Any]) -> None:
    for seed in range(4000, 4020):
        case, gap = test_session_laws.random_case(seed, late=False)
        case = with_config(case, **more)
        run = run_of(case, seed)
        expected = by_times([keyed(case, row) for split in case.splits for row in split], gap)
        results = run.given.results
        if results and KIND_COLUMN in results[0]:
            assert folded(results) == expected, seed
        else:
            last = {at_of(row): values(row) for row in results}
            assert {at: last[at] for at in expected} == expected, seed


def rows_at(*times: int, key: str = "a") -> list[Row]:
    return [Row(key, BASE + t * SECOND, 1, BASE + t * SECOND, t) for t in times]


TEN = {"kind": "tumbling", "size": "10s", "group_by": ["k"], "measures": {"n": "count(*)"}}


def test_a_tick_gives_the_open_windows_that_have_new_rows() -> None:
    run = WindowRun({**TEN, **EVERY})
    run.rows(rows_at(1, 2))
    run.tick()
    run.tick()
    run.rows(rows_at(3))
    run.tick()
    run.watermark(BASE + 10 * SECOND)
    run.rows(rows_at(12))
    run.end()
    assert [row["n"] for row in run.given.results] == [2, 3, 1]


@pytest.mark.parametrize("kind", ["tumbling", "global"])
@pytest.mark.parametrize("size", [1, 2, 5, 7, 30])
def test_a_window_fires_after_each_third_row_whatever_the_batches(kind: str, size: int) -> None:
    config = {
        **TEN,
        "kind": kind,
        "trigger": {"count": 3},
        "measures": {"n": "count(*)", "v": "max(number)"},
    }
    if kind == "global":
        del config["size"]
    run = WindowRun(config)
    rows = [Row("ab"[n % 5 == 4], BASE + n * SECOND // 100, 1, BASE, n) for n in range(30)]
    for start in range(0, 30, size):
        run.rows(rows[start : start + size])
        run.store()
        run.restart(1)
    run.end()
    for key in "ab":
        numbers = [row.number for row in rows if row.key == key]
        expected = [(n, numbers[n - 1]) for n in range(3, len(numbers) + 1, 3)]
        if len(numbers) % 3:
            expected.append((len(numbers), numbers[-1]))
        assert [(r["n"], r["v"]) for r in run.given.results if r["k"] == key] == expected


@pytest.mark.parametrize("fill", ["null", "previous", "0"])
@pytest.mark.parametrize("streams", [True, False])
def test_windows_without_rows_are_filled_up_to_the_last_one_of_any_key(
    fill: str, streams: bool
) -> None:
    config = {**TEN, "fill": fill, "measures": {"n": "count(*)", "high": "max(v)", "who": "min(k)"}}
    run = WindowRun(config, streams=streams)
    batches = [rows_at(1, 2), rows_at(25, key="b"), rows_at(42), rows_at(73, key="b")]
    for number, batch in enumerate(batches):
        run.rows(batch)
        if streams:
            run.watermark(batch[-1].watermark)
        if number == 2:
            run.store()
            run.restart(1)
    run.end()
    none: tuple[Any, ...] = {"null": (None, None, None), "0": (0, 0, None)}.get(fill, ())
    expected = {}
    for key, first, own in (("a", 0, {0: 2, 4: 1}), ("b", 2, {2: 1, 7: 1})):
        last = none
        for window in range(first, 8):
            if window in own:
                last = expected[key, window] = (own[window], 1, key)
            else:
                expected[key, window] = last if fill == "previous" else none
    found = {
        (r["k"], (int(r["window_start"].timestamp()) - BASE // SECOND) // 10): (
            r["n"],
            r["high"],
            r["who"],
        )
        for r in run.given.results
    }
    assert found == expected
    assert len(run.given.results) == len(expected)


def test_late_rows_are_plain_rows_where_results_are_a_changelog() -> None:
    run = WindowRun({**TEN, **UPDATES, "allowed_lateness": "5s"})
    run.rows(rows_at(1))
    run.watermark(BASE + 50 * SECOND)
    run.rows([Row("a", BASE, 1, BASE + 50 * SECOND, 7)])
    run.end()
    (late,) = run.given.late
    assert late["number"] == 7
    assert KIND_COLUMN not in late
