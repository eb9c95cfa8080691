"""The connector keeps what is asked of every destination, of every table, and of every source."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import polars as pl
import pytest
from dataflare_lmdb import LmdbDestination
from dataflare_lmdb_source import LmdbSource, read_table

from dataflare import register
from dataflare.cli.app import execute
from dataflare.errors import DataError
from dataflare.model.types import Schema
from dataflare.testing import (
    DESTINATION_LAWS,
    SOURCE_LAWS,
    TABLE_LAWS,
    check_destination,
    check_source,
    check_table,
    description,
)
from dataflare.testing.protocol import LAST, Play


def destination(folder: Path, **options: object) -> LmdbDestination:
    config = {"path": "shop.lmdb", "table": "orders", "key": ["id"], **options}
    return description(LmdbDestination, config, base=folder)


def source(folder: Path, table: str = "orders") -> LmdbSource:
    return description(LmdbSource, {"path": "shop.lmdb", "table": table}, base=folder)


def read(folder: Path, table: str = "orders") -> pl.DataFrame:
    return read_table(folder / "shop.lmdb", table)


@pytest.mark.parametrize("law", DESTINATION_LAWS)
def test_it_is_exactly_once(law: str, tmp_path: Path):
    asyncio.run(check_destination(destination, read, tmp_path, only=[law]))


@pytest.mark.parametrize("law", TABLE_LAWS)
def test_it_is_a_table(law: str, tmp_path: Path):
    asyncio.run(check_table(destination, read, tmp_path, only=[law]))


@pytest.mark.parametrize("law", SOURCE_LAWS)
def test_it_is_read_as_it_was_written(law: str, tmp_path: Path):
    asyncio.run(check_destination(destination, read, tmp_path, only=["each_row_arrives_once"]))
    folder = tmp_path / "each_row_arrives_once" / "whole"
    asyncio.run(check_source(lambda: source(folder), only=[law]))


WORKFLOW = """\
name: orders
version: "1.0"
sources:
  orders: {type: inline, config: {rows: [
    {id: 2, name: b, amount: 0.1, day: 2024-02-29}, {id: 1, name: "\u00e9", amount: null, day: null},
    {id: 2, name: last, amount: 1.0e+300, day: 1999-12-31}]}}
destinations:
  shop: {type: lmdb, inputs: [orders], config: {path: shop.lmdb, table: orders, key: [id]}}
"""
COPY = """\
name: copy
version: "1.0"
sources:
  orders: {type: lmdb, config: {path: shop.lmdb, table: orders}}
destinations:
  copy: {type: file, inputs: [orders], config: {path: copy.ndjson}}
"""


def test_a_workflow_writes_and_reads_it(tmp_path: Path):
    register(LmdbDestination)
    register(LmdbSource)
    for name, text in (("orders", WORKFLOW), ("copy", COPY)):
        (tmp_path / f"{name}.yaml").write_text(text)
        assert execute(["run", str(tmp_path / f"{name}.yaml")]) == 0
    rows = [json.loads(line) for line in (tmp_path / "copy.ndjson").read_text().splitlines()]
    assert rows == [
        {"id": 1, "name": "\u00e9", "amount": None, "day": None},
        {"id": 2, "name": "last", "amount": 1e300, "day": "1999-12-31"},
    ]


def test_a_key_that_is_too_long_is_refused(tmp_path: Path):
    with pytest.raises(DataError) as caught:
        asyncio.run(write_one(tmp_path, "x" * 600))
    assert caught.value.code == "E0510"
    assert "more than" in caught.value.message


async def write_one(folder: Path, key: str) -> None:
    frame = pl.DataFrame({"id": [key]})
    play = Play("", lambda: destination(folder), folder, Schema.from_polars(frame.schema))
    attempt = await play.attempt(resume=0)
    try:
        await attempt.run({LAST: frame})
    finally:
        await attempt.close()
