"""A run into a table that refuses some rows, and their way back in once the table takes them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from databases import execute, rows

pytestmark = pytest.mark.rotates(2)

WORKFLOW = """\
name: orders
settings: {{parallelism: 1, checkpoint: {{interval: 50ms}}}}
sources:
  made:
    type: generate
    config: {{rows: 20000, seed: 3, columns: {{id: {{sequence: 1}}, customer: {{int: [1, 9]}}}}}}
destinations:
  out:
    type: {kind}
    inputs: [made]
    error_handling: {{on_error: {on_error}}}
    config: {{path: data.db, table: orders, mode: {mode}{key}}}
"""
TABLE = "create table {} (id bigint primary key, customer bigint{})"
RULE = ", check (id % 5000 <> 77)"
BAD = [77, 5_077, 10_077, 15_077]


def dataflare(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("DATAFLARE")}
    return subprocess.run(
        [sys.executable, "-m", "dataflare", *arguments], cwd=folder, text=True, capture_output=True,
        env=environment, timeout=120,
    )  # fmt: skip


def given(folder: Path, kind: str, mode: str, on_error: str) -> None:
    key = ", key: id" if mode in ("upsert", "mirror") else ""
    text = WORKFLOW.format(kind=kind, mode=mode, on_error=on_error, key=key)
    (folder / "workflow.yaml").write_text(text)
    execute(kind, folder / "data.db", TABLE.format("orders", RULE))


@pytest.mark.parametrize("mode", ["append", "upsert", "mirror"])
def test_dead_letters_come_in_once_when_the_constraint_is_lifted(kind, tmp_path, mode):
    given(tmp_path, kind, mode, "dead_letter")
    done = dataflare(tmp_path, "run", "workflow.yaml", "--json")
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)["steps"]["out"]
    assert (counts["dead_letters"], counts["errors"], counts["rows_out"]) == (4, 4, 19_996)
    shown = dataflare(tmp_path, "dlq", "show", "orders", "--json").stdout
    assert [json.loads(line)["row"]["id"] for line in shown.splitlines()] == BAD
    execute(
        kind, tmp_path / "data.db", TABLE.format("lifted", ""),
        "insert into lifted select * from orders", "drop table orders",
        "alter table lifted rename to orders",
    )  # fmt: skip
    for _ in range(2):
        again = dataflare(tmp_path, "dlq", "replay", "orders")
        assert again.returncode == 0, again.stderr
    assert rows(kind, tmp_path / "data.db",
                "select count(*), count(distinct id), min(id), max(id) from orders") == [
        (20_000, 20_000, 1, 20_000)]  # fmt: skip


def test_skipped_rows_are_counted_and_failing_ones_named(kind, tmp_path):
    given(tmp_path, kind, "append", "skip")
    done = dataflare(tmp_path, "run", "workflow.yaml", "--json")
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)["steps"]["out"]
    assert (counts["dead_letters"], counts["errors"], counts["rows_out"]) == (0, 4, 19_996)
    (tmp_path / "fails").mkdir()
    given(tmp_path / "fails", kind, "append", "fail")
    done = dataflare(tmp_path / "fails", "run", "workflow.yaml")
    assert done.returncode == 1
    assert "error[E0510]: table 'orders' refuses a row" in done.stderr
    assert "the row: id = 77, " in done.stderr
    assert rows(kind, tmp_path / "fails" / "data.db", "select count(*) from orders") == [(0,)]
