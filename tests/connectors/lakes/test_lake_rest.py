"""Tables in a catalogue that is a server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from lake_kit import Lake, Step, batch
from rest_catalog import rest_catalog
from servers import services
from servers.aws import AwsServer
from servers.s3 import KEYS, empty

from dataflare.errors import DataFlareError
from dataflare.model.types import Schema
from dataflare.testing import destination_of, read_source, source_of

ROWS = pl.DataFrame({"id": [1, 2, 3], "v": ["a", "b", "c"]})
SCHEMA = Schema.from_polars(ROWS.schema)


def contents(frame: pl.DataFrame) -> list[tuple[Any, ...]]:
    return frame.select("id", "v").sort("id", "v").rows()


def through(catalog: dict[str, Any], folder: Path, **options: Any) -> pl.DataFrame:
    """Write two epochs to a table of a catalogue, and read it."""
    config = {"catalog": catalog, "table": "shop.t", **options}

    async def go() -> pl.DataFrame:
        lake = Lake("iceberg", folder)
        lake.config = lambda table="t", **more: {**config, **more}  # type: ignore[method-assign]
        step = await Step(lake, SCHEMA, mode="upsert", key=["id"]).start()
        await step.epoch(1, batch(ROWS[:2]))
        await step.epoch(2, batch(pl.DataFrame({"id": [2, 3], "v": ["new", "c"]})), final=True)
        await step.close()
        return await read_source(source_of("iceberg", config, base=folder))

    return asyncio.run(go())


def test_a_rest_catalogue(tmp_path: Path):
    with rest_catalog(tmp_path, token="planted-token") as address:
        catalog = {"type": "rest", "uri": address, "token": "planted-token"}
        assert contents(through(catalog, tmp_path)) == [(1, "a"), (2, "new"), (3, "c")]
        wrong = {"catalog": {**catalog, "token": "planted-wrong"}, "table": "shop.t"}
        made = destination_of("iceberg", wrong, base=tmp_path)
        with pytest.raises(DataFlareError) as caught:
            asyncio.run(made.validate(SCHEMA))
    assert caught.value.code == "E0602"
    assert "planted" not in str(caught.value)


def test_a_rest_catalogue_that_is_away_is_named(tmp_path: Path):
    config = {"catalog": {"type": "rest", "uri": "http://127.0.0.1:9"}, "table": "shop.t"}
    made = destination_of("iceberg", config, base=tmp_path)
    with pytest.raises(DataFlareError) as caught:
        asyncio.run(made.validate(SCHEMA))
    assert caught.value.code == "E0607"
    assert "127.0.0.1:9" in str(caught.value)


@pytest.fixture(scope="module")
def aws() -> Iterator[AwsServer]:
    for made in services.running("aws"):
        empty(made.endpoint, "lake")
        yield made


def test_a_glue_catalogue(aws: AwsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", aws.endpoint)
    catalog = {"type": "glue", "uri": aws.endpoint, "warehouse": "s3://lake/glue"}
    assert contents(through(catalog, tmp_path)) == [(1, "a"), (2, "new"), (3, "c")]
    tables = aws.client("glue").get_tables(DatabaseName="shop")["TableList"]
    assert [(each["Name"], each["Parameters"]["table_type"]) for each in tables] == [
        ("t", "ICEBERG")
    ]


def test_a_commit_that_glue_refuses_because_another_was_faster_is_made_again(
    aws: AwsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", aws.endpoint)
    catalog = {"type": "glue", "uri": aws.endpoint, "warehouse": "s3://lake/glue2"}
    config = {"catalog": catalog, "table": "both.t"}

    async def go() -> pl.DataFrame:
        lake = Lake("iceberg", tmp_path)
        lake.config = lambda table="t", **more: {**config, **more}  # type: ignore[method-assign]
        first = await Step(lake, SCHEMA).start()
        second = await Step(
            lake, SCHEMA, lineage="1f0e0d0c-0b0a-4000-8000-000000000002", workflow="other"
        ).start()
        made = await first.prepare(1, batch(ROWS[:1]), final=True)
        await second.epoch(1, batch(ROWS[1:]), final=True)
        await first.commit(1, [made], final=True)
        for each in (first, second):
            await each.close()
        return await read_source(source_of("iceberg", config, base=tmp_path))

    assert contents(asyncio.run(go())) == ROWS.rows()


def test_a_glue_catalogue_that_is_away_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    catalog = {"type": "glue", "uri": "http://127.0.0.1:9", "properties": {"glue.max-retries": "1"}}
    made = destination_of("iceberg", {"catalog": catalog, "table": "shop.t"}, base=tmp_path)
    with pytest.raises(DataFlareError) as caught:
        asyncio.run(made.validate(SCHEMA))
    assert (caught.value.code, "127.0.0.1:9" in str(caught.value)) == ("E0607", True)
