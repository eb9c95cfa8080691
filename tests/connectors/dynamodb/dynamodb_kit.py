"""A table of its own for a test, written by the client library alone, and runs that copy it."""

from __future__ import annotations

import itertools
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

from servers.aws import AwsServer

from dataflare.jobs import RunOptions, RunResult, run
from dataflare.workflow.load import load_text

_numbers = itertools.count()
WORKFLOW = """\
name: copied
settings: {checkpoint: {interval: 20ms}, restart: {attempts: 0}}
sources:
  orders: {type: dynamodb, config: {SERVER, table: TABLE, poll: 100ms, discovery: 100ms, MORE}SCHEMA}
destinations:
  copy: {type: sqlite, inputs: [orders], config: {path: copy.db, table: t, INTO}}
"""


class Place:
    """A table and a folder for runs."""

    def __init__(
        self, server: AwsServer, folder: Path, view: str | None = "NEW_AND_OLD_IMAGES"
    ) -> None:
        self.server, self.folder = server, folder
        self.dynamodb = server.client("dynamodb")
        self.table = f"table{next(_numbers)}"
        self.make(view)

    def make(self, view: str | None = "NEW_AND_OLD_IMAGES") -> None:
        stream: dict[str, Any] = {"StreamEnabled": view is not None}
        if view is not None:
            stream["StreamViewType"] = view
        self.dynamodb.create_table(
            TableName=self.table, BillingMode="PAY_PER_REQUEST", StreamSpecification=stream,
            KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "N"}],
        )  # fmt: skip

    def put(self, *rows: dict[str, Any]) -> None:
        """rows: their attributes; a value of Python, or {type: value}."""
        for row in rows:
            self.dynamodb.put_item(
                TableName=self.table, Item={name: _typed(value) for name, value in row.items()}
            )

    def delete(self, *ids: int) -> None:
        for id_ in ids:
            self.dynamodb.delete_item(TableName=self.table, Key={"id": {"N": str(id_)}})

    def config(self, **more: Any) -> dict[str, Any]:
        return {**self.server.options, "table": self.table, **more}

    def text(
        self,
        more: str = "cdc: {stop: latest}",
        into: str = "mode: mirror, key: [id]",
        schema: str = "",
    ) -> str:
        options = ", ".join(f'{name}: "{value}"' for name, value in self.server.options.items())
        filled = WORKFLOW.replace("SERVER", options).replace("TABLE", self.table)
        schema = f", schema: {{{schema}}}" if schema else ""
        return filled.replace("MORE", more).replace("INTO", into).replace("SCHEMA", schema)

    def run(self, text: str | None = None, **options: Any) -> RunResult:
        loaded = load_text(text or self.text(), base=self.folder)
        return run(loaded, RunOptions(self.folder / ".dataflare", **options))

    def catch_up(self, text: str | None = None, **options: Any) -> RunResult:
        result = self.run(text, **options)
        assert result.status == "finished", result.error
        return result

    def dies_at(self, crash_at: str) -> bool:
        """A run in a process that dies at a named place. Whether it did."""
        (self.folder / "w.yaml").write_text(self.text())
        ended = subprocess.run(
            [sys.executable, "-m", "dataflare", "run", "w.yaml", "--quiet"],
            cwd=self.folder, env={**os.environ, "DATAFLARE_CRASH_AT": crash_at}, capture_output=True,
        )  # fmt: skip
        return ended.returncode == -signal.SIGKILL

    def rows(self, sql: str = "select id, name from t order by id") -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.folder / "copy.db")) as db:
            return db.execute(sql).fetchall()


def _typed(value: Any) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    return {"S": value} if isinstance(value, str) else {"N": str(value)}
