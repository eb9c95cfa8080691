"""Rows in each kind of system name the run that wrote them: read back by another workflow."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from servers.services import SERVICES

from dataflare.jobs import RunOptions, RunResult, run
from dataflare.workflow import load_text

WRITE = """\
name: marked
settings: {run_column: _run, restart: {attempts: 0}}
sources: {rows: {type: inline, config: {rows: ROWS}}}
destinations:
  out: {type: TYPE, inputs: [rows], config: {TO}}
"""
READ = """\
name: read
sources: {all: {type: TYPE, config: {FROM}}}
destinations: {out: {type: file, inputs: [all], config: {path: out.ndjson, mode: overwrite}}}
"""
CATALOG = "catalog: {type: sql, uri: 'sqlite:///catalog.db', warehouse: lake}, table: shop.marked"
Made = Callable[[Any], tuple[str, str]]
"""By the server, the options of the destination and of the source."""


def _database(made: Any) -> tuple[str, str]:
    where = f'connection_string: "{made.dsn()}", table: marked'
    return where, where


def _index(made: Any) -> tuple[str, str]:
    where = f'connection: "{made.url}", index: marked'
    return where, where


SYSTEMS: dict[str, tuple[str, str | None, Made]] = {
    "postgres": ("postgres", "postgres", _database),
    "mariadb": ("mysql", "mariadb", _database),
    "clickhouse": ("clickhouse", "clickhouse", _database),
    "opensearch": ("opensearch", "opensearch", _index),
    "iceberg": ("iceberg", None, lambda _: (CATALOG, CATALOG)),
}


@pytest.fixture(params=SYSTEMS)
def system(request: pytest.FixtureRequest) -> Iterator[tuple[str, str, str]]:
    """Its type, and the options of both ends."""
    type_, service, made = SYSTEMS[request.param]
    with ExitStack() as stack:
        server = None
        if service is not None:
            SERVICES[service].may_start()
            server = stack.enter_context(SERVICES[service].server())
        yield type_, *made(server)


def done(text: str, folder: Path, home: str) -> RunResult:
    result = run(load_text(text, base=folder), RunOptions(folder / home, accept_changes=True))
    assert result.error is None, result.error
    return result


def written(folder: Path, type_: str, to: str, ids: list[int]) -> str:
    rows = json.dumps([{"id": id_, "name": f"n{id_}"} for id_ in ids])
    text = WRITE.replace("ROWS", rows).replace("TYPE", type_).replace("TO", to)
    return done(text, folder, "home").run_id


def test_rows_name_their_run_also_in_a_table_that_lacked_the_column(
    system: tuple[str, str, str], tmp_path: Path
) -> None:
    type_, to, from_ = system
    rows = json.dumps([{"id": 0, "name": "n0"}])
    before = WRITE.replace("run_column: _run, ", "").replace("marked\n", "before\n")
    done(before.replace("ROWS", rows).replace("TYPE", type_).replace("TO", to), tmp_path, "other")
    first = written(tmp_path, type_, to, [1, 2])
    second = written(tmp_path, type_, to, [3])
    done(READ.replace("TYPE", type_).replace("FROM", from_), tmp_path, "home")
    lines = (tmp_path / "out.ndjson").read_text().splitlines()
    found = {(row["id"], row["name"], row.get("_run")) for row in map(json.loads, lines)}
    assert found == {(0, "n0", None), (1, "n1", first), (2, "n2", first), (3, "n3", second)}
    assert len(lines) == 4
