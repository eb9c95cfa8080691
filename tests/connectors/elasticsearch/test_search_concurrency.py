"""Several bulk requests at once: fewer for a server that has too much to do, and the last row of an _id stays the last."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from search_kit import Place
from servers.opensearch import OpenSearch
from servers.web import Answer, Asked, http_server

from dataflare.connectors.elasticsearch.destination import ElasticsearchDestination
from dataflare.jobs import RunOptions, run
from dataflare.jobs.watching import Watch
from dataflare.workflow.load import load_text

FLOW = """\
name: many
settings: {parallelism: 2, restart: {attempts: 0}}
sources:
  rows: {type: generate, config: {columns: {n: {sequence: 0}}, rows: ROWS}}
transformations:
  given: {type: map, inputs: [rows], config: {derive: {id: "n % 997"}}}
destinations:
  out:
    type: opensearch
    inputs: [given]
    config: {connection: "URL", index: INDEX, id_field: id, MORE}
    error_handling: {on_error: dead_letter}
"""


@pytest.fixture(autouse=True)
def waited(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that were waited, without waiting them."""
    seconds: list[float] = []

    async def sleep(each: float) -> None:
        seconds.append(each)

    monkeypatch.setattr(ElasticsearchDestination, "sleep", staticmethod(sleep))
    return seconds


class Overloaded:
    """Takes bulk requests, two at a time; the others are put off, whole or by their second half. It keeps documents."""

    def __init__(self) -> None:
        self.lock, self.watches = threading.Lock(), list[Watch]()
        self.under_way = self.greatest = self.put_off = 0
        self.documents: dict[str, int] = {}
        self.taken: Counter[int] = Counter()
        self.limits: list[float] = []
        self.first = threading.Barrier(6)

    @contextmanager
    def observed(self, watch: Watch) -> Iterator[None]:
        self.watches.append(watch)
        yield

    def __call__(self, asked: Asked) -> Answer:
        if asked.path == "/":
            return Answer({"version": {"distribution": "opensearch", "number": "2.19.1"}})
        if asked.path != "/_bulk":
            return Answer({})
        with self.lock:
            self.under_way += 1
            is_early = self.greatest < self.first.parties
            self.greatest = max(self.greatest, self.under_way)
        if is_early:
            self.first.wait(60)
        with self.lock:
            if (limit := self.watches[0].step_views()["out"].requests_max) is not None:
                self.limits.append(limit)
            is_busy = self.under_way > 2
            self.put_off += is_busy
            answer = self._answer(asked, is_busy=is_busy)
            self.under_way -= 1
        return answer

    def _answer(self, asked: Asked, *, is_busy: bool) -> Answer:
        if is_busy and self.put_off % 2:
            return Answer({"error": {"type": "x", "reason": "full"}}, 429)
        lines = [json.loads(line) for line in asked.body.decode().splitlines()]
        pairs = list(zip(lines[::2], lines[1::2], strict=True))
        items = []
        for at, (action, document) in enumerate(pairs):
            if is_busy and at >= len(pairs) // 2:
                error = {"type": "es_rejected_execution_exception", "reason": "full"}
                items.append({"index": {"status": 429, "error": error}})
                continue
            self.documents[action["index"]["_id"]] = document["n"]
            self.taken[document["n"]] += 1
            items.append({"index": {"status": 201}})
        return Answer({"errors": is_busy, "items": items})


def test_an_overloaded_server_gets_fewer_at_once_and_each_document_once(tmp_path: Path) -> None:
    server, rows = Overloaded(), 30_000
    with http_server(server) as at:
        more = "batch_size: 40, concurrency: 6"
        text = FLOW.replace("URL", at.url).replace("INDEX", "t").replace("MORE", more)
        options = RunOptions(tmp_path / "home", observers=[server.observed])
        result = run(load_text(text.replace("ROWS", str(rows)), base=tmp_path), options)
    assert result.status == "finished", result.error
    assert server.documents == {str(n % 997): n for n in range(rows)}
    assert {*server.taken.values()} == {1}
    assert result.steps["out"]["dead_letters"] == 0
    assert server.greatest == 6
    assert server.put_off
    assert min(server.limits) < 4
    view = server.watches[0].step_views()["out"]
    assert (view.requests_under_way, 1 <= (view.requests_max or 0) <= 6) == (0, True)


def test_on_a_real_server_the_last_row_of_each_id_is_there(
    place: Place, opensearch: OpenSearch
) -> None:
    rows = 40_000
    text = FLOW.replace("MORE", "batch_size: 100, concurrency: 8").replace("ROWS", str(rows))
    result = place.run(text)
    assert result.status == "finished", result.error
    place.ask("POST", "/_refresh")
    found = place.documents()
    assert {id_: each["n"] for id_, each in found.items()} == {
        str(n): range(n, rows, 997)[-1] for n in range(997)
    }
