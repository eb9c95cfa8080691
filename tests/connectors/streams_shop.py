"""A database whose tables are mirrored into a file, by one reader of its log."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

from dataflare.jobs import RunOptions, RunResult, run
from dataflare.workflow.load import load_text
from dataflare.workflow.model import Workflow

WORKFLOW = """\
name: shop
settings: {mode: MODE, parallelism: 1, checkpoint: {interval: 20ms}}
sources:
  shop:
    type: TYPE
    config: {connection_string: "DSN", tables: PATTERNS, cdc: CDC}
destinations:
  copy:
    type: sqlite
    inputs: [shop]
    config: {path: copy.db, table: "{table}", mode: mirror}
"""


class Shop:
    """A database that is mirrored into a file."""

    def __init__(self, database: Any, folder: Path, type_: str) -> None:
        self.database, self.folder, self.type = database, folder, type_
        self.patterns, self.cdc, self.mode = ["*", "!audit_*"], "true", "batch"

    def workflow(self) -> Workflow:
        text = WORKFLOW.replace("DSN", self.database.dsn).replace("MODE", self.mode)
        text = text.replace("PATTERNS", json.dumps(self.patterns)).replace("CDC", self.cdc)
        text = text.replace("TYPE", self.type)
        return load_text(text, base=self.folder)

    def run(self, **options: Any) -> RunResult:
        return run(self.workflow(), RunOptions(self.folder / "home", **options))

    def catch_up(self) -> RunResult:
        result = self.run()
        assert result.status == "finished", result.error
        return result

    def check(self, *tables: str) -> None:
        with sqlite3.connect(self.folder / "copy.db") as db:
            for table in tables:
                wanted = self.database.rows(f"select * from {table} order by 1, 2")
                assert db.execute(f"select * from {table} order by 1, 2").fetchall() == wanted, (
                    table
                )
