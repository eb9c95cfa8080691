"""What a bucket has, as `connectors discover` asks for it."""

from __future__ import annotations

import polars as pl
import pytest

from dataflare.jobs.catalog import discover


@pytest.mark.parametrize("type_", ["s3", "file"])
def test_files_of_a_bucket(s3, tmp_path, type_: str) -> None:
    pl.DataFrame({"id": [1], "x": [0.5]}).write_parquet(tmp_path / "a.parquet")
    for name in ("sold/year=2024/a.parquet", "sold/year=2025/b.parquet", "p-1.parquet"):
        s3.put(f"shop/{name}", (tmp_path / "a.parquet").read_bytes())
    found = discover(type_, [("connection", "s3://lake/shop/")], base=tmp_path)
    names = {each.entry.name: each.schema for each in found.found}
    assert [*names] == ["s3://lake/shop/p-1.parquet", "s3://lake/shop/sold"]
    assert found.type == "file"
    sold = names["s3://lake/shop/sold"]
    assert sold is not None
    assert sold.names == ("id", "x", "year")
