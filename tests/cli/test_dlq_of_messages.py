"""`dataflare dlq replay` of messages: what a letter holds is decoded again, as the workflow says now."""

from __future__ import annotations

import json
import sqlite3
import subprocess
from pathlib import Path
from typing import Any

from command_line import cli, command, environment, write

WORKFLOW = """\
name: events
settings: {error_handling: {on_error: dead_letter}}
sources:
  given:
    type: stdin
    config: {format: json, metadata: [line]}
    schema: {id: int64, amount: int64, at: timestamp}
    event_time: {column: at}
transformations:
  more: {type: map, inputs: [given], config: {derive: {twice: amount * 2}}}
destinations:
  table: {type: sqlite, inputs: [more], config: {path: t.db, table: events}}
"""
AT = "2024-05-01 10:00:00"
LINES = [
    {"id": 1, "amount": 5, "at": AT},
    {"id": 2, "amount": 1e30, "at": AT},
    {"id": 3, "amount": "many", "at": AT},
    {"id": 4, "amount": 7},
]


def arrived(folder: Path) -> list[Any]:
    with sqlite3.connect(folder / "t.db") as database:
        return database.execute("select id, twice, _line from events order by id").fetchall()


def start(folder: Path) -> None:
    write(folder, "w.yaml", WORKFLOW)
    lines = "".join(json.dumps(line) + "\n" for line in LINES)
    done = subprocess.run(
        command("run", "w.yaml"), cwd=folder, env=environment(), input=lines, text=True,
        capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert arrived(folder) == [(1, 10, 1)]


def test_messages_come_in_when_the_schema_takes_them(tmp_path: Path) -> None:
    start(tmp_path)
    write(tmp_path, "w.yaml", WORKFLOW.replace("amount: int64", "amount: float64"))
    done = cli("dlq", "replay", "events", cwd=tmp_path)
    # One row still has no number, another one no event time.
    assert (done.returncode, done.stdout) == (1, "1 row replayed; 2 waiting\n"), done.stderr
    assert "1 letter not replayed: source 'given': they still cannot be read" in done.stderr
    assert "stdin line 4" in done.stderr
    assert "1 letter not replayed: source 'given': they still fail: event time 'at'" in done.stderr
    assert arrived(tmp_path) == [(1, 10, 1), (2, 2e30, 2)]
    text = WORKFLOW.replace("amount: int64", "amount: float64")
    write(tmp_path, "w.yaml", text.replace("    event_time: {column: at}\n", ""))
    done = cli("dlq", "replay", "events", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "1 row replayed; 1 waiting\n")
    assert arrived(tmp_path) == [(1, 10, 1), (2, 2e30, 2), (4, 14, 4)]


def test_what_is_read_now_and_is_not_in_a_letter_is_named(tmp_path: Path) -> None:
    start(tmp_path)
    text = WORKFLOW.replace("metadata: [line]", "metadata: [line, time]")
    write(tmp_path, "w.yaml", text.replace("amount: int64", "amount: float64"))
    done = cli("dlq", "replay", "events", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "0 rows replayed; 3 waiting\n")
    assert "do not hold the 'time' of their messages, which is read now" in done.stderr
