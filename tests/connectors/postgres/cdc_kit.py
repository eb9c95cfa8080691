"""Runs that copy the changes of tables from a real server, and what they must leave."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from postgres_kit import Database

from dataflare.jobs import RunOptions, RunResult, run
from dataflare.sdk import registry
from dataflare.sdk.context import ConnectorContext
from dataflare.workflow.load import load_text

WORKFLOW = """\
name: shop
settings:
  mode: {mode}
  parallelism: 1
  checkpoint: {{interval: 20ms}}
sources:
  orders:
    type: postgres
    config: {{connection_string: "{dsn}", table: orders, cdc: {cdc}{more}}}
destinations:
  copy: {{type: {kind}, inputs: [orders], config: {{{into}}}}}
"""


class Copy:
    """A workflow in a folder of its own."""

    def __init__(
        self, database: Database, folder: Path, *, cdc: str = "true", mode: str = "batch", kind: str = "sqlite",
        into: str = "path: copy.db, table: orders, mode: mirror, key: [id]", more: str = "",
    ) -> None:  # fmt: skip
        self.database, self.folder = database, folder
        self.text = WORKFLOW.format(
            dsn=database.dsn, cdc=cdc, mode=mode, kind=kind, into=into, more=more
        )

    def run(self, **options: Any) -> RunResult:
        return run(
            load_text(self.text, base=self.folder), RunOptions(self.folder / "home", **options)
        )

    def catch_up(self, **options: Any) -> RunResult:
        result = self.run(**options)
        assert result.status == "finished", result.error
        return result

    def rows(self, sql: str = "select * from orders order by id") -> list[tuple[Any, ...]]:
        import sqlite3

        with sqlite3.connect(self.folder / "copy.db") as db:
            return db.execute(sql).fetchall()


def source(database: Database, **config: Any) -> Any:
    class_ = registry.source("postgres")
    given = {"connection_string": database.dsn, "cdc": True} | config
    context = ConnectorContext("in", database.folder, folder=database.folder / "shop")
    return class_(class_.Config(**given), context)


def is_following(database: Database) -> bool:
    """Whether a run has read its tables and follows the log: it holds no lock of a table any more. A slot is active while
    it is made too, and other databases of the server have slots."""
    return bool(
        database.rows(
            "select from pg_replication_slots join pg_stat_replication on pid = active_pid "
            "where database = current_database() and state = 'streaming'"
        )
    )
