"""Fields that first come on a page behind the sampled ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from servers.web import Answer, Asked, http_server

from dataflare.jobs import RunOptions, RunResult, run
from dataflare.workflow.load import load_text

PAGES = [
    [{"id": -2}],
    [{"id": -1}],
    [{"id": 1, "n": None}, {"id": 2, "n": None}],
    [{"id": 3, "n": 3, "late": "x"}, {"id": 4, "late": None}],
    [{"id": 5, "late": "y", "o": {"p": 1}}],
    [],
]


def start(folder: Path, change: str, **config: Any) -> RunResult:
    def answer(asked: Asked) -> Answer:
        return Answer(PAGES[int(asked.params.get("page", 1)) - 1])

    with http_server(answer) as server:
        source = {"url": server.url, "pagination": {"type": "page"}, **config}
        text = {
            "name": "pages",
            "settings": {"schema_change": change, "checkpoint": {"interval": "1ms"}},
            "sources": {"s": {"type": "http", "config": source}},
            "destinations": {
                "o": {"type": "file", "inputs": ["s"], "config": {"path": "o.parquet"}}
            },
        }
        return run(load_text(json.dumps(text), base=folder), RunOptions(folder / "home"))


@pytest.mark.parametrize("stable", [True, False])
def test_it_becomes_a_column(stable: bool, tmp_path: Path):
    result = start(tmp_path, "evolve", stable_pages=stable)
    assert result.status == "finished", result.error
    found = pl.read_parquet(tmp_path / "o.parquet")
    assert found["id"].to_list() == [-2, -1, 1, 2, 3, 4, 5]
    assert found["late"].to_list() == [None] * 4 + ["x", None, "y"]
    assert found["o"].to_list() == [None] * 6 + [{"p": 1}]
    assert len(result.warnings) == 1
    assert result.steps["s"]["rows_out"] == 7


def test_fail_names_page_and_row(tmp_path: Path):
    error = start(tmp_path, "fail").error
    assert error is not None
    assert error.code == "E0545"
    assert "page 4 row 1" in error.message


def test_ignore_tells_of_it(tmp_path: Path):
    result = start(tmp_path, "ignore")
    assert any("'late'" in each and "2 rows" in each for each in result.warnings)
    assert pl.read_parquet(tmp_path / "o.parquet").columns == ["id", "n"]


def test_dead_letters_hold_the_items(tmp_path: Path):
    result = start(tmp_path, "dead_letter")
    assert pl.read_parquet(tmp_path / "o.parquet")["id"].to_list() == [-2, -1, 1, 2, 4]
    assert result.steps["s"]["dead_letters"] == 2
    folder = tmp_path / "home" / "pages" / "dead_letters"
    letters = [json.loads(line) for path in folder.iterdir() for line in path.open()]
    assert [json.loads(json.loads(each["row"])["raw"]) for each in letters] == [
        PAGES[3][0],
        PAGES[4][0],
    ]
