"""A table of Delta or Iceberg is not read as files: these also hold rows that were deleted."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from dataflare.connectors.file.lake_tables import StoredTables
from dataflare.errors import ConfigError
from dataflare.jobs import catalog
from dataflare.sdk.stores.store import FileInfo, Store
from dataflare.testing import source_of


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    for place in ("lake/d/day=1", "lake/i/data", "lake/plain"):
        (tmp_path / place).mkdir(parents=True)
        pl.DataFrame({"n": [1]}).write_parquet(tmp_path / place / "part.parquet")
    for name in ("d/_delta_log/0.json", "i/metadata/v1.metadata.json"):
        path = tmp_path / "lake" / name
        path.parent.mkdir()
        path.write_text("{}")
    return tmp_path


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("lake", "delta"),
        ("lake/d", "delta"),
        ("lake/d/day=1", "delta"),
        ("lake/d/**/*.parquet", "delta"),
        ("lake/*/day=1/*.parquet", "delta"),
        ("lake/i", "iceberg"),
        ("lake/i/data/*.parquet", "iceberg"),
    ],
)
def test_a_table_is_refused_by_name(lake: Path, path: str, kind: str) -> None:
    source = source_of("file", {"path": path, "format": "parquet"}, base=lake)
    with pytest.raises(ConfigError, match=f"{kind.capitalize()} table") as caught:
        asyncio.run(source.validate())
    assert f"type: {kind}" in str(caught.value.help)


@pytest.mark.parametrize(
    "path", ["lake/plain", "lake/plain/*.parquet", "lake/d/day=1/part.parquet"]
)
def test_other_folders_and_files_that_are_named_are_read(lake: Path, path: str) -> None:
    asyncio.run(source_of("file", {"path": path}, base=lake).validate())


def test_discover_lists_tables_and_writes_none_of_their_files(lake: Path) -> None:
    found = catalog.discover("file", [("path", "lake"), ("format", "parquet")], base=lake)
    shown = {each.entry.name: (each.entry.kind, each.schema is None) for each in found.found}
    assert shown["lake/d"] == ("Delta table", True)
    assert shown["lake/i"] == ("Iceberg table", True)
    assert shown["lake/plain/part.parquet"] == ("file", False)
    text = catalog.starter(found)
    assert "lake/plain" in text
    assert "lake/d" not in text
    assert "lake/i" not in text


class Listed(Store):
    def __init__(self, *paths: str) -> None:
        super().__init__("s3://b")
        self.paths = paths

    def list(self, folder: str) -> Iterator[FileInfo]:
        yield from (FileInfo(path, 1, 0) for path in self.paths if path.startswith(folder))

    def look(self, path: str) -> FileInfo | None:
        raise NotImplementedError

    def read(self, file: FileInfo, start: int, end: int) -> bytes:
        raise NotImplementedError


def test_tables_of_a_store_are_told_by_what_is_listed_and_above_it() -> None:
    paths = (
        "a/d/_delta_log/0.json",
        "a/d/day=1/x.parquet",
        "a/i/metadata/1.metadata.json",
        "a/i/data/y",
        "a/z",
    )
    store = Listed(*paths)
    whole = StoredTables(store, "a/", paths)
    assert [table and table.place for table in map(whole.of, paths)] == [
        "s3://b/a/d", "s3://b/a/d", "s3://b/a/i", "s3://b/a/i", None,
    ]  # fmt: skip
    part = StoredTables(store, "a/d/day=1/", [paths[1]]).of(paths[1])
    assert part is not None
    assert (part.kind, part.place) == ("delta", "s3://b/a/d")
