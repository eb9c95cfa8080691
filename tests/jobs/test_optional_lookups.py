"""`optional: true` of a lookup: rows go on with NULL while its system is away, and are counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from servers.web import Answer, Asked, http_server

from dataflare.errors import DataFlareError
from dataflare.jobs import RunOptions, run
from dataflare.workflow.load import load_text

FEED = """\
import polars as pl


def rows():
    for first in range(0, 400, 100):
        yield pl.DataFrame({"n": range(first, first + 100)}).with_columns(id=pl.col("n") % 50)
"""


def flow(
    url: str,
    folder: Path,
    more: str = "",
    handling: str = "{}",
    source: str = "concurrency: 8",
) -> Any:
    (folder / "feed.py").write_text(FEED)
    text = f"""\
name: optional
settings: {{parallelism: 1, batch: {{initial: 100, min: 100, max: 100}}, restart: {{attempts: 0}}}}
sources:
  rows: {{type: python, config: {{function: "feed:rows"}}, schema: {{id: int64, n: int64}}}}
transformations:
  named:
    type: lookup
    inputs: [rows]
    config:
      source: {{type: http, url: "{url}/names/{{id}}", {source}}}
      mapping: {{key: id, remote_key: id, fields: [name]}}
      {more}
    error_handling: {handling}
destinations:
  out: {{type: file, inputs: [named], config: {{path: out.csv}}}}
"""
    return load_text(text, base=folder)


def answer_of(asked: Asked) -> Answer:
    id_ = asked.path.rpartition("/")[2]
    return Answer({"id": int(id_), "name": f"n{id_}"})


def names(folder: Path) -> list[str | None]:
    return pl.read_csv(folder / "out.csv").sort("n")["name"].to_list()


def test_rows_go_on_without_values_while_the_system_is_away(tmp_path: Path) -> None:
    """It goes away after the first batch, for good. The other rows have NULL, and are counted."""
    calls: list[str] = []

    def answer(asked: Asked) -> Answer:
        calls.append(asked.path)
        return answer_of(asked) if len(calls) <= 50 else Answer(None, 503)

    with http_server(answer) as server:
        result = run(flow(server.url, tmp_path, "optional: true"), RunOptions(tmp_path / "home"))
    assert result.status == "finished", result.error
    assert names(tmp_path) == [f"n{n % 50}" for n in range(100)] + [None] * 300
    assert result.steps["named"]["degraded"] == 300
    assert (result.steps["named"]["rows_in"], result.steps["named"]["rows_out"]) == (400, 400)
    (told,) = [w for w in result.warnings if "while it was degraded" in w]
    assert told.startswith("step 'named': 300 rows went on without its values")


@pytest.mark.parametrize("status", [500, 503])
@pytest.mark.parametrize(
    ("source", "handling"),
    [
        ("concurrency: 1", "{}"),
        ("concurrency: 8", "{retry_policy: {max_attempts: 2, initial_backoff: 1ms}}"),
    ],
)
@pytest.mark.parametrize("more", ["", "\n      cache: {size: 100, ttl: 1h}"])
def test_keys_that_the_system_fails_for_cost_the_others_nothing(
    tmp_path: Path, status: int, source: str, handling: str, more: str
) -> None:
    """It fails for 3, 4 and 40 of 50 keys, always."""
    asked_for: list[str] = []
    failing = {3, 4, 40}

    def answer(asked: Asked) -> Answer:
        asked_for.append(asked.path)
        id_ = int(asked.path.rpartition("/")[2])
        return Answer(None, status) if id_ in failing else answer_of(asked)

    with http_server(answer) as server:
        workflow = flow(server.url, tmp_path, "optional: true" + more, handling, source)
        result = run(workflow, RunOptions(tmp_path / "home"))
    assert result.status == "finished", result.error
    expected = [None if n % 50 in failing else f"n{n % 50}" for n in range(400)]
    assert names(tmp_path) == expected
    assert result.steps["named"]["degraded"] == 8 * len(failing)
    assert sum(path == "/names/7" for path in asked_for) == (1 if more else 4)


def test_a_system_that_is_away_from_the_start_stops_no_run(tmp_path: Path) -> None:
    with http_server(answer_of) as server:
        url = server.url
    result = run(flow(url, tmp_path, "optional: true"), RunOptions(tmp_path / "home"))
    assert result.status == "finished", result.error
    assert names(tmp_path) == [None] * 400
    assert result.steps["named"]["degraded"] == 400
    failed = run(flow(url, tmp_path), RunOptions(tmp_path / "home", fresh=True))
    assert failed.status == "failed"


def test_credentials_that_are_refused_are_not_a_system_that_is_away(tmp_path: Path) -> None:
    with http_server(lambda asked: Answer(None, 401)) as server:
        result = run(flow(server.url, tmp_path, "optional: true"), RunOptions(tmp_path / "home"))
    assert result.status == "failed"


def test_keys_that_were_asked_for_before_keep_their_old_values(tmp_path: Path) -> None:
    """With a cache and `fallback: stale`, only keys that were never asked for have NULL."""
    calls: list[str] = []

    def answer(asked: Asked) -> Answer:
        calls.append(asked.path)
        return answer_of(asked) if len(calls) <= 50 else Answer(None, 503)

    more = "optional: true\n      cache: {size: 100, ttl: 1ms}"
    handling = "{circuit_breaker: {fallback: stale, recovery: 60s}}"
    with http_server(answer) as server:
        workflow = flow(server.url, tmp_path, more, handling)
        result = run(workflow, RunOptions(tmp_path / "home"))
    assert result.status == "finished", result.error
    assert names(tmp_path) == [f"n{n % 50}" for n in range(400)]
    assert "degraded" not in result.steps["named"]
    assert [w for w in result.warnings if "older than the cache's ttl" in w]


@pytest.mark.parametrize(
    "more", ["optional: true\n      on_miss: drop", "optional: true\n      on_miss: fail"]
)
def test_what_a_missing_key_does_must_be_null(tmp_path: Path, more: str) -> None:
    with pytest.raises(DataFlareError, match="cannot be optional"):
        run(flow("http://127.0.0.1:9", tmp_path, more), RunOptions(tmp_path / "home"))
