"""A table that one state folder filled is not filled again from another, unless it was dropped."""

from __future__ import annotations

from dataflare.errors import DataFlareError
from dataflare.jobs import RunOptions, run
from dataflare.workflow.load import load_text

WORKFLOW = """\
name: load
version: "1.0"
sources: {n: {type: generate, config: {rows: 20, columns: {id: {sequence: 0}}}}}
destinations: {out: {type: postgres, inputs: [n], config: {connection_string: "DSN", table: t}}}
"""


def test_a_table_that_was_dropped_is_made_again_from_another_home(database, tmp_path):
    def load(home: str) -> str | None:
        text = WORKFLOW.replace("DSN", database.dsn)
        try:
            error = run(load_text(text, base=tmp_path), RunOptions(tmp_path / home)).error
        except DataFlareError as raised:
            error = raised
        return error and error.code

    assert load("one") is None
    assert load("two") == "E0806"
    database.execute("drop table t")
    assert load("two") is None
    assert database.rows("select count(*), count(distinct id) from t") == [(20, 20)]
    assert load("one") in ("E0806", "E0807")
