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

package("deltalake")


def make(folder: Path, **options: Any) -> Any:
    path = options.pop("table", "orders")
    return destination_of("delta", {"path": path, **options}, base=folder)


def read(folder: Path, table: str = "orders") -> pl.DataFrame:
    if not (folder / table / "_delta_log").exists():
        return pl.DataFrame()
    return pl.read_delta(str(folder / table))


@pytest.mark.parametrize("law", TABLE_LAWS)
def test_delta_keeps_the_contract_of_tables(law: str, tmp_path: Path):
    asyncio.run(check_table(make, read, tmp_path, only=[law]))


@pytest.mark.parametrize("mode", ["append", "overwrite", "upsert"])
@pytest.mark.parametrize("law", DESTINATION_LAWS)
def test_delta_keeps_the_contract_of_destinations(law: str, mode: str, tmp_path: Path):
    options = {"mode": mode, "key": ["id"]} if mode == "upsert" else {"mode": mode}
    made = lambda folder: make(folder, **options)  # noqa: E731
    keeps_destination_laws("delta", made, read, tmp_path, only=[law])
