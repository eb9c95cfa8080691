"""Requests over HTTP name the trace that they belong to, and the traces of requests that come in are linked."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path

import httpx
from remembered_spans import GIVEN, OWN, Spans, traced_run
from servers.process import free_port
from servers.web import Answer, Asked, HttpServer, http_server

from dataflare.connectors.webhook.source import WebhookSource
from dataflare.model.types import Schema
from dataflare.sdk.context import ConnectorContext
from dataflare.sdk.runtime import Runtime
from dataflare.sdk.source import ChunkReader

READ = """\
name: reads
sources: {api: {type: http, config: {url: "URL/rows", pagination: {type: page}, MORE}, schema: {id: int64}}}
destinations: {out: {type: blackhole, inputs: [api]}}
"""
SEND = """\
name: sends
sources: {rows: {type: inline, config: {rows: [{id: 1}, {id: 2}]}}}
destinations: {out: {type: http, inputs: [rows], config: {url: "URL/hook", MORE}}}
"""
LOOK_UP = """\
name: looks_up
sources: {rows: {type: inline, config: {rows: [{id: 1}]}}}
transformations:
  more:
    type: lookup
    inputs: [rows]
    config:
      source: {type: http, url: "URL/one?id={id}", MORE}
      mapping: {key: id, remote_key: id, fields: [name]}
destinations: {out: {type: blackhole, inputs: [more]}}
"""


@contextlib.contextmanager
def server() -> Iterator[HttpServer]:
    def answer(asked: Asked) -> Answer:
        if asked.path == "/rows":
            page = int(asked.params["page"])
            return Answer([{"id": page}] if page <= 6 else [])
        return Answer({"id": 1, "name": "a"})

    with http_server(answer) as found:
        yield found


def asked(text: str, folder: Path, more: str = "timeout: 10s", *, traced: bool = True) -> tuple[list[str | None], Spans]:  # fmt: skip
    with server() as found:
        text = text.replace("URL", found.url).replace("MORE", more)
        spans = traced_run(text, folder, traced=traced)
        headers = [{k.lower(): v for k, v in each.headers.items()} for each in found.asked]
    return [each.get("traceparent") for each in headers], spans


def test_requests_that_write_and_look_up_are_below_the_batch(tmp_path: Path) -> None:
    for name, text in (("send", SEND), ("look", LOOK_UP)):
        traces, _ = asked(text, tmp_path / name)
        assert traces
        assert all(trace is not None and trace.startswith(OWN) for trace in traces), name


def test_a_request_that_reads_has_a_span_to_which_its_rows_are_linked(tmp_path: Path) -> None:
    traces, spans = asked(READ, tmp_path)
    # The first pages are a sample, which is read before the run begins.
    later = [trace for trace in traces if trace is not None]
    assert len(later) == 4
    assert all(trace.startswith(OWN) for trace in later)
    (linked,) = spans.links["read api"]
    assert linked in later


def test_the_options_and_a_run_without_traces_have_their_own(tmp_path: Path) -> None:
    for name, text in (("read", READ), ("send", SEND), ("look", LOOK_UP)):
        more = f"headers: {{Traceparent: {GIVEN}}}"
        traces, _ = asked(text, tmp_path / name, more)
        assert {*traces} == {GIVEN}, name
        traces, _ = asked(text, tmp_path / f"{name}-untraced", traced=False)
        assert {*traces} == {None}, name


def test_the_traces_of_requests_that_come_in_are_those_of_their_rows(tmp_path: Path) -> None:
    asyncio.run(taken(tmp_path))


async def taken(tmp_path: Path) -> None:
    context = ConnectorContext("inbox", tmp_path, folder=tmp_path / "state")
    config = WebhookSource.Config.model_validate(
        {"listen": f"127.0.0.1:{free_port()}", "metadata": ["traceparent"]}
    )
    source = WebhookSource(config, context)
    source.contract = Schema.of({"n": "int64"})
    with Runtime().entered() as runtime:
        runtime.tracer = Spans()
        (split,) = await source.splits()
        reader = await source.open(split, None)
        assert isinstance(reader, ChunkReader)
        try:
            found: list[tuple[int, str | None]] = []
            parents: list[str] = []
            async with httpx.AsyncClient(trust_env=False) as client:
                for n, trace in enumerate([GIVEN, "no trace", None]):
                    headers = {} if trace is None else {"Traceparent": trace}
                    url = f"http://{config.listen}/"
                    sent = await client.post(url, json={"n": n}, headers=headers)
                    assert sent.status_code == 202
            while len(found) < 3:
                chunk = await asyncio.wait_for(reader.read_chunk(), 30)
                rows = chunk.scan().collect()
                found += rows.select("n", "_traceparent").rows()
                parents += chunk.parents
        finally:
            await reader.aclose()
    assert found == [(0, GIVEN), (1, None), (2, None)]
    assert parents == [GIVEN]
