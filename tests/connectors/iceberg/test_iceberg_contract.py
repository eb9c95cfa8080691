"""The destination keeps what `check_table` and `check_destination` ask."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from conformance import keeps_destination_laws
from optional_packages import package

from dataflare.testing import (
    DESTINATION_LAWS,
    TABLE_LAWS,
    check_table,
    destination_of,
)

package("pyiceberg")
from iceberg_kit import CATALOG, frame_of  # noqa: E402


def make(folder: Path, **options: Any) -> Any:
    table = options.pop("table", "orders")
    if "." not in table:
        table = f"shop.{table}"
    return destination_of("iceberg", {"catalog": CATALOG, "table": table, **options}, base=folder)


def read(folder: Path, table: str = "shop.orders") -> pl.DataFrame:
    found = frame_of(folder, table)
    return pl.DataFrame() if found is None else found


@pytest.mark.parametrize("law", TABLE_LAWS)
def test_iceberg_keeps_the_contract_of_tables(law: str, tmp_path: Path):
    asyncio.run(check_table(make, read, tmp_path, only=[law]))


@pytest.mark.parametrize("mode", ["append", "overwrite", "upsert"])
@pytest.mark.parametrize("law", DESTINATION_LAWS)
def test_iceberg_keeps_the_contract_of_destinations(law: str, mode: str, tmp_path: Path):
    options = {"mode": mode, "key": ["id"]} if mode == "upsert" else {"mode": mode}
    made = lambda folder: make(folder, **options)  # noqa: E731
    keeps_destination_laws("iceberg", made, read, tmp_path, only=[law])
