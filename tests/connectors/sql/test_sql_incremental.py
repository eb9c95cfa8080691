"""Rows that arrive with ties and late, over any number of runs: none lost, none doubled."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from databases import execute, read, run
from hypothesis import given, settings
from hypothesis import strategies as st

from dataflare.model.types import parse_type
from dataflare.sdk.sql.incremental import State, Window, lag_of, row_hashes

ARRIVALS = st.lists(
    st.lists(st.tuples(st.none() | st.integers(0, 8), st.integers(0, 3)), max_size=8),
    min_size=1,
    max_size=5,
)
"""For each run the (cursor, value) rows that came before it."""


def one_run(
    table: list[tuple[Any, int]],
    state: State,
    lag: int,
    page_rows: int,
    stop_after: int | None = None,
    initial: int | None = None,
) -> tuple[list[tuple[Any, int]], State, bool]:
    """Rows given by a run that reads pages; it may be interrupted after some pages."""
    window = Window(state, lag, initial)
    order = sorted(table, key=lambda row: (row[0] is not None, row[0] or 0))
    if window.bound is not None:
        order = [row for row in order if row[0] is None or row[0] >= window.bound]
    if state.nulls_done:
        order = [row for row in order if row[0] is not None]
    given_rows: list[tuple[Any, int]] = []
    for number, start in enumerate(range(0, len(order), page_rows)):
        if stop_after is not None and number >= stop_after:
            return given_rows, window.state(), False
        page = pl.DataFrame(
            order[start : start + page_rows], schema={"c": pl.Int64, "v": pl.Int64}, orient="row"
        )
        given_rows += page.filter(window.take(page["c"], row_hashes(page))).rows()
    return given_rows, window.state(), True


@settings(max_examples=150, deadline=None)
@given(
    arrivals=ARRIVALS, lag=st.integers(0, 3), page_rows=st.integers(1, 4), stops=st.lists(st.integers(0, 3)),
    initial=st.none() | st.integers(0, 8),
)  # fmt: skip
def test_each_row_inside_the_lag_is_given_once(arrivals, lag, page_rows, stops, initial):
    state, table, got = State(), [], []
    wanted: list[tuple[Any, int]] = []
    interruptions = iter(stops)
    for number, came in enumerate(arrivals):
        bound = None if state.last is None else state.last - lag
        for row in came:
            table.append(row)
            if row[0] is None:
                wanted += [row] if number == 0 else []
            elif (bound is None or row[0] >= bound) and (initial is None or row[0] >= initial):
                wanted.append(row)
        done = False
        while not done:
            stop_after = next(interruptions, None)
            rows, state, done = one_run(table, state, lag, page_rows, stop_after, initial)
            got += rows
            state = State.from_json(state.to_json())
        state = State.from_json(state.finished().to_json())
    assert sorted(got, key=str) == sorted(wanted, key=str)
    assert state.null_rows == sum(row[0] is None for row in wanted)


@pytest.mark.parametrize(
    ("type_", "seconds", "units"),
    [
        ("date", 1, 1),
        ("date", 86_400, 1),
        ("date", 86_401, 2),
        ("timestamp[ms]", 1.5, 1_500),
        ("timestamp[ns, UTC]", 1.5, 1_500_000_000),
        ("decimal(10, 2)", 1.5, 150),
        ("int64", 3, 3),
        ("float64", 1.5, 1.5),
    ],
)
def test_a_lag_covers_at_least_what_is_said(type_: str, seconds: float, units: float) -> None:
    assert lag_of(parse_type(type_), seconds) == units


@settings(max_examples=10, deadline=None)
@given(arrivals=ARRIVALS, lag=st.integers(0, 2), keyed=st.booleans())
def test_a_database_gives_each_row_once(kind, arrivals, lag, keyed):
    async def go(folder: Path) -> None:
        key = "integer primary key" if keyed else "integer"
        execute(
            kind, folder / "data.db", f"create table t (id {key}, seen_at timestamp, v integer)"
        )
        carried, identity, last, wanted, got = None, 0, None, [], []
        for number, came in enumerate(arrivals):
            inserts = []
            for cursor, value in came:
                identity += 1
                seen_at = "null" if cursor is None else f"'2024-01-01 00:00:0{cursor}'"
                inserts.append(f"insert into t values ({identity}, {seen_at}, {value})")
                if cursor is None:
                    wanted += [identity] if number == 0 else []
                elif last is None or cursor >= last - lag:
                    wanted.append(identity)
            execute(kind, folder / "data.db", *inserts)
            incremental = {"column": "seen_at", "lag": f"{lag}s" if lag else 0}
            found, carried = await read(
                kind, folder, table="t", incremental=incremental, carried=carried, rows_max=3
            )
            got += found["id"].to_list()
            known = [
                cursor
                for came_ in arrivals[: number + 1]
                for cursor, _ in came_
                if cursor is not None
            ]
            last = max(known, default=None)
        assert sorted(got) == sorted(wanted)

    with tempfile.TemporaryDirectory() as folder:
        run(go(Path(folder)))


def test_an_updated_row_is_given_again_and_an_initial_value_starts(kind, tmp_path):
    async def go():
        path = tmp_path / "data.db"
        execute(
            kind, path, "create table t (id integer primary key, seen_at timestamp)",
            "insert into t values (1, '2024-01-01 00:00:00'), (2, '2024-01-02 00:00:00'), (3, null)",
        )  # fmt: skip
        settings_ = {"column": "seen_at", "initial_value": "2024-01-02T00:00:00Z", "lag": "1h"}
        found, carried = await read(kind, tmp_path, table="t", incremental=settings_)
        assert sorted(found["id"].to_list()) == [2, 3]
        execute(kind, path, "update t set seen_at = '2024-01-02 00:30:00' where id = 2")
        found, carried = await read(
            kind, tmp_path, table="t", incremental=settings_, carried=carried
        )
        assert found["id"].to_list() == [2]
        found, carried = await read(
            kind, tmp_path, table="t", incremental=settings_, carried=carried
        )
        assert found["id"].to_list() == []
        assert carried["null_rows"] == 1

    run(go())


def test_a_query_may_be_read_incrementally(kind, tmp_path):
    async def go():
        path = tmp_path / "data.db"
        execute(kind, path, "create table t (id integer)", "insert into t values (1), (2), (2)")
        config = {"query": "select id, id * 2 as twice from t", "incremental": {"column": "id"}}
        found, carried = await read(kind, tmp_path, **config, rows_max=1)
        assert sorted(found["twice"].to_list()) == [2, 4, 4]
        execute(kind, path, "insert into t values (2), (3)")
        found, carried = await read(kind, tmp_path, **config, carried=carried, rows_max=1)
        assert sorted(found["id"].to_list()) == [2, 3]

    run(go())
