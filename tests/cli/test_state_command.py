"""`state show`: the state of a step in a checkpoint as rows."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from command_line import cli, write

from dataflare import RunOptions, load, run

TICKS = """\
name: ticks
settings: {parallelism: 2, checkpoint: {interval: 20ms}, batch: {initial: 50, min: 20, max: 50}}
sources:
  clock: {type: generate, config: {rows: 100000, rate: 3000/s, columns: {n: {sequence: 0}, key: {int: [1, 9]}, kind: {choice: [a, b]}, word: {choice: [x, "null", null]}, at: {time: {start: "2026-01-01T00:00:00Z", step: 1ms}}}}, event_time: {column: at}}
transformations:
  totals: {type: aggregate, inputs: [clock], config: {group_by: [key, kind], measures: {rows: "count(*)", mean: "sum(n) / count(*)"}}}
  once: {type: deduplicate, inputs: [clock], config: {key: key}}
  newest: {type: deduplicate, inputs: [clock], config: {key: key, keep: last, order_by: n}}
  words: {type: window, inputs: [clock], config: {kind: tumbling, size: 1d, group_by: [word], measures: {rows: "count(*)"}, trigger: {every: 1h}}}
  few: {type: limit, inputs: [clock], config: {rows: 1000000}}
destinations:
  out: {type: sqlite, inputs: [totals], config: {path: out.db, table: t}}
  first: {type: sqlite, inputs: [once], config: {path: first.db, table: t}}
  last: {type: sqlite, inputs: [newest], config: {path: last.db, table: t}}
  counts: {type: sqlite, inputs: [words], config: {path: words.db, table: t}}
  raw: {type: sqlite, inputs: [few], config: {path: raw.db, table: t}}
"""


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workflow that was stopped; what it had read by its last checkpoint is in `raw.db`."""
    folder = tmp_path_factory.mktemp("stopped")
    file = write(folder, "ticks.yaml", TICKS)
    assert run(load(file), RunOptions(home=folder / ".dataflare", for_s=0.4)).status == "stopped"
    return folder


def shown(folder: Path, step: str, *options: str) -> dict[str, Any]:
    done = cli("state", "show", "ticks", step, "--json", "--rows", "1000", *options, cwd=folder)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def expected(folder: Path, query: str) -> list[tuple[Any, ...]]:
    with sqlite3.connect(folder / "raw.db") as db:
        return db.execute(query).fetchall()


def test_an_aggregate_shows_its_results_so_far(stopped: Path) -> None:
    answer = shown(stopped, "totals")
    assert answer["merged"]
    rows = sorted(tuple(row.values()) for row in answer["tables"]["groups"])
    query = "select key, kind, count(*), avg(n) from t group by 1, 2 order by 1, 2"
    assert [(k, c, n, pytest.approx(m)) for k, c, n, m in expected(stopped, query)] == rows


def test_a_key_picks_its_row(stopped: Path) -> None:
    answer = shown(stopped, "totals", "--key", "key=3", "--key", "kind=b")
    (row,) = answer["tables"]["groups"]
    (count,) = expected(stopped, "select count(*) from t where key = 3 and kind = 'b'")
    assert (row["key"], row["kind"], row["rows"]) == (3, "b", *count)
    assert shown(stopped, "totals", "--key", "key=77")["tables"]["groups"] == []
    assert [row["key"] for row in shown(stopped, "once", "--key", "5")["tables"]["seen"]] == [5]


@pytest.mark.parametrize(
    ("key", "word", "condition"),
    [
        ("null", None, "is null"),
        ("word=NULL", None, "is null"),
        ("word='null'", "null", "= 'null'"),
        ("x", "x", "= 'x'"),
    ],
)
def test_a_key_that_is_null_is_picked_by_null(
    stopped: Path, key: str, word: str | None, condition: str
) -> None:
    answer = shown(stopped, "words", "--key", key)
    (row,) = answer["tables"]["windows"]
    (count,) = expected(stopped, f"select count(*) from t where word {condition}")
    assert (row["word"], row["rows"]) == (word, *count)
    assert answer["values"] == [], "times and marks of the engine are not shown"


def test_deduplicate_shows_its_keys_and_its_rows(stopped: Path) -> None:
    keys = sorted(row["key"] for row in shown(stopped, "once")["tables"]["seen"])
    assert keys == list(range(1, 10))
    newest = sorted((row["key"], row["n"]) for row in shown(stopped, "newest")["tables"]["rows"])
    assert newest == expected(stopped, "select key, max(n) from t group by 1 order by 1")


def test_small_values_are_shown_too(stopped: Path) -> None:
    (count,) = expected(stopped, "select count(*) from t")
    assert shown(stopped, "few")["values"] == [{"left": 1_000_000 - count[0]}]


def test_without_the_workflows_file_the_tables_are_shown_as_they_are(stopped: Path) -> None:
    file = stopped / "ticks.yaml"
    file.rename(stopped / "away.yaml")
    try:
        answer = shown(stopped, "totals")
    finally:
        (stopped / "away.yaml").rename(file)
    assert not answer["merged"]
    rows = answer["tables"]["groups"]
    assert set(rows[0]) == {"key", "kind", "count(*)", "sum(n: int64)"}
    (count,) = expected(stopped, "select count(*) from t")
    assert sum(row["count(*)"] for row in rows) == count[0]


def test_for_people_it_is_a_table(stopped: Path) -> None:
    said = cli("state", "show", "ticks", "totals", "-n", "3", cwd=stopped).stdout
    assert "groups of totals, checkpoint" in said
    assert "at most 3 rows" in said


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["totals", "--key", "3"], "E0811", "key, kind"),
        (["totals", "--key", "rows=3"], "E0811", "not a key column"),
        (["raw"], "E0811", "has no state"),
        (["totals", "--checkpoint", "4711"], "E0122", "no checkpoint 4711"),
    ],
)
def test_what_is_not_there_is_said(stopped: Path, words: list[str], code: str, said: str) -> None:
    done = cli("state", "show", "ticks", *words, cwd=stopped)
    assert done.returncode == 2
    assert code in done.stderr
    assert said in done.stderr
