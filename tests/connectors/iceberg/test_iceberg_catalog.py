"""`discover` lists the tables of a catalogue."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pyarrow as pa
from iceberg_kit import CATALOG, catalog_of

from dataflare.testing import check_catalog


def test_iceberg_tables_of_all_namespaces(tmp_path: Path) -> None:
    catalog = catalog_of(tmp_path)
    for namespace in ("shop", "shop.old"):
        catalog.create_namespace(namespace)
    for name in ("shop.orders", "shop.old.orders"):
        catalog.create_table(name, pa.schema([("id", pa.int64())]))
    found = asyncio.run(check_catalog("iceberg", {"catalog": CATALOG}, base=tmp_path))
    assert [*found] == ["shop.old.orders", "shop.orders"]
