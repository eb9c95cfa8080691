"""Steps that talk to one system have one circuit breaker, and all hear when it opens and closes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from servers.web import Answer, Asked, http_server

from dataflare.jobs import Progress, RunOptions, run
from dataflare.jobs.breakers import circuit_breakers
from dataflare.workflow.load import load_text

BREAKER = "{failure_rate: 0.5, window: 60s, recovery: 1ms}"


def test_steps_of_one_address_share_a_breaker(tmp_path: Path) -> None:
    text = f"""\
name: shared
settings: {{error_handling: {{circuit_breaker: {BREAKER}}}}}
sources:
  crm: {{type: postgres, config: {{connection_string: "postgresql://a:b@db/shop", table: t}}}}
  api: {{type: http, config: {{url: "https://api.example.com/orders"}}}}
  own:
    type: postgres
    config: {{connection_string: "postgresql://a:b@db/shop", table: u}}
    error_handling: {{circuit_breaker: {{recovery: 5s}}}}
  rows: {{type: inline, config: {{rows: [{{id: 1}}]}}}}
transformations:
  known:
    type: lookup
    inputs: [rows]
    config:
      source: {{type: http, url: "https://API.example.com:443/customers/{{id}}"}}
      mapping: {{key: id, remote_key: id}}
destinations:
  copy: {{type: postgres, inputs: [crm, own], config: {{connection_string: "postgresql://c@db:5432/x", table: v}}}}
  files: {{type: file, inputs: [known, api], config: {{path: out.csv}}}}
"""
    breakers = circuit_breakers(load_text(text, base=tmp_path), lambda *_: None, lambda *_: None)
    assert breakers["crm"] is breakers["copy"]
    assert breakers["api"] is breakers["known"]
    assert breakers["own"] is not breakers["crm"], "its settings are others"
    assert len({id(breakers[name]) for name in ("crm", "api", "own", "rows", "files")}) == 5


def test_an_outage_is_told_and_no_row_is_lost(tmp_path: Path) -> None:
    """Two destinations of a server that is away for 12 requests: it is left alone, and then gets each row once."""
    taken: dict[str, list[int]] = {"/a": [], "/b": []}
    count = 0

    def answer(asked: Asked) -> Answer:
        nonlocal count
        count += 1
        if count <= 12:
            return Answer(None, 503)
        taken[asked.path].extend(row["id"] for row in asked.json())
        return Answer()

    said: list[str] = []

    def listener(progress: Progress) -> None:
        if progress.message:
            said.append(progress.message)

    with http_server(answer) as server:
        text = f"""\
name: outage
settings:
  parallelism: 1
  error_handling:
    retry_policy: {{max_attempts: 50, initial_backoff: 1ms, max_backoff: 1ms}}
    circuit_breaker: {BREAKER}
sources:
  rows: {{type: generate, config: {{columns: {{id: {{sequence: 0}}}}, rows: 1000}}}}
destinations:
  a: {{type: http, inputs: [rows], config: {{url: "{server.url}/a", batch_size: 100}}}}
  b: {{type: http, inputs: [rows], config: {{url: "{server.url}/b", batch_size: 100}}}}
"""
        system = server.url.removeprefix("http://")
        options = RunOptions(
            tmp_path / "home",
            listener=listener,
            observers=[lambda watch: watch.log.writing(tmp_path, said.append)],
        )
        result = run(load_text(text, base=tmp_path), options)
    assert result.status == "finished", result.error
    assert taken == {"/a": list(range(1000)), "/b": list(range(1000))}
    opened = [text for text in said if "none is made for 0.001 s" in text]
    assert opened, said
    assert f": of 5 calls 3 failed at {system}: none is made" in opened[0]
    assert opened[0].endswith(("; 'a' must wait too", "; 'b' must wait too"))
    assert said.count(f"calls to {system} succeed again: all are made") == 1
    events = [line for line in _log(tmp_path) if "event" in line]
    assert [each["event"] for each in events] == ["breaker_opened"] * len(opened) + [
        "breaker_closed"
    ]
    assert (events[0]["system"], events[0]["failed"]) == (system, 3)
    assert sum("its circuit breaker opened" in text for text in result.warnings) in (1, 2)


def _log(folder: Path) -> list[dict[str, Any]]:
    (file,) = folder.glob("logs/*.ndjson")
    return [json.loads(line) for line in file.read_text().splitlines()]
