"""What a step does while its system is held back, where it does not wait."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from servers.web import Answer, Asked, http_server

from dataflare.errors import DataFlareError, WorkflowError
from dataflare.jobs import RunOptions, run
from dataflare.planner import plan
from dataflare.workflow.load import load_text

BREAKER = "{failure_rate: 0.2, window: 60s, recovery: 60s, fallback: FALLBACK}"
PATIENT = "retry_policy: {max_attempts: 50, initial_backoff: 1ms, max_backoff: 1ms}"
HANDLING = f"{{{PATIENT}, circuit_breaker: {BREAKER}}}"


def letters(folder: Path) -> list[dict[str, Any]]:
    files = sorted(folder.glob("home/*/dead_letters/*.ndjson"))
    return [json.loads(line) for path in files for line in path.read_text().splitlines()]


@pytest.mark.parametrize("batch_size", [70, 100, 1000])
def test_rows_for_a_destination_that_is_away_become_dead_letters(
    tmp_path: Path, batch_size: int
) -> None:
    """The server goes away for good in the middle. Each row is taken by it or is a letter, and is so once."""
    taken: list[int] = []

    def answer(asked: Asked) -> Answer:
        if taken and taken[-1] >= 300:
            return Answer(None, 503)
        taken.extend(row["id"] for row in asked.json())
        return Answer()

    with http_server(answer) as server:
        text = f"""\
name: away
settings: {{parallelism: 1, checkpoint: {{interval: 20ms}}, batch: {{initial: 100, min: 100, max: 100}}}}
sources:
  rows: {{type: generate, config: {{columns: {{id: {{sequence: 0}}}}, rows: 5000}}}}
destinations:
  hook:
    type: http
    inputs: [rows]
    config: {{url: "{server.url}", batch_size: {batch_size}}}
    error_handling: {HANDLING.replace("FALLBACK", "dead_letter")}
"""
        result = run(load_text(text, base=tmp_path), RunOptions(tmp_path / "home"))
    assert result.status == "finished", result.error
    left = letters(tmp_path)
    assert [json.loads(each["row"])["id"] for each in left] == list(range(len(taken), 5000))
    assert taken == list(range(len(taken)))
    assert len(taken) >= 300
    assert {(each["step"], each["code"]) for each in left} == {("hook", "E0615")}
    step = result.steps["hook"]
    assert (step["rows_out"], step["dead_letters"]) == (len(taken), len(left))
    assert [w for w in result.warnings if f"{len(left):,} rows failed" in w]


def test_a_lookup_answers_from_its_old_cache(tmp_path: Path) -> None:
    """Keys that it knows have their old values; they are counted, and the run says so."""
    asked_for: list[str] = []

    def answer(asked: Asked) -> Answer:
        asked_for.append(asked.path)
        if len(asked_for) > 4:
            return Answer(None, 503)
        return Answer({"id": int(asked.path.rpartition("/")[2]), "name": f"n{asked.path[-1]}"})

    with http_server(answer) as server:
        text = f"""\
name: stale
settings: {{parallelism: 1, batch: {{initial: 100, min: 100, max: 100}}}}
sources:
  rows: {{type: python, config: {{function: "feed:rows"}}, schema: {{id: int64, n: int64}}}}
transformations:
  named:
    type: lookup
    inputs: [rows]
    config:
      source: {{type: http, url: "{server.url}/names/{{id}}"}}
      mapping: {{key: id, remote_key: id, fields: [name]}}
      cache: {{size: 100, ttl: 1ms}}
    error_handling: {HANDLING.replace("FALLBACK", "stale")}
destinations:
  out: {{type: file, inputs: [named], config: {{path: out.csv}}}}
"""
        (tmp_path / "feed.py").write_text(FEED)
        result = run(load_text(text, base=tmp_path), RunOptions(tmp_path / "home"))
    assert result.status == "finished", result.error
    out = pl.read_csv(tmp_path / "out.csv").sort("n")
    assert out["name"].to_list() == [f"n{n % 4}" for n in range(400)]
    (told,) = [w for w in result.warnings if "older than the cache's ttl" in w]
    assert told.startswith("step 'named': answers older")
    assert told.endswith("in 300 rows")


FEED = """\
import polars as pl


def rows():
    for first in range(0, 400, 100):
        yield pl.DataFrame({"id": [n % 4 for n in range(first, first + 100)], "n": range(first, first + 100)})
"""


@pytest.mark.parametrize(
    ("where", "fallback"),
    [("source", "stale"), ("source", "dead_letter"), ("table", "dead_letter"), ("hook", "stale")],
)
def test_a_fallback_that_a_step_does_not_have_is_refused(
    tmp_path: Path, where: str, fallback: str
) -> None:
    handling = f"error_handling: {{circuit_breaker: {{fallback: {fallback}}}}}"
    of = {name: handling if name == where else "error_handling: {}" for name in ("source", "table", "hook")}  # fmt: skip
    text = f"""\
name: refused
sources:
  rows: {{type: inline, config: {{rows: [{{id: 1}}]}}, {of["source"]}}}
destinations:
  table: {{type: sqlite, inputs: [rows], config: {{path: a.db, table: t}}, {of["table"]}}}
  hook: {{type: http, inputs: [rows], config: {{url: "http://localhost:1"}}, {of["hook"]}}}
"""
    with pytest.raises(DataFlareError) as raised:
        plan(load_text(text, base=tmp_path))
    assert f"cannot have 'fallback: {fallback}'" in str(raised.value)


def test_a_fallback_of_all_steps_is_refused(tmp_path: Path) -> None:
    text = """\
name: refused
settings: {error_handling: {circuit_breaker: {fallback: stale}}}
sources: {rows: {type: inline, config: {rows: [{id: 1}]}}}
destinations: {out: {type: blackhole, inputs: [rows]}}
"""
    with pytest.raises(WorkflowError, match="belongs in the 'error_handling' of one step"):
        load_text(text, base=tmp_path)
