"""The page about Python workflows runs, block after block."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest

PAGE = Path(__file__).parents[3] / "docs" / "dsl.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def test_the_blocks_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DATAFLARE_HOME", raising=False)
    Path("customers.csv").write_text("id,status,country,net\n1,active,DE,10\n2,gone,US,5\n")
    known: dict[str, Any] = {"frame": pl.DataFrame({"country": ["DE", "DE"], "amount": [1, 2]})}
    exec(BLOCKS[0], known)
    assert pl.read_parquet("out.parquet")["gross"].cast(pl.Float64).to_list() == [11.9]
    exec(BLOCKS[1], known)
    known["wf"].run(fresh=True)
    assert pl.read_csv("eu.csv").height == 1
    assert pl.read_csv("gone.csv")["id"].to_list() == [2]
    exec(BLOCKS[2], known)
    assert known["outcome"].frame("out").rows() == [("DE", 3)]
