"""`discover` lists the Delta tables of a folder or a store."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from servers import services
from servers.aws import AwsServer
from servers.s3 import KEYS, empty

from dataflare.testing import check_catalog

ROWS = pl.DataFrame({"id": [1]})


@pytest.fixture
def server() -> Iterator[AwsServer]:
    for made in services.running("aws"):
        empty(made.endpoint, "lake")
        yield made


def test_delta_tables_of_a_folder(tmp_path: Path) -> None:
    for place in ("lake/a", "lake/shop/b"):
        ROWS.write_delta(str(tmp_path / place))
    (tmp_path / "lake/plain").mkdir()
    ROWS.write_parquet(tmp_path / "lake/plain/x.parquet")
    found = asyncio.run(check_catalog("delta", {"path": "lake"}, base=tmp_path))
    assert [*found] == ["lake/a", "lake/shop/b"]
    assert [*asyncio.run(check_catalog("delta", {"path": "lake/a"}, base=tmp_path))] == ["lake/a"]


def test_delta_tables_of_a_store(
    server: AwsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = {"AWS_ENDPOINT_URL": server.endpoint, "AWS_ALLOW_HTTP": "true"}
    for name, value in {**KEYS, **more}.items():
        monkeypatch.setenv(name, value)
    for name in ("a", "shop/b"):
        ROWS.write_delta(f"s3://lake/{name}")
    found = asyncio.run(check_catalog("delta", {"path": "s3://lake/"}, base=tmp_path))
    assert [*found] == ["s3://lake/a", "s3://lake/shop/b"]
