"""NDJSON, JSON files and HTTP give the same rows, and those are what Python's own parser says."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from json_model import KEYS, ROWS, ROWS_WITH_HALVES, is_half, model, same
from servers.web import Answer, HttpServer, http_server

from dataflare.connectors.file.source import FileSource
from dataflare.connectors.http.source import HttpSource
from dataflare.formats.ndjson_read import NdjsonPlan, sniff
from dataflare.sdk.context import ConnectorContext
from dataflare.sdk.source import BadRow, ChunkReader, EndOfSplit, SourceConnector

Read = tuple[list[dict[str, Any]], list[BadRow], dict[str, str]]


async def read(source: SourceConnector) -> Read:
    """The rows of a source, the bad ones, and the types of its columns."""
    rows: list[dict[str, Any]] = []
    bad: list[BadRow] = []
    types = (await source.schema()).to_json()
    for split in await source.splits():
        reader = await source.open(split, None)
        assert isinstance(reader, ChunkReader)
        try:
            while True:
                chunk = await reader.read_chunk()
                try:
                    rows += chunk.scan().collect().to_dicts()
                except pl.exceptions.PolarsError:
                    assert chunk.salvage is not None
                    saved = chunk.salvage()
                    rows += saved.good.to_dicts()
                    bad += saved.bad
        except EndOfSplit:
            await reader.aclose()
    return rows, bad, types


CONTENT = [b""]


@pytest.fixture(scope="module")
def server() -> Iterator[HttpServer]:
    with http_server(lambda asked: Answer(CONTENT[0])) as running:
        yield running


def sources(rows: list[str], folder: Path, server: HttpServer) -> Iterator[SourceConnector]:
    context = ConnectorContext("api", folder)
    (folder / "a.ndjson").write_text("\n".join(rows) + "\n")
    (folder / "a.json").write_text("[\n" + "\n,".join(rows) + "]")
    for name in ("a.ndjson", "a.json"):
        yield FileSource(FileSource.Config(path=name), context)
    CONTENT[0] = ('{"items": [' + ",".join(rows) + '], "next": null}').encode()
    config = {"url": server.url, "records": "$.items"}
    yield HttpSource(HttpSource.Config(**config), context)


@given(st.lists(ROWS | ROWS_WITH_HALVES, max_size=5))
@example(['{"a":9007199254740993}', '{"a":1.5}'])
@example(
    ['{"a":"x"}', '{"a":1.50}', '{"a":{"b":1e400}}', '{"a":[0.1000000000000000055511151231257827]}']
)
@example(['{"a":{"b":[1,{"a":1,"a":2}]}}', '{"a":{"b":[]}}', '{"a":{}}', '{"a":null}'])
@settings(max_examples=60, deadline=None)
def test_all_three_give_what_was_written(server: HttpServer, rows: list[str]) -> None:
    rows = ['{"n":0}', *rows]
    with tempfile.TemporaryDirectory() as folder:
        found = [asyncio.run(read(source)) for source in sources(rows, Path(folder), server)]
    kept = [model(row) for row in rows if not is_half(row)]
    for got, bad, types in found:
        assert types == found[0][2]
        assert [each.code for each in bad] == ["E0503"] * (len(rows) - len(kept))
        assert len(got) == len(kept)
        for value, row in zip(kept, got, strict=True):
            assert same(value, row), (value, row, types)


@given(st.lists(ROWS, min_size=1, max_size=4), st.lists(ROWS | ROWS_WITH_HALVES, max_size=4))
@example(['{"a":1.5}'], ['{"a":9007199254740993}'])
@example(['{"a":"b"}'], ['{"a":0.10}', '{"a":-0.0}', '{"a":["x", 1E5]}'])
@example(['{"a":["b"]}'], ['{"a":[0.10]}', '{"a":[[1]]}'])
@settings(max_examples=150, deadline=None)
def test_what_comes_after_the_sample_is_exact_or_a_bad_row(
    sample: list[str], later: list[str]
) -> None:
    columns = tuple(sniff(["\n".join(sample).encode()]))
    if not columns:
        return
    plan = NdjsonPlan(columns, tuple(column.name for column in columns))
    lines = [*sample, *later]
    data = "\n".join(lines).encode()
    patient = plan.salvage(data, str)
    bad = {each.row: each for each in patient.bad}
    assert not [row for row in bad if row < len(sample)], [b.message for b in patient.bad]
    assert all(
        each.code == ("E0503" if is_half(lines[row]) else "E0501") for row, each in bad.items()
    )
    assert {row for row, line in enumerate(lines) if is_half(line)} <= bad.keys()
    kept = [model(line) for row, line in enumerate(lines) if row not in bad]
    _check(kept, patient.good, plan)
    try:
        quick = plan.scan(data).collect()
    except pl.exceptions.PolarsError:
        return
    assert not bad
    _check(kept, quick, plan)


def _check(values: list[dict[str, Any]], rows: pl.DataFrame, plan: NdjsonPlan) -> None:
    for value, row in zip(values, rows.to_dicts(), strict=True):
        for name in plan.output:
            assert same(_fields(value.get(name), row[name]), row[name]), (name, value, row)


def _fields(value: Any, got: Any) -> Any:
    """The value without the fields that its column lacks: those are found elsewhere."""
    if isinstance(value, dict) and isinstance(got, dict):
        return {name: _fields(value.get(name), each) for name, each in got.items()}
    if isinstance(value, list) and isinstance(got, list):
        return [_fields(v, g) for v, g in zip(value, got, strict=True)]
    return value


def test_the_model_tells_what_is_not_the_same() -> None:
    assert KEYS
    for value, got in [(2**53 + 1, float(2**53)), (1, "1.0"), ("1", 1), (1, True), ([1], [1, 2])]:
        assert not same(value, got)
