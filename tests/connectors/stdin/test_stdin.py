"""Lines of standard input, in processes whose input the test writes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from dataflare.connectors.stdin.lines import BYTES_MAX, Input
from dataflare.errors import ConfigError
from dataflare.planner import plan
from dataflare.sdk.push.framing import TooLong
from dataflare.testing import source_of
from dataflare.workflow.load import load_text

WORKFLOW = """\
name: w
settings: {checkpoint: {interval: 20ms}}
sources:
  given:
    type: stdin
    config: {OPTIONS}
SCHEMA
destinations:
  out: {type: sqlite, inputs: [given], config: {path: out.db, table: t}}
"""


def started(folder: Path, options: str, schema: str = "") -> subprocess.Popen[bytes]:
    text = WORKFLOW.replace("OPTIONS", options)
    text = text.replace("SCHEMA", f"    schema: {schema}" if schema else "")
    (folder / "w.yaml").write_text(text)
    return subprocess.Popen(
        [sys.executable, "-m", "dataflare", "run", "--quiet", "w.yaml"],
        cwd=folder, env={**os.environ, "DATAFLARE_HOME": str(folder / "home")},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def rows(folder: Path, columns: str = "*") -> list[Any]:
    with sqlite3.connect(folder / "out.db", timeout=10) as connection:
        try:
            return connection.execute(f"select {columns} from t order by rowid").fetchall()
        except sqlite3.OperationalError:
            return []


def wait_rows(folder: Path, count: int) -> None:
    end = time.monotonic() + 30
    while len(rows(folder)) < count:
        assert time.monotonic() < end
        time.sleep(0.02)


def test_rows_are_written_as_lines_come_and_the_run_ends_with_the_input(tmp_path: Path) -> None:
    """Columns are found in the first lines; a line that cannot be read is a dead letter with its number."""
    run = started(tmp_path, "metadata: [line]", "{id: int64}\n    error_handling: {on_error: skip}")
    assert run.stdin is not None
    run.stdin.write(b'{"id": 1, "t": "a"}\n\n{"id": 2\n{"id": 3, "t": "b"}\n')
    run.stdin.flush()
    wait_rows(tmp_path, 2)
    said, _ = run.communicate(b'{"id": 4}', timeout=30)
    assert run.returncode == 0, said
    assert rows(tmp_path, "id, t, _line") == [(1, "a", 1), (3, "b", 3), (4, None, 4)]


def test_a_header_names_the_columns_and_their_types_are_found(tmp_path: Path) -> None:
    run = started(tmp_path, 'format: csv, header: true, csv: {delimiter: ";"}, bounded: true')
    given = b"\xef\xbb\xbfid;name\n1;x\n2;" + b'"y;z"\n'
    said, _ = run.communicate(given, timeout=30)
    assert run.returncode == 0, said
    assert rows(tmp_path, "id, name") == [(1, "x"), (2, "y;z")]


def test_a_run_that_is_stopped_has_what_came_and_one_that_fails_names_the_line(
    tmp_path: Path,
) -> None:
    run = started(tmp_path, "format: json", "{id: int64}")
    assert run.stdin is not None
    run.stdin.write(b'{"id": 1}\n')
    run.stdin.flush()
    wait_rows(tmp_path, 1)
    run.send_signal(signal.SIGINT)
    assert run.wait(30) == 130
    run.communicate()
    run = started(tmp_path, "format: json", "{id: int64}")
    said, _ = run.communicate(b'{"id": 2}\n{"id": \n', timeout=30)
    assert (run.returncode, b"stdin line 2" in said) == (1, True), said


@pytest.fixture
def pipe() -> Any:
    ends = os.pipe()
    yield ends
    for end in ends:
        try:
            os.close(end)
        except OSError:
            continue


def test_a_program_before_it_in_the_pipe_waits_when_lines_are_not_taken(
    pipe: tuple[int, int],
) -> None:
    there, here = pipe
    made, line = Input(there, 1 << 20), b"x" * 1_000 + b"\n"
    written = 0

    def write() -> None:
        nonlocal written
        while written < 20_000:
            written += os.write(here, line) // len(line)
        os.close(here)

    writing = threading.Thread(target=write)
    writing.start()
    assert made.head(1, 10) == [line[:-1]]
    writing.join(0.5)
    assert writing.is_alive()
    assert written * len(line) < BYTES_MAX + (2 << 20)

    async def taken() -> int:
        count = 0
        while (lines := await made.take(1_000, None)) is not None:
            count += len(lines)
        return count

    assert asyncio.run(asyncio.wait_for(taken(), 30)) == 20_000
    writing.join()


def test_a_reader_that_is_opened_again_goes_on_behind_the_last_one(pipe: tuple[int, int]) -> None:
    there, here = pipe
    made = Input(there, 10)
    os.write(here, b"h\na\nb\nc")
    assert made.take_header(10) == made.take_header(10) == b"h"

    async def take(most: int, wait_s: float | None = None) -> list[bytes] | None:
        return await made.take(most, wait_s)

    assert asyncio.run(take(1)) == [b"a"]
    assert asyncio.run(take(5)) == [b"b"]
    assert asyncio.run(take(5, 0.01)) == []
    os.write(here, b"c" * 20)
    with pytest.raises(TooLong):
        asyncio.run(take(5))


def test_two_steps_cannot_both_read_it_and_options_that_cannot_hold_are_refused() -> None:
    first = source_of("stdin", {"format": "text"})
    asyncio.run(first.validate())
    other = type(first)(first.config, first.context.__class__("other"))
    with pytest.raises(ConfigError, match="both read standard input"):
        asyncio.run(other.validate())
    asyncio.run(first.aclose())
    asyncio.run(other.validate())
    asyncio.run(other.aclose())
    for wrong in (
        {"format": "avro", "schema": "{}"}, {"header": True},
        {"format": "csv", "header": True, "csv": {"columns": ["a"]}},
    ):  # fmt: skip
        with pytest.raises(ConfigError):
            source_of("stdin", wrong)


@pytest.mark.parametrize(("bounded", "level"), [(False, "at most once"), (True, "exactly once")])
def test_a_plan_says_that_a_crash_loses_rows_unless_they_are_committed_at_the_end(
    tmp_path: Path, bounded: bool, level: str
) -> None:
    text = WORKFLOW.replace("OPTIONS", f"format: text, bounded: {json.dumps(bounded)}")
    found = plan(load_text(text.replace("SCHEMA", ""), base=tmp_path)).guarantees["out"]
    assert (found.level.value, "what was read from a pipe is gone" in found.reason) == (level, True)


def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path: Path) -> None:
    process = started(tmp_path, "bounded: true")
    process.communicate(b'\xef\xbb\xbf{"a": 1}\n{"a": 2}\n', timeout=60)
    assert process.returncode == 0
    assert rows(tmp_path) == [(1,), (2,)]


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (b"[1]", b"not a JSON object but a list"),
        (b"\x00\x00\x00\x00\x07{", b"the first:"),
        (b"\xff", b"UTF-8"),
    ],
)
def test_the_reason_is_told_where_no_line_can_be_read(
    tmp_path: Path, given: bytes, reason: bytes
) -> None:
    output, _ = started(tmp_path, "bounded: true").communicate(given + b"\n", timeout=60)
    assert b"E0405" in output
    assert reason in output


def test_help_names_no_option_that_the_source_lacks(tmp_path: Path) -> None:
    output, _ = started(tmp_path, "bounded: true").communicate(b'{"a": 1}\n\xff\n', timeout=60)
    assert b"E0504" in output
    assert b"'encoding'" not in output
