"""An API that is asked for what is new: each row once, over runs, kills, late rows and boundaries."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from http_kit import reading, run
from hypothesis import given, settings
from hypothesis import strategies as st
from servers.web import Answer, Asked, http_server

from dataflare.connectors.http.config import HttpIncremental
from dataflare.formats.text_types import TextColumn
from dataflare.model.types import INT64, STRING, parse_type
from dataflare.sdk.json_pages import Cursor, text_of
from dataflare.sdk.sql.incremental import State

SINCE = {"column": "at", "param": "since"}
PAGED = {"type": "page", "size": 3}


class Api:
    """Rows by `since`, itself included, newest first; pages of three."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows

    def __call__(self, asked: Asked) -> Answer:
        since = asked.params.get("since", "")
        found = [row for row in self.rows if row["at"] is None or row["at"] >= since]
        found.sort(key=lambda row: row["at"] or "", reverse=True)
        start = (int(asked.params.get("page", 1)) - 1) * 3
        return Answer(found[start : start + 3])


def row(number: int, minute: int) -> dict[str, Any]:
    return {"id": number, "at": f"2024-01-01T00:{minute:02}:00Z"}


def flow(url: str, incremental: dict[str, Any], **more: Any) -> dict[str, Any]:
    config = {"url": url, "pagination": PAGED, "incremental": incremental, **more}
    made = reading(config)
    made["destinations"]["out"]["config"] = {"path": "out", "format": "parquet"}
    return made


def ids(folder: Path) -> list[int]:
    """All rows that ever came, by number."""
    return sorted(pl.read_parquet(folder / "out/*.parquet")["id"])


def test_each_run_asks_from_the_last_value_on_and_gives_each_row_once(tmp_path: Path) -> None:
    api = Api([row(n, n) for n in range(5)])
    with http_server(api) as server:
        made = flow(server.url, SINCE)
        assert run(tmp_path, made).status == 0
        assert ids(tmp_path) == [0, 1, 2, 3, 4]
        assert not [a for a in server.asked if "since" in a.params]
        # One of the same time as the last, and later ones over two pages.
        api.rows += [row(5, 4), row(6, 7), row(7, 7), row(8, 9)]
        del server.asked[:]
        assert run(tmp_path, made).status == 0
        assert ids(tmp_path) == list(range(9))
        asked = [a.params.get("since") for a in server.asked]
        assert set(asked[1:]) == {"2024-01-01T00:04:00Z"}
        # Once for the columns, then two pages with rows and the empty one that ends them.
        assert len(asked) == 4
        ran = run(tmp_path, made)
        assert ran.status == 0
        assert ran.result["steps"]["api"]["rows_out"] == 0
        assert ids(tmp_path) == list(range(9))


def test_the_first_run_starts_at_the_initial_value(tmp_path: Path) -> None:
    with http_server(Api([row(n, n) for n in range(9)])) as server:
        made = flow(server.url, {**SINCE, "initial_value": "2024-01-01T00:06:00Z"})
        assert run(tmp_path, made).status == 0
        assert {a.params["since"] for a in server.asked} == {"2024-01-01T00:06:00Z"}
    assert ids(tmp_path) == [6, 7, 8]


def test_late_rows_inside_the_lag_come_once_and_rows_without_a_time_at_first_only(
    tmp_path: Path,
) -> None:
    api = Api([row(1, 10), row(2, 20), {"id": 3, "at": None}])
    with http_server(api) as server:
        made = flow(server.url, {**SINCE, "lag": "15m", "key": "id"})
        assert run(tmp_path, made).status == 0
        assert ids(tmp_path) == [1, 2, 3]
        api.rows += [row(4, 6), row(5, 3), {"id": 6, "at": None}]
        assert run(tmp_path, made).status == 0
        assert server.asked[-1].params["since"] == "2024-01-01T00:05:00Z"
        assert ids(tmp_path) == [1, 2, 3, 4]


@pytest.mark.parametrize("stable", [False, True])
@pytest.mark.parametrize("point", ["engine.after_prepare:1", "engine.after_manifest:1"])
def test_a_killed_run_loses_and_doubles_nothing(stable: bool, point: str, tmp_path: Path) -> None:
    api = Api([row(n, n % 20) for n in range(30)])
    with http_server(api) as server:
        made = flow(server.url, {**SINCE, "lag": "5m"}, stable_pages=stable)
        made["settings"]["checkpoint"] = {"interval": "1ms"}
        assert run(tmp_path, made).status == 0
        api.rows += [row(n, 15 + n % 30) for n in range(30, 60)]
        (tmp_path / "flow.yaml").write_text(yaml.safe_dump(made, sort_keys=False))
        died = subprocess.run(
            [sys.executable, "-m", "dataflare", "run", "flow.yaml", "--quiet"],
            cwd=tmp_path, env={**os.environ, "DATAFLARE_CRASH_AT": point}, timeout=60,
        )  # fmt: skip
        assert died.returncode == -9
        assert run(tmp_path, made).status == 0
        assert ids(tmp_path) == list(range(60))
        assert run(tmp_path, made).status == 0
    assert ids(tmp_path) == list(range(60))


