"""The connector keeps what is asked of every destination, of every table, and of every source."""

from __future__ import annotations

import asyncio
from pathlib import Path

import polars as pl
import pytest
from dataflare_lmdb import LmdbDestination
from dataflare_lmdb_source import LmdbSource, read_table

from dataflare.testing import (
    DESTINATION_LAWS,
    SOURCE_LAWS,
    TABLE_LAWS,
    check_destination,
    check_source,
    check_table,
    description,
)


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
