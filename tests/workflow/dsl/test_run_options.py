"""`Workflow.run` takes what `dataflare run` takes, and a frame may have an event time."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from dataflare import Workflow
from dataflare.errors import CheckpointError, RunError


def test_a_frame_has_an_event_time(tmp_path: Path) -> None:
    start = datetime(2024, 5, 1)
    rows = pl.DataFrame({"at": [start + timedelta(minutes=m) for m in (1, 2, 61)], "n": [1, 2, 3]})
    wf = Workflow("timed", base=tmp_path)
    orders = wf.frame("orders", rows, event_time={"column": "at"})
    hours = orders.window("hours", kind="tumbling", size="1h", measures={"total": "sum(n)"})
    hours.to("out", "memory")
    assert wf.run(home=tmp_path / "home").frame("out")["total"].sort().to_list() == [3, 3]


def test_a_step_that_has_changed_begins_anew_if_that_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()

    def go(measure: str, number: int, **options: bool) -> int:
        (tmp_path / "in" / f"{number}.csv").write_text(f"k,v\n1,{number}\n")
        wf = Workflow("totals", base=tmp_path)
        files = wf.source("s", "file", path="in", format="csv", new_only=True)
        totals = files.aggregate("totals", group_by=["k"], measures={"m": measure}, emit="updates")
        totals.to("out", "sqlite", path="out.db", table="t", mode="upsert", key=["k"])
        result = wf.run(home=tmp_path / "home", **options)
        return len(result.warnings)

    assert go("max(v)", 5) == 0
    with pytest.raises(RunError, match="cannot go on"):
        go("min(v)", 7)
    assert go("min(v)", 8, accept_changes=True) == 1


def test_a_savepoint_that_is_not_there(tmp_path: Path) -> None:
    wf = Workflow("none", base=tmp_path)
    wf.frame("orders", pl.DataFrame({"n": [1]})).to("out", "memory")
    with pytest.raises((CheckpointError, RunError), match="upgrade"):
        wf.run(home=tmp_path / "home", from_savepoint="upgrade")
