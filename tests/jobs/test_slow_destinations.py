"""A slow destination never makes memory grow, and a fast source does not starve a slow one. Memory is measured (RSS)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

from servers.web import Answer, Asked, http_server

MEMORY = 64 << 20

FLOW = """\
name: {name}
settings: {{parallelism: 2, resources: {{memory: 64MiB}}, checkpoint: {{interval: 500ms}}}}
sources:
  fast:
    type: generate
    config: {{columns: {{id: {{sequence: 0}}, text: {{choice: ["{text}"]}}}}{rows}}}
  slow:
    type: generate
    config: {{columns: {{id: {{sequence: 1000000000}}, text: {{choice: [slow]}}}}, rows: 40, rate: 40/s}}
transformations:
  both: {{type: union, inputs: [fast, slow]}}
  same: {{type: map, inputs: [both], config: {{derive: {{text: "repeat(text, 40) || CAST(id AS VARCHAR)"}}}}}}
destinations:
  out: {destination}
"""
BLACKHOLE = "{type: blackhole, inputs: [same]}"


def peak_of(folder: Path, name: str, destination: str, rows: str = "") -> tuple[int, int]:
    """A run in a process of its own: its greatest RSS in bytes, and how many rows `fast` gave."""
    file = folder / f"{name}.yaml"
    text = FLOW.format(name=name, rows=rows, destination=destination, text="x" * 50)
    file.write_text(text)
    command = [sys.executable, "-m", "dataflare", "run", str(file), "--json", "--for", "4s"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    said = process.stdout.read()
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, errors
    result = json.loads(said)
    return usage.ru_maxrss * 1024, int(result["steps"]["fast"]["rows_out"])


def test_a_slow_destination_makes_no_memory_grow_and_the_slow_source_is_not_starved(
    tmp_path: Path,
) -> None:
    taken: list[int] = []
    pause = threading.Event()

    def answer(asked: Asked) -> Answer:
        pause.wait(0.02)
        taken.extend(row["id"] for row in asked.json())
        return Answer()

    idle, _ = peak_of(tmp_path, "idle", BLACKHOLE, ", rows: 100")
    _, unhindered = peak_of(tmp_path, "unhindered", BLACKHOLE)
    with http_server(answer) as server:
        hook = f'{{type: http, inputs: [same], config: {{url: "{server.url}", batch_size: 10}}}}'
        peak, given = peak_of(tmp_path, "hindered", hook)
    # Had all that it could give been kept, the test would see it.
    assert unhindered * 2_000 > 8 * MEMORY
    assert given < unhindered
    assert peak - idle < 2 * MEMORY, (peak, idle, given)
    assert {id_ for id_ in taken if id_ >= 10**9} == set(range(10**9, 10**9 + 40))
