"""A database of a real server under one handle, and a destination step driven as the engine does: what the tests of
PostgreSQL and MySQL share."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from dataflare.engine.committing import RetriedCommitter
from dataflare.errors import DataError
from dataflare.model.batch import KIND_COLUMN, SharedDataBatch
from dataflare.model.progress import Position
from dataflare.model.types import Schema
from dataflare.resilience.policy import RetryPolicy
from dataflare.resilience.retry import Retried, Retrying
from dataflare.sdk import registry
from dataflare.sdk.context import ConnectorContext, DestinationContext
from dataflare.sdk.destination import Committable, Committer, Epoch, RefusedRow, Writer
from dataflare.sdk.source import ChunkReader, EndOfSplit

if TYPE_CHECKING:
    from servers.mariadb import MariaDbServer
    from servers.postgres import PostgresServer

LINEAGE = "0f0e0d0c-0b0a-4000-8000-000000000001"


def batch(
    rows: Sequence[dict[str, Any]], kinds: Sequence[int] | None = None, **schema: Any
) -> SharedDataBatch:
    frame = pl.DataFrame(rows, schema=schema or None, orient="row")
    if kinds is not None:
        frame = frame.with_columns(pl.Series(KIND_COLUMN, kinds, dtype=pl.UInt8))
    return SharedDataBatch(frame)


def run(coroutine: Any) -> Any:
    return asyncio.run(coroutine)


class ServerDatabase:
    """folder: for redo files, and of the workflow. kind: of the connectors."""

    kind: str
    name: str
    folder: Path

    @property
    def server(self) -> PostgresServer | MariaDbServer:
        raise NotImplementedError

    @property
    def dsn(self) -> str:
        return self.server.dsn(self.name)

    def execute(self, *statements: str) -> None:
        raise NotImplementedError

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """What another program sees."""
        raise NotImplementedError

    def tables(self) -> list[str]:
        raise NotImplementedError

    def own_tables(self) -> list[str]:
        """DataFlare's tables beside the marker table."""
        return [
            n for n in self.tables() if n.startswith("_dataflare_") and n != "_dataflare_epochs"
        ]

    def ids(self, table: str = "t") -> list[int]:
        """The numbers in a table, or none where it is not there."""
        if table not in self.tables():
            return []
        return [number for (number,) in self.rows(f"select id from {table} order by id")]

    def break_connection(self, store: Any) -> None:
        """Break what a destination's store holds, so that it does not notice yet."""
        raise NotImplementedError

    def source(self, *, contract: Schema | None = None, step: str = "in", **config: Any) -> Any:
        class_ = registry.source(self.kind)
        config = {"connection_string": self.dsn} | config
        made = class_(
            class_.Config(**config), ConnectorContext(step, self.folder, folder=self.folder)
        )
        made.contract = contract
        return made

    def destination(self, step: str = "out", **config: Any) -> Any:
        class_ = registry.destination(self.kind)
        config = {"connection_string": self.dsn, "table": "t"} | config
        return class_(class_.Config(**config), ConnectorContext(step, self.folder))

    async def read(
        self, *, rows_max: int = 1_000, carried: Any = None, filters: Sequence[Any] = (),
        columns: Sequence[str] | None = None, **config: Any,
    ) -> tuple[pl.DataFrame, Any]:  # fmt: skip
        """All rows of a source, and what it carries to the next run."""
        made = self.source(**config)
        await made.schema()
        for condition in filters:
            made = made.with_filter(condition)
            assert made is not None
        if columns is not None:
            made = made.with_columns(columns)
        schema = await made.schema()
        frames, positions = [pl.DataFrame(schema=schema.to_polars())], {}
        try:
            for split in await made.splits(carried):
                found, positions[split.id] = await drain(made, split, None, rows_max)
                frames += found
        finally:
            await made.aclose()
        assert all(frame.schema == schema.to_polars() for frame in frames)
        return pl.concat(frames), made.carry(positions)

    def step(self, schema: Schema, **more: Any) -> Step:
        return Step(self, schema, **more)


async def drain(
    source: Any,
    split: Any,
    position: Position | None,
    rows_max: int = 1_000,
    batches: int | None = None,
) -> tuple[list[pl.DataFrame], Position]:
    """The batches of a split from a position on, at most so many, and the position behind them."""
    reader = await source.open(split, position)
    frames: list[pl.DataFrame] = []
    try:
        while batches is None or len(frames) < batches:
            found = await reader.read_batch(rows_max)
            for bad in found.bad:
                raise DataError(f"{bad.place}: {bad.message}", code=bad.code)
            assert 0 < found.num_rows <= rows_max
            frames.append(found.frame)
    except EndOfSplit:
        pass
    finally:
        end = reader.position()
        await reader.aclose()
    return frames, end


async def chunks(source: Any) -> list[Any]:
    """All chunks of a source's only split."""
    [split] = await source.splits()
    reader = await source.open(split, None)
    assert isinstance(reader, ChunkReader)
    found = []
    try:
        while True:
            found.append(await reader.read_chunk())
    except EndOfSplit:
        return found
    finally:
        await reader.aclose()
        await source.aclose()


class Step:
    """One destination step of a run, driven by hand the way the engine does. policy: of its calls.
    retried: those that were made again."""

    def __init__(
        self, database: ServerDatabase, schema: Schema, *, step: str = "out", attempt: int = 1,
        lineage: str = LINEAGE, is_changelog: bool = False, sift: bool = False, complete: bool = False, before: Sequence[str] = (),
        policy: RetryPolicy | None = None, **config: Any,
    ) -> None:  # fmt: skip
        self._database = database
        self.retried: list[Retried] = []
        self._retrying = Retrying(step, policy, on_retry=self.retried.append)
        self.destination = database.destination(step, **config)
        redo = database.folder / f"redo-{step}"
        redo.mkdir(exist_ok=True)
        self.context = DestinationContext(
            step,
            lineage,
            attempt,
            schema,
            redo,
            is_changelog,
            sift=sift,
            complete=complete,
            before=frozenset(before),
        )
        self.committer: Committer
        self.writer: Writer

    async def start(self, epoch: int = 0, committables: Sequence[Committable] = ()) -> Step:
        """As at the start of an attempt: recover, commit again, open a writer."""
        committer = await self.destination.committer(self.context)
        self.committer = RetriedCommitter(committer, self._retrying)
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
            await self.write(each)
        made = await self._retrying.call(lambda: self.writer.prepare(epoch, final=final))
        assert made is not None
        # A committable lives in a manifest, as JSON.
        return Committable.from_json(made.to_json())

    async def settle(self, *batches: SharedDataBatch) -> list[RefusedRow]:
        for each in batches:
            await self.write(each)
        return list(await self._retrying.call(self.writer.settle))

    async def write(self, rows: SharedDataBatch) -> None:
        await self._retrying.call(lambda: self.writer.write_batch(rows))

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
        """Lose what is in memory, as at a crash: the transaction and all that is held."""
        session = self.writer.session  # type: ignore[attr-defined]
        session.abandon()
        session._members.clear()

    def lose_connection(self) -> None:
        """The connection breaks, and the session has not noticed it yet."""
        session = self.writer.session  # type: ignore[attr-defined]
        if session._store is not None:
            self._database.break_connection(session._store)
