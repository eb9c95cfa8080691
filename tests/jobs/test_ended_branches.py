"""A branch that has ended before a crash is not run again: what it remembers belongs to every later epoch."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from dataflare import Workflow
from dataflare.testing import Checkpoint, Crash, Lab, ScriptedSource, rows


@pytest.mark.parametrize("crashes", [1, 3])
def test_an_ended_operator_hands_nothing_out_again(tmp_path: Path, crashes: int) -> None:
    lab, flow = Lab(tmp_path), Workflow("branches")
    quick = flow.frame("quick", pl.DataFrame({"n": range(20), "k": [1, 2] * 10}))
    quick.limit("ten", rows=10).to("limited", "memory")
    quick.aggregate("total", {"rows": "count(*)"}).to("totals", "memory")
    quick.aggregate("by_key", {"rows": "count(*)"}, group_by=["k"]).to("keyed", "memory")
    quick.deduplicate("firsts", key="k").to("distinct", "memory")
    quick.deduplicate("lasts", key="k", keep="last").to("best", "memory")
    quick.sort("ordered", by="n").to("sorted", "memory")
    marks = [each for n in range(6) for each in (*rows(n, n + 1), Checkpoint())]
    slow = ScriptedSource([*marks, *[Crash() for _ in range(crashes)], *rows(6, 9)])
    slow.add_to(flow, "slow").to("slow_out", "memory")
    for _ in range(crashes):
        lab.run_until_crash(flow)
    assert lab.run(flow).status == "finished"
    assert len(lab.rows("limited")) == 10
    assert lab.rows("totals") == [{"rows": 20}]
    assert lab.rows("keyed") == [{"k": 1, "rows": 10}, {"k": 2, "rows": 10}]
    assert [row["k"] for row in lab.rows("distinct")] == [1, 2]
    assert sorted(row["n"] for row in lab.rows("best")) == [18, 19]
    assert sorted(row["n"] for row in lab.rows("sorted")) == list(range(20))
    assert [row["n"] for row in lab.rows("slow_out")] == list(range(9))


def test_row_keys_do_not_come_again_after_a_crash(tmp_path: Path) -> None:
    flow = Workflow("ids")
    source = ScriptedSource([*rows(0, 5), Checkpoint(), Crash(), *rows(5, 10)])
    source.add_to(flow, "in").map("with_id", derive={"id": "uuid()"}).to("out", "memory")
    lab = Lab(tmp_path)
    lab.run_until_crash(flow)
    assert lab.run(flow).status == "finished"
    ids = [row["id"] for row in lab.rows("out")]
    assert len(ids) == len(set(ids)) == 10
