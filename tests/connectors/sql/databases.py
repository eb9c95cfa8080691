"""Both database files under one handle, for tests of what they share."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from dataflare.errors import DataError
from dataflare.model.batch import KIND_COLUMN, SharedDataBatch
from dataflare.model.types import Schema
from dataflare.sdk import registry
from dataflare.sdk.context import ConnectorContext, DestinationContext
from dataflare.sdk.destination import Committable, Committer, Epoch, Writer
from dataflare.sdk.source import EndOfSplit, SourceBatch

LINEAGE = "0f0e0d0c-0b0a-4000-8000-000000000001"


def batch(
    rows: Sequence[dict[str, Any]], kinds: Sequence[int] | None = None, **schema: Any
) -> SharedDataBatch:
    frame = pl.DataFrame(rows, schema=schema or None, orient="row")
    if kinds is not None:
        frame = frame.with_columns(pl.Series(KIND_COLUMN, kinds, dtype=pl.UInt8))
    return SharedDataBatch(frame)


class Step:
    """One destination step of a run, driven by hand the way the engine does."""

    def __init__(
        self, kind: str, folder: Path, schema: Schema, *, step: str = "out", attempt: int = 1,
        lineage: str = LINEAGE, is_changelog: bool = False, sift: bool = False, complete: bool = False,
        before: Sequence[str] = (), **config: Any,
    ) -> None:  # fmt: skip
        class_ = registry.destination(kind)
        self.destination = class_(
            class_.Config(**{"path": "data.db", "table": "t"} | config),
            ConnectorContext(step, folder),
        )
        redo = folder / f"redo-{step}"
        redo.mkdir(exist_ok=True)
        self.context = DestinationContext(
            step, lineage, attempt, schema, redo, is_changelog, sift=sift, complete=complete,
            before=frozenset(before),
        )  # fmt: skip
        self.committer: Committer
        self.writer: Writer

    async def start(self, epoch: int = 0, committables: Sequence[Committable] = ()) -> Step:
        """As at the start of an attempt: recover, commit again, open a writer."""
        self.committer = await self.destination.committer(self.context)
        await self.committer.recover(epoch, committables)
        if committables:
            await self.commit(epoch, committables)
        self.writer = await self.destination.open(
            self.context, committables[0] if committables else None
        )
        return self

    async def prepare(
        self, epoch: int, *batches: SharedDataBatch, final: bool = False
    ) -> Committable:
        for each in batches:
            await self.writer.write_batch(each)
        made = await self.writer.prepare(epoch, final=final)
        assert made is not None
        # A committable lives in a manifest, as JSON.
        return Committable.from_json(made.to_json())

    async def commit(
        self, epoch: int, committables: Sequence[Committable], *, final: bool = False
    ) -> None:
        await self.committer.commit(Epoch(epoch, f'{{"epoch": {epoch}}}', final), committables)

    async def epoch(
        self, number: int, *batches: SharedDataBatch, final: bool = False
    ) -> Committable:
        made = await self.prepare(number, *batches, final=final)
        await self.commit(number, [made], final=final)
        return made

    async def close(self) -> None:
        await self.writer.aclose()
        await self.committer.aclose()

    def die(self) -> None:
        """Lose what is in memory, as at a crash: the open transaction, the unsealed file."""
        self.writer.session.abandon()  # type: ignore[attr-defined]


def rows(kind: str, path: Path, sql: str) -> list[tuple[Any, ...]]:
    """What another program sees."""
    if kind == "sqlite":
        connection = sqlite3.connect(path)
        try:
            return connection.execute(sql).fetchall()
        finally:
            connection.close()
    import duckdb

    with duckdb.connect(str(path)) as db:
        return db.execute(sql).fetchall()


def execute(kind: str, path: Path, *statements: str) -> None:
    if kind == "sqlite":
        connection = sqlite3.connect(path)
        try:
            for statement in statements:
                connection.execute(statement)
            connection.commit()
        finally:
            connection.close()
        return
    import duckdb

    with duckdb.connect(str(path)) as db:
        for statement in statements:
            db.execute(statement)


async def read(
    kind: str, folder: Path, *, contract: Schema | None = None, rows_max: int = 1_000,
    carried: Any = None, filters: Sequence[Any] = (), columns: Sequence[str] | None = None, **config: Any,
) -> tuple[pl.DataFrame, Any]:  # fmt: skip
    """All rows of a source, and what it carries to the next run."""
    class_ = registry.source(kind)
    made: Any = class_(
        class_.Config(**{"path": "data.db"} | config), ConnectorContext("in", folder)
    )
    made.contract = contract
    schema = await made.schema()
    for condition in filters:
        made = made.with_filter(condition)
        assert made is not None
    if columns is not None:
        made = made.with_columns(columns)
        schema = await made.schema()
    frames, positions = [pl.DataFrame(schema=schema.to_polars())], {}
    for split in await made.splits(carried):
        reader = await made.open(split, None)
        try:
            while True:
                found = await reader.read_batch(rows_max)
                refuse_bad(found)
                assert 0 < found.num_rows <= rows_max
                assert found.frame.schema == schema.to_polars()
                frames.append(found.frame)
        except EndOfSplit:
            positions[split.id] = reader.position()
        finally:
            await reader.aclose()
    return pl.concat(frames), made.carry(positions)


def refuse_bad(found: SourceBatch) -> None:
    """Raise DataError for the first bad row, as a run does without `error_handling`."""
    for bad in found.bad:
        raise DataError(f"{bad.place}: {bad.message}", code=bad.code)


def run(coroutine: Any) -> Any:
    return asyncio.run(coroutine)
