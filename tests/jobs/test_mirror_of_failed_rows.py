"""A mirror deletes only in a run that left out no row: the row that failed may be the one that is missing."""

from __future__ import annotations

import sqlite3
from functools import partial
from pathlib import Path

import flaky
import pytest

from dataflare import RunOptions, RunResult, run
from dataflare.errors import DataError
from dataflare.workflow.load import load_text

WORKFLOW = """\
name: copy
sources:
  in: {type: file, config: {path: in.csv}, schema: {id: int64, day: date},
       error_handling: {on_error: ON_ERROR}}
transformations:
  share: {type: map, inputs: [in], config: {derive: {share: "100 % (id - 7)"}},
          error_handling: {on_error: ON_ERROR}}
destinations:
  out: {type: sqlite, inputs: [share], config: {path: out.db, table: t, mode: mirror, key: [id]}}
"""


@pytest.fixture(autouse=True)
def no_failures_left() -> object:
    yield
    flaky.FAILURES.clear()
    flaky.GATES.clear()


def copied(folder: Path, days: dict[int, str], on_error: str = "skip") -> RunResult:
    lines = [f"{id_},{day}\n" for id_, day in days.items()]
    (folder / "in.csv").write_text("id,day\n" + "".join(lines))
    text = WORKFLOW.replace("ON_ERROR", on_error)
    result = run(load_text(text, base=folder), RunOptions(home=folder / "home"))
    assert result.error is None
    return result


def ids(path: Path) -> list[int]:
    with sqlite3.connect(path) as db:
        return [id_ for (id_,) in db.execute("select id from t order by id")]


def all_days(*without: int) -> dict[int, str]:
    return {id_: "2024-01-01" for id_ in range(1, 20) if id_ not in (7, *without)}


@pytest.mark.parametrize("on_error", ["skip", "dead_letter"])
@pytest.mark.parametrize("bad", [{3: "2024-02-31"}, {7: "2024-01-01"}])
def test_a_row_that_failed_keeps_what_the_destination_has(
    tmp_path: Path, bad: dict[int, str], on_error: str
) -> None:
    first = copied(tmp_path, all_days(), on_error)
    assert first.steps["out"]["deleted"] == 0
    with sqlite3.connect(tmp_path / "out.db") as db:
        db.execute("insert into t (id) values (7)")
    result = copied(tmp_path, all_days(9) | bad, on_error)
    assert ids(tmp_path / "out.db") == list(range(1, 20))
    gone = {7, 9} | set(bad)
    assert result.published["out"]["not_deleted"] == len(gone)
    assert any(f"'out': {len(gone)} rows" in w and "not deleted" in w for w in result.warnings)
    again = copied(tmp_path, all_days(9), on_error)
    assert ids(tmp_path / "out.db") == [i for i in range(1, 20) if i not in (7, 9)]
    assert again.steps["out"]["deleted"] == again.published["out"]["deleted"] == 2
    assert not again.warnings


RESUMED = """\
name: resumed
settings: {checkpoint: {interval: 2ms}, restart: {attempts: 0}, error_handling: {on_error: skip}}
sources:
  numbers: {type: flaky, config: {rows: 1000}}
transformations:
  share: {type: map, inputs: [numbers], config: {derive: {share: "100 % (n - 7)"}}}
destinations:
  out: {type: sqlite, inputs: [share], config: {path: out.db, table: t, mode: mirror, key: [n]},
        error_handling: {on_error: skip}}
"""


def test_a_resumed_run_knows_that_rows_failed_before_it(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "out.db") as db:
        db.execute("create table t (n integer primary key, share integer)")
        db.execute("insert into t values (7, 1), (5000, 1)")

    def has_rows() -> bool:
        with sqlite3.connect(tmp_path / "out.db") as db:
            return db.execute("select count(*) > 100 from t").fetchone() == (1,)

    def start() -> RunResult:
        return run(load_text(RESUMED, base=tmp_path), RunOptions(home=tmp_path / "home"))

    flaky.GATES.append((300, partial(has_rows)))
    flaky.FAILURES.extend([(700, DataError("broken")), (900, DataError("broken"))])
    assert start().status == "failed"
    assert start().status == "failed"
    result = start()
    assert result.error is None
    assert result.resumed_from is not None
    assert result.steps["share"]["errors"] == 0
    assert result.published["out"]["not_deleted"] == 2
    with sqlite3.connect(tmp_path / "out.db") as db:
        assert db.execute("select count(*) from t where n in (7, 5000)").fetchone() == (2,)
