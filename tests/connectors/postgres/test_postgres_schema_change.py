"""Columns that a table of the server lacks, as `schema_change` says."""

from __future__ import annotations

import polars as pl
import psycopg
import pytest

from dataflare import Workflow
from dataflare.errors import PlanError

ROWS = pl.DataFrame({"id": [1, 2, 3], "name": ["a", "b", "c"], "note": [None, "new", None]})


@pytest.mark.parametrize(
    ("change", "columns", "ids"),
    [
        ("evolve", ["id", "name", "note"], [1, 2, 3]),
        ("ignore", ["id", "name"], [1, 2, 3]),
        ("fail", ["id", "name"], []),
        ("dead_letter", ["id", "name"], [1, 3]),
    ],
)
def test_what_a_table_lacks(database, tmp_path, change: str, columns: list[str], ids: list[int]):
    wf = Workflow("changes", settings={"schema_change": change})
    wf.frame("rows", ROWS).to("out", "postgres", connection_string=database.dsn, table="t")
    with psycopg.connect(database.dsn, autocommit=True) as db:
        db.execute("create table t (id bigint primary key, name text)")
        if change == "fail":
            with pytest.raises(PlanError, match="a table without the column 'note'"):
                wf.run(home=tmp_path)
        else:
            wf.run(home=tmp_path)
        found = db.execute("select * from t order by id")
        assert [each.name for each in found.description] == columns
        assert [row[0] for row in found] == ids
