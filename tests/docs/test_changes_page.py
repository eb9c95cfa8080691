"""The source of the page on sources of changes keeps the contract, and does what the page says."""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from dataflare.checkpoint.files import workflow_folder
from dataflare.jobs import RunOptions, run
from dataflare.jobs.resync import resync
from dataflare.sdk import resyncs
from dataflare.sdk.registry import register
from dataflare.testing import check_source, description
from dataflare.workflow import load_text

PAGE = Path(__file__).parents[2] / "docs/extend/changes.md"
WORKFLOW = """\
name: book
settings: {mode: batch}
sources: {in: {type: book, config: {path: "."}}}
destinations: {out: {type: sqlite, inputs: [in], config: {path: copy.db, table: t, mode: mirror, key: [id]}}}
"""


@pytest.fixture(scope="module")
def book() -> Iterator[dict[str, Any]]:
    code = re.search(r"```python title=.*?\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert code is not None
    module = ModuleType("dataflare_book")
    sys.modules[module.__name__] = module  # so that its classes pickle
    exec(compile(code[1], str(PAGE), "exec"), module.__dict__)
    register(module.__dict__["BookSource"])
    yield module.__dict__
    del sys.modules[module.__name__]


class Book:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "log.jsonl").touch()

    def table(self, *rows: tuple[int, str, str]) -> None:
        """As it is at the end of the log."""
        line = len((self.folder / "log.jsonl").read_text().splitlines())
        given = [dict(zip(("id", "name", "body"), row, strict=True)) for row in rows]
        (self.folder / "rows.json").write_text(json.dumps({"line": line, "rows": given}))

    def log(self, *changes: tuple[str, dict[str, Any] | None]) -> None:
        """One transaction."""
        with (self.folder / "log.jsonl").open("a") as log:
            for number, (op, row) in enumerate(changes):
                end = number + 1 == len(changes)
                log.write(json.dumps({"op": op, "row": row, "end": end}) + "\n")

    def catch_up(self) -> list[tuple[Any, ...]]:
        result = run(load_text(WORKFLOW, base=self.folder), RunOptions(self.folder / "home"))
        assert result.status == "finished", result.error
        with sqlite3.connect(self.folder / "copy.db") as db:
            return db.execute("select * from t order by id").fetchall()


def test_it_keeps_the_contract(book: dict[str, Any], tmp_path: Path) -> None:
    made = Book(tmp_path)
    made.table((1, "a", "x"), (2, "b", "y"))
    made.log(("insert", {"id": 3, "name": "c", "body": "z"}), ("delete", {"id": 1}))

    def ended() -> Any:
        source = description(book["BookSource"], {"path": "."}, base=tmp_path)
        source.in_batch = True
        return source

    asyncio.run(check_source(ended))


def test_the_copy_is_the_table(book: dict[str, Any], tmp_path: Path) -> None:
    made = Book(tmp_path)
    made.table((1, "a", "x"), (2, "b", "y"))
    made.log(("insert", {"id": 3, "name": "c", "body": "z"}), ("delete", {"id": 1}))
    made.log(("update", {"id": 2, "name": "new"}))
    assert made.catch_up() == [(2, "new", "y"), (3, "c", "z")]
    made.log(("truncate", None), ("insert", {"id": 4, "name": "d", "body": "w"}))
    made.log(("insert", {"id": 5, "name": "e", "body": "v"}), ("delete", {"id": 5}))
    assert made.catch_up() == [(4, "d", "w")]


def test_it_is_read_again_once(book: dict[str, Any], tmp_path: Path) -> None:
    made, workflow = Book(tmp_path), load_text(WORKFLOW, base=tmp_path)
    made.table((1, "a", "x"), (2, "b", "y"))
    assert made.catch_up() == [(1, "a", "x"), (2, "b", "y")]
    made.table((2, "b", "y"), (7, "g", "s"))
    made.log(("insert", {"id": 8, "name": "h", "body": "r"}))
    resync(workflow, tmp_path / "home", "in")
    wanted = [(2, "b", "y"), (7, "g", "s"), (8, "h", "r")]
    assert made.catch_up() == wanted
    [told] = resyncs.resyncs(workflow_folder(tmp_path / "home", "book"))
    assert told.state == "done"
    made.table()
    assert made.catch_up() == wanted
