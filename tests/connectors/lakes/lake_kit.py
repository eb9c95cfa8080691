"""Tables of both lakes under one handle: what a run writes, what another writer adds, what another reader finds."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.exceptions import NoSuchNamespaceError, NoSuchTableError
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from dataflare.jobs import RunOptions, RunResult
from dataflare.jobs import run as run_workflow
from dataflare.model.batch import KIND_COLUMN, SharedDataBatch
from dataflare.model.types import Schema
from dataflare.sdk.context import DestinationContext
from dataflare.sdk.destination import Committable, Committer, Epoch, Writer
from dataflare.testing import destination_of, read_source, source_of
from dataflare.workflow.load import load_text

LINEAGE = "0f0e0d0c-0b0a-4000-8000-000000000001"
KINDS = ("delta", "iceberg")


def batch(frame: pl.DataFrame, kinds: Sequence[int] | None = None) -> SharedDataBatch:
    if kinds is not None:
        frame = frame.with_columns(pl.Series(KIND_COLUMN, kinds, dtype=pl.UInt8))
    return SharedDataBatch(frame)


class Lake:
    """kind: delta or iceberg. folder: of the runs. place: of the tables, a folder or a URL."""

    def __init__(self, kind: str, folder: Path, place: str | None = None) -> None:
        self.kind, self.folder, self.place = kind, folder, place

    def config(self, table: str = "t", **options: Any) -> dict[str, Any]:
        if self.kind == "delta":
            return {"path": f"{self.place or 'lake'}/{table}", **options}
        catalog = {
            "type": "sql", "uri": "sqlite:///catalog.db", "warehouse": self.place or "lake"
        }  # fmt: skip
        return {"catalog": catalog, "table": f"shop.{table}", **options}

    def destination(self, table: str = "t", **options: Any) -> Any:
        return destination_of(self.kind, self.config(table, **options), base=self.folder)

    def read(self, table: str = "t", **options: Any) -> pl.DataFrame:
        """The rows as the source gives them."""
        source = source_of(self.kind, self.config(table, **options), base=self.folder)
        return asyncio.run(read_source(source))

    # -- by the libraries alone --------------------------------------------------------------------

    @property
    def _path(self) -> str:
        return self.place or str(self.folder / "lake")

    def catalog(self) -> Any:
        uri = f"sqlite:///{self.folder / 'catalog.db'}"
        warehouse = self.place or (self.folder / "lake").as_uri()
        store = {"s3.endpoint": os.environ.get("AWS_ENDPOINT_URL", "")} if self.place else {}
        catalog = SqlCatalog("dataflare", uri=uri, warehouse=warehouse, **store)
        catalog.engine.dispose()
        catalog.engine = create_engine(uri, poolclass=NullPool)
        return catalog

    def table(self, table: str = "t") -> Any:
        """The library's object; None if the table does not exist."""
        if self.kind == "iceberg":
            try:
                return self.catalog().load_table(f"shop.{table}")
            except (NoSuchTableError, NoSuchNamespaceError):
                return None
        import deltalake

        path = f"{self._path}/{table}"
        there = deltalake.DeltaTable.is_deltatable(path)
        return deltalake.DeltaTable(path) if there else None

    def frame(self, table: str = "t") -> pl.DataFrame:
        found = self.table(table)
        if found is None:
            return pl.DataFrame()
        if self.kind == "iceberg":
            return pl.DataFrame(pl.from_arrow(found.scan().to_arrow()))
        return pl.read_delta(f"{self._path}/{table}")

    def add(self, frame: pl.DataFrame, table: str = "t") -> None:
        """What another writer appends."""
        if self.kind == "delta":
            import deltalake

            deltalake.write_deltalake(f"{self._path}/{table}", frame, mode="append")
            return
        arrow = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
        catalog = self.catalog()
        catalog.create_namespace_if_not_exists("shop")
        made = catalog.create_table_if_not_exists(f"shop.{table}", arrow.schema)
        made.append(arrow)

    # -- runs --------------------------------------------------------------------------------------

    def run(self, rows: str, options: str, home: str = "home", **more: Any) -> RunResult:
        """A run that writes inline rows. options: of the destination."""
        config = {"delta": "path: lake/t", "iceberg": _ICEBERG}[self.kind]
        text = f"""
name: load
sources:
  s: {{type: inline, config: {{rows: {rows}}}}}
destinations:
  d: {{type: {self.kind}, inputs: [s], config: {{{config}, {options}}}}}
"""
        loaded = load_text(text, base=self.folder)
        return run_workflow(loaded, RunOptions(self.folder / home, **more))


_ICEBERG = "catalog: {type: sql, uri: 'sqlite:///catalog.db', warehouse: lake}, table: shop.t"


class Step:
    """One destination step of a run, driven by hand the way the engine does."""

    def __init__(
        self, lake: Lake, schema: Schema, *, attempt: int = 1, lineage: str = LINEAGE,
        complete: bool = False, workflow: str = "load", sift: bool = False, **config: Any,
    ) -> None:  # fmt: skip
        self.destination = lake.destination(**config)
        redo = lake.folder / f"redo-{lineage[:8]}-{workflow}"
        redo.mkdir(exist_ok=True)
        self.context = DestinationContext(
            "out", lineage, attempt, schema, redo, True, complete=complete, workflow=workflow,
            token=f"token {attempt}", sift=sift,
        )  # fmt: skip
        self.committer: Committer
        self.writer: Writer

    async def start(self, epoch: int = 0, committables: Sequence[Committable] = ()) -> Step:
        self.committer = await self.destination.committer(self.context)
        await self.committer.recover(epoch, committables)
        if committables:
            await self.commit(epoch, committables)
        restored = committables[0] if committables else None
        self.writer = await self.destination.open(self.context, restored)
        return self

    async def prepare(
        self, epoch: int, *batches: SharedDataBatch, final: bool = False
    ) -> Committable:
        for each in batches:
            await self.writer.write_batch(each)
        made = await self.writer.prepare(epoch, final=final)
        assert made is not None
        return Committable.from_json(made.to_json())

    async def commit(
        self, epoch: int, committables: Sequence[Committable], *, final: bool = False
    ) -> None:
        await self.committer.commit(Epoch(epoch, f'{{"epoch": {epoch}}}', final), committables)

    async def epoch(self, number: int, *batches: SharedDataBatch, final: bool = False) -> None:
        made = await self.prepare(number, *batches, final=final)
        await self.commit(number, [made], final=final)

    async def close(self) -> None:
        await self.writer.aclose()
        await self.committer.aclose()

    def die(self) -> None:
        """Lose what is in memory, as at a crash."""
        self.writer.session.abandon()  # type: ignore[attr-defined]
