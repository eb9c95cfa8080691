"""Changes as rows of files: what they lead to is what a mirror has."""

from __future__ import annotations

import sqlite3
from collections import Counter
from pathlib import Path

import polars as pl
import pytest
from file_kit import destination

from dataflare.errors import ConfigError
from dataflare.jobs import RunOptions, run
from dataflare.model.types import Schema
from dataflare.workflow.load import load_text

GONE = ("update_before", "delete")
WORKFLOW = """\
name: totals
settings: {{batch: {{initial: 50, min: 20, max: 60}}}}
sources:
  orders:
    type: generate
    config: {{rows: 1000, seed: 3, columns: {{customer: {{int: [1, 40]}}, amount: {{int: [0, 9]}}}}}}
transformations:
  totals: {{type: aggregate, inputs: [orders], config: {{group_by: [customer], emit: updates, measures: {{n: count(), most: max(amount)}}}}}}
  few: {{type: filter, inputs: [totals], config: {{condition: n < 25}}}}
destinations:
  changes: {{type: file, inputs: [few], config: {{path: {path}, changelog: columns{more}}}}}
  mirrored: {{type: sqlite, inputs: [few], config: {{path: copy.db, table: t, mode: mirror, key: [customer]}}}}
"""


@pytest.mark.parametrize(
    ("path", "more"),
    [
        ("out/", ", format: parquet"),
        ("changes.csv", ""),
        ("out/", ", format: ndjson, partition_by: [_op]"),
    ],
)
def test_the_changes_in_files_lead_to_what_a_mirror_has(
    tmp_path: Path, path: str, more: str
) -> None:
    text = WORKFLOW.format(path=path, more=more)
    result = run(load_text(text, base=tmp_path), RunOptions(tmp_path / "home"))
    assert result.status == "finished", result.error
    names = ["customer", "n", "most", "_op"]
    if path == "changes.csv":
        changes = pl.read_csv(tmp_path / path).select(names)
    elif "parquet" in more:
        changes = pl.read_parquet(tmp_path / "out").select(names)
    else:
        files = sorted((tmp_path / "out").rglob("*.ndjson"))
        changes = pl.concat(
            pl.read_ndjson(file).with_columns(_op=pl.lit(file.parent.name.removeprefix("_op=")))
            for file in files
        ).select(names)
    there = Counter(row[:3] for row in changes.rows() if row[3] not in GONE)
    there.subtract(row[:3] for row in changes.rows() if row[3] in GONE)
    assert set(changes["_op"]) == {"insert", "update_before", "update_after", "delete"}
    with sqlite3.connect(tmp_path / "copy.db") as db:
        mirrored = Counter(db.execute("select customer, n, most from t").fetchall())
    assert +there == mirrored
    assert min(there.values()) == 0, "more rows went than came"


def test_a_column_of_that_name_and_a_mirror_are_refused(tmp_path: Path) -> None:
    step = destination({"path": "out/", "changelog": "columns"}, tmp_path)
    with pytest.raises(ConfigError, match="'_op', and the rows have one already"):
        step._written(Schema.of({"_op": "string"}))
    config = {"path": "o.csv", "changelog": "columns", "mode": "mirror", "key": ["id"]}
    with pytest.raises(ConfigError, match="has one row for each key"):
        destination(config, tmp_path).capabilities()
