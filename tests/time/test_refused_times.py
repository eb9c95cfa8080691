"""What would be counted twice, or by the wrong clock, is refused when the workflow is planned; parts are told of."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from dataflare import Workflow
from dataflare.errors import DataFlareError

ROW = {"k": 1, "at": "2026-01-01T00:00:10Z"}


def windowed(
    at: str = "timestamp[us, UTC]", mode: str = "streaming", column: str = "at", **config: Any
) -> tuple[Any, Any]:
    wf = Workflow("refused", settings={"mode": mode})
    row = {**ROW, "at": "2026-01-01"} if at == "date" else ROW
    source = wf.source("s", "inline", rows=[row], schema={"at": at}, event_time={"column": column})
    size = {"kind": "tumbling", "size": "2m", "measures": {"n": "count(*)"}}
    return wf, source.process("w", "window", config={**size, **config})


def refusal(wf: Any) -> DataFlareError:
    with pytest.raises(DataFlareError) as caught:
        wf.plan()
    return caught.value


@pytest.mark.parametrize(
    "config", [{"allowed_lateness": "5m"}, {"trigger": {"every": "1s"}}, {"trigger": {"count": 2}}]
)
def test_no_step_counts_a_result_again_that_comes_again(config: Any) -> None:
    wf, window = windowed(**config)
    window.aggregate("total", {"n": "sum(n)"}).to("out", "memory")
    error = refusal(wf)
    assert (error.code, error.step) == ("E0332", "total")
    assert "'w'" in error.message


def test_results_that_come_once_may_be_counted() -> None:
    for mode, config in (("streaming", {}), ("batch", {"allowed_lateness": "5m"})):
        wf, window = windowed(mode=mode, **config)
        window.aggregate("total", {"n": "sum(n)"}).to("out", "memory")
        assert wf.run().frame("out")["n"].to_list() == [1]


def test_a_clock_of_a_zone_needs_times_with_a_zone() -> None:
    wf, window = windowed("timestamp[us]", timezone="Europe/Berlin")
    window.to("out", "memory")
    error = refusal(wf)
    assert (error.code, error.step) == ("E0333", "w")
    assert 'schema: {at: "timestamp[us, Europe/Berlin]"}' in (error.help or "")
    wf, window = windowed("timestamp[us, Europe/Berlin]", timezone="Europe/Berlin")
    window.to("out", "memory")
    assert wf.run().frame("out").height == 1


@pytest.mark.parametrize(
    ("at", "column", "zoned"),
    [
        ("date", "at", "CAST(at AS timestamp) AT TIME ZONE 'America/New_York'"),
        (
            "timestamp[us]",
            "at::date",
            "CAST((at::date) AS timestamp) AT TIME ZONE 'America/New_York'",
        ),
        (
            "timestamp[us]",
            "at - interval 1 day",
            "(at - interval 1 day) AT TIME ZONE 'America/New_York'",
        ),
    ],
)
def test_a_date_has_no_zone_and_may_be_midnight_in_one(at: str, column: str, zoned: str) -> None:
    day: dict[str, Any] = {"size": "1d", "timezone": "America/New_York"}
    wf, window = windowed(at, column=column, **day)
    window.to("out", "memory")
    error = refusal(wf)
    assert (error.code, error.step) == ("E0333", "w")
    assert f'event_time: {{column: "{zoned}"}}' in (error.help or "")
    wf, window = windowed(at, column=zoned, **day)
    window.to("out", "memory")
    midnight = datetime(2026, 1, 1, 5, tzinfo=UTC)
    expected = midnight - timedelta(days=1) if "interval" in column else midnight
    assert wf.run().frame("out")["window_start"].to_list() == [expected]
    wf, window = windowed(at, column=column, size="1d")
    window.to("out", "memory")
    assert wf.run().frame("out").height == 1, "without a zone it is midnight in UTC"


def test_totals_over_new_rows_only_are_told_to_be_parts(tmp_path: Path) -> None:
    database = tmp_path / "s.db"
    with sqlite3.connect(database) as db:
        db.execute("create table t (id integer primary key, k integer)")
        db.execute("insert into t values (1, 1), (2, 1)")
    for incremental in ({"incremental": {"column": "id"}}, {}):
        wf = Workflow("parts", settings={"parallelism": 1})
        source = wf.source("s", "sqlite", path=str(database), table="t", config=incremental)
        source.aggregate("total", {"n": "count(*)"}, group_by=["k"]).to("out", "memory")
        warnings = [each for each in wf.run().warnings if "'total'" in each]
        assert len(warnings) == bool(incremental)
        assert ("earlier runs have not read" in str(wf.plan())) == bool(incremental)
