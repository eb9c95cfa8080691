"""A database of the server under one handle, and its sources and destinations."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from dataflare.model.batch import KIND_COLUMN, SharedDataBatch
from dataflare.model.progress import Position
from dataflare.model.types import Schema
from dataflare.sdk import registry
from dataflare.sdk.context import ConnectorContext, DestinationContext
from dataflare.sdk.destination import Committable, Committer, Epoch, Writer
from dataflare.sdk.source import BadRow
from dataflare.testing.sources import next_piece

if TYPE_CHECKING:
    from servers.clickhouse import ClickhouseServer

LINEAGE = "0f0e0d0c-0b0a-4000-8000-000000000001"


def batch(rows: Sequence[dict[str, Any]], kinds: Sequence[int] | None = None, **schema: Any) -> Any:
    frame = pl.DataFrame(rows, schema=schema or None, orient="row")
    if kinds is not None:
        frame = frame.with_columns(pl.Series(KIND_COLUMN, kinds, dtype=pl.UInt8))
    return SharedDataBatch(frame)


def run(coroutine: Any) -> Any:
    return asyncio.run(coroutine)


class Database:
    """server: the tests' one. name: of the database. folder: for redo files."""

    def __init__(self, server: ClickhouseServer, name: str, folder: Path) -> None:
        self.server, self.name, self.folder = server, name, folder

    @property
    def dsn(self) -> str:
        return self.server.dsn(self.name)

    def execute(self, *statements: str) -> None:
        for statement in statements:
            self.server.ask(statement, database=self.name)

    def rows(self, sql: str) -> list[list[Any]]:
        """What another program sees."""
        text = self.server.ask(
            f"{sql} format JSONCompactEachRow", database=self.name,
            output_format_json_quote_64bit_integers=0,
        )  # fmt: skip
        return [json.loads(line) for line in text.splitlines()]

    def source(self, *, contract: Schema | None = None, **config: Any) -> Any:
        class_ = registry.source("clickhouse")
        config = {"connection_string": self.dsn} | config
        made = class_(class_.Config(**config), ConnectorContext("in", self.folder))
        made.contract = contract
        return made

    def destination(self, step: str = "out", **config: Any) -> Any:
        class_ = registry.destination("clickhouse")
        config = {"connection_string": self.dsn, "table": "t"} | config
        return class_(class_.Config(**config), ConnectorContext(step, self.folder))

    async def read(self, *, carried: Any = None, rows_max: int = 1_000, **config: Any) -> Read:
        """All rows of a source, and what it carries to the next run."""
        made = self.source(**config)
        schema = (await made.schema()).to_polars()
        frames, positions, bad = [pl.DataFrame(schema=schema)], {}, []
        for split in await made.splits(carried):
            reader = await made.open(split, None)
            try:
                while True:
                    piece = await next_piece(reader, rows_max)
                    frames.append(piece.frame)
                    bad += piece.bad
                    positions[split.id] = piece.position
            except Exception as error:
                if type(error).__name__ != "EndOfSplit":
                    raise
            finally:
                await reader.aclose()
        assert all(frame.schema == schema for frame in frames)
        return Read(pl.concat(frames), made.carry(positions), bad, positions)

    def step(self, schema: Schema, **more: Any) -> Step:
        return Step(self, schema, **more)


class Read:
    def __init__(
        self, frame: pl.DataFrame, carried: Any, bad: list[BadRow], positions: dict[str, Position]
    ) -> None:
        self.frame, self.carried, self.bad, self.positions = frame, carried, bad, positions


class Step:
    """A destination step driven as the engine does. attempt: of the run."""

    writer: Writer
    committer: Committer

    def __init__(
        self, database: Database, schema: Schema, *, attempt: int = 1, lineage: str = LINEAGE,
        sift: bool = False, token: str = "", workflow: str = "", **config: Any,
    ) -> None:  # fmt: skip
        redo = database.folder / "redo"
        redo.mkdir(exist_ok=True)
        self.connector = database.destination(**config)
        self.context = DestinationContext(
            step="out", lineage=lineage, attempt=attempt, schema=schema, redo=redo, sift=sift,
            token=token, workflow=workflow,
        )  # fmt: skip

    async def start(
        self, resume: int = 0, committables: Sequence[Committable] = (), *, final: bool = False
    ) -> Step:
        await self.connector.validate(self.context.schema)
        self.committer = await self.connector.committer(self.context)
        await self.committer.marker()
        await self.committer.recover(resume, committables)
        if resume:
            await self.commit(resume, committables, final=final)
        restored = committables[0] if committables else None
        self.writer = await self.connector.open(self.context, restored)
        return self

    async def prepare(self, epoch: int, *batches: Any, final: bool = False) -> Committable:
        for each in batches:
            await self.writer.write_batch(each)
        made = await self.writer.prepare(epoch, final=final)
        assert made is not None
        return Committable.from_json(json.loads(json.dumps(made.to_json())))

    async def commit(
        self, epoch: int, committables: Sequence[Committable], *, final: bool = False
    ) -> None:
        await self.committer.commit(Epoch(epoch, json.dumps({"epoch": epoch}), final), committables)

    async def epoch(self, epoch: int, *batches: Any, final: bool = False) -> Committable:
        made = await self.prepare(epoch, *batches, final=final)
        await self.commit(epoch, [made], final=final)
        return made

    async def close(self) -> None:
        await self.writer.aclose()
        await self.committer.aclose()