def test_a_row_that_cannot_be_read_is_a_dead_letter_with_its_place(tmp_path: Path) -> None:
    rows = [row(n, n) for n in range(4)]
    with http_server(Api(rows)) as server:
        made = flow(server.url, SINCE)
        made["sources"]["api"]["error_handling"] = {"on_error": "dead_letter"}
        assert run(tmp_path, made).status == 0
        rows += [{"id": 4, "at": "2024-01-99"}, row(5, 9)]
        ran = run(tmp_path, made)
        assert (ran.status, ran.code) == (1, "E0508")
        assert "is string in what the API answers now, and was timestamp[us, UTC]" in ran.errors
        made["sources"]["api"]["schema"] = {"at": "timestamp[us, UTC]"}
        ran = run(tmp_path, made, "--accept-changes")
    assert ran.status == 0
    assert ran.result["steps"]["api"]["dead_letters"] == 1
    assert ids(tmp_path) == [0, 1, 2, 3, 5]


@pytest.mark.parametrize(
    ("incremental", "code", "said"),
    [
        ({"column": "att", "param": "since"}, "E0413", "no column 'att'"),
        ({"column": "ok", "param": "since"}, "E0413", "cannot show which rows are new"),
        ({**SINCE, "initial_value": "soon"}, "E0413", "initial_value 'soon' does not fit"),
        ({**SINCE, "key": ["no"]}, "E0413", "no column 'no'"),
        ({"column": "at"}, "E0404", "missing key 'incremental.param'"),
        ({"column": "at", "param": "page_size"}, "E0405", "is in 'params' and in 'incremental'"),
    ],
)  # fmt: skip
def test_a_cursor_that_cannot_be_is_refused(
    incremental: dict[str, Any], code: str, said: str, tmp_path: Path
) -> None:
    with http_server(lambda asked: Answer([{**row(1, 1), "ok": True}])) as server:
        ran = run(tmp_path, flow(server.url, incremental, params={"page_size": 3}))
    assert (ran.status, ran.code) == (2, code), ran.errors
    assert said in ran.errors


COLUMNS = [TextColumn("at", INT64), TextColumn("id", STRING)]
ROWS = st.lists(st.tuples(st.integers(0, 12), st.sampled_from("abc")), max_size=12)


@given(st.lists(st.tuples(ROWS, st.randoms(use_true_random=False)), max_size=4), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_rows_that_only_arrive_inside_the_lag_are_given_once(runs: Any, lag: int) -> None:
    """Whatever their order and pages, and whether a run is broken off between two pages."""
    cursor = Cursor(HttpIncremental(column="at", param="p", lag=lag), COLUMNS, "s")
    state, table, got = State(), [], []
    for added, random in runs:
        low = 0 if state.last is None else state.last - lag
        table += [{"at": low + at, "id": name} for at, name in added]
        asked = cursor.request_value(state)
        answer = [r for r in table if asked is None or r["at"] >= int(asked)]
        random.shuffle(answer)
        window = cursor.window(state)
        size = random.randint(1, 5)
        for start in range(0, len(answer), size):
            page = answer[start : start + size]
            got += [
                page[i]
                for i in cursor.new_rows([json.dumps(each).encode() for each in page], window)
            ]
            window = cursor.window(state).restore(window.to_json(), COLUMNS[0])
        state = State.from_json(window.state().finished().to_json())
    assert sorted(map(str, got)) == sorted(map(str, table))


@pytest.mark.parametrize(
    ("type_", "value", "text"),
    [
        ("int64", 5, "5"),
        ("date", 19_723, "2024-01-01"),
        ("timestamp[us, UTC]", 1_704_067_200_000_000, "2024-01-01T00:00:00Z"),
        ("timestamp[us]", 1_704_067_200_050_000, "2024-01-01T00:00:00.05"),
        ("timestamp[ns, UTC]", -1, "1969-12-31T23:59:59.999999999Z"),
        ("string", "b", "b"),
    ],
)
def test_values_are_asked_with_as_apis_write_them(type_: str, value: Any, text: str) -> None:
    assert text_of(value, parse_type(type_)) == text
