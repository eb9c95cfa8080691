"""A run into a table that refuses some rows, and their way back in once the table takes them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from postgres_kit import Database

WORKFLOW = """\
name: orders
settings: {{parallelism: 1, checkpoint: {{interval: 50ms}}}}
sources:
  made:
    type: generate
    config: {{rows: 20000, seed: 3, columns: {{id: {{sequence: 1}}, customer: {{int: [1, 9]}}}}}}
destinations:
  out:
    type: postgres
    inputs: [made]
    error_handling: {{on_error: {on_error}}}
    config: {{connection_string: "${{PG}}", table: orders, mode: {mode}{key}}}
"""
TABLE = (
    "create table orders (id bigint primary key, customer bigint, "
    "constraint not_these check (id % 5000 <> 77))"
)
BAD = [77, 5_077, 10_077, 15_077]


def dataflare(
    folder: Path, database: Database, *arguments: str
) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("DATAFLARE")}
    return subprocess.run(
        [sys.executable, "-m", "dataflare", *arguments], cwd=folder, text=True, capture_output=True,
        env={**environment, "PG": database.dsn}, timeout=120,
    )  # fmt: skip


def given(folder: Path, database: Database, mode: str, on_error: str) -> None:
    key = ", key: id" if mode in ("upsert", "mirror") else ""
    text = WORKFLOW.format(mode=mode, on_error=on_error, key=key)
    (folder / "workflow.yaml").write_text(text)
    database.execute(TABLE)


@pytest.mark.parametrize("mode", ["append", "upsert", "mirror", "overwrite"])
def test_dead_letters_come_in_once_when_the_constraint_is_lifted(database, tmp_path, mode):
    given(tmp_path, database, mode, "dead_letter")
    done = dataflare(tmp_path, database, "run", "workflow.yaml", "--json")
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)["steps"]["out"]
    assert (counts["dead_letters"], counts["errors"], counts["rows_out"]) == (4, 4, 19_996)
    assert database.rows("select count(*), count(distinct id) from orders") == [(19_996, 19_996)]
    shown = dataflare(tmp_path, database, "dlq", "show", "orders", "--json").stdout
    letters = [json.loads(line) for line in shown.splitlines()]
    assert [letter["row"]["id"] for letter in letters] == BAD
    assert {letter["step"] for letter in letters} == {"out"}
    assert all('constraint "' in letter["message"] for letter in letters)

    # While the rule stands, a replay gives new letters and no rows.
    assert dataflare(tmp_path, database, "dlq", "replay", "orders").returncode == 1
    assert database.rows("select count(*) from orders") == [(19_996,)]
    for constraint in database.rows("select conname from pg_constraint where contype = 'c' "
                                    "and conrelid = 'orders'::regclass"):  # fmt: skip
        database.execute(f"alter table orders drop constraint {constraint[0]}")
    for _ in range(2):
        again = dataflare(tmp_path, database, "dlq", "replay", "orders")
        assert again.returncode == 0, again.stderr
    assert database.rows("select count(*), count(distinct id), min(id), max(id) from orders") == [
        (20_000, 20_000, 1, 20_000)]  # fmt: skip


def test_skipped_rows_are_counted(database, tmp_path):
    given(tmp_path, database, "append", "skip")
    done = dataflare(tmp_path, database, "run", "workflow.yaml", "--json")
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)["steps"]["out"]
    assert (counts["dead_letters"], counts["errors"], counts["rows_out"]) == (0, 4, 19_996)
    assert database.rows("select count(*) from orders") == [(19_996,)]


def test_a_run_that_may_not_leave_rows_out_fails_and_names_the_row(database, tmp_path):
    given(tmp_path, database, "append", "fail")
    done = dataflare(tmp_path, database, "run", "workflow.yaml")
    assert done.returncode == 1
    assert "error[E0510]: table 'orders' refuses a row" in done.stderr
    assert re.search("row: id = '?77", done.stderr), done.stderr
    assert "s3cret" not in done.stderr
    assert database.rows("select count(*) from orders where id >= 77") == [(0,)]


def test_a_mirror_leaves_rows_out_only_when_it_says_so_itself(database, tmp_path):
    given(tmp_path, database, "mirror", "fail")
    text = (tmp_path / "workflow.yaml").read_text()
    text = text.replace("    error_handling: {on_error: fail}\n", "")
    text = text.replace("parallelism: 1,", "parallelism: 1, error_handling: {on_error: skip},")
    (tmp_path / "workflow.yaml").write_text(text)
    done = dataflare(tmp_path, database, "run", "workflow.yaml")
    assert done.returncode == 1
    assert re.search("row: id = '?77", done.stderr), done.stderr


def test_too_many_refused_rows_fail_the_run(database, tmp_path):
    given(tmp_path, database, "append", "dead_letter, max_errors: 2")
    done = dataflare(tmp_path, database, "run", "workflow.yaml")
    assert done.returncode == 1
    assert "error[E0802]" in done.stderr or "max_errors" in done.stderr
