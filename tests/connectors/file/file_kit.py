"""Drives the file connector as the engine does, without the engine."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from dataflare.connectors.file.destination import FileDestination
from dataflare.connectors.file.source import FileSource
from dataflare.model.batch import SharedDataBatch
from dataflare.model.progress import Position, Split
from dataflare.model.types import Schema
from dataflare.sdk.context import ConnectorContext, DestinationContext
from dataflare.sdk.destination import Committable, Committer, Epoch, Writer
from dataflare.sdk.source import BadRow, Chunk, EndOfSplit

LINEAGE = "0123abcd-0000-4000-8000-000000000000"
OTHER_LINEAGE = "89abcdef-0000-4000-8000-000000000000"


@dataclass
class Reading:
    """What a read gave: rows, bad rows, and the positions after each chunk of each split."""

    frame: pl.DataFrame
    bad: list[BadRow] = field(default_factory=list)
    positions: list[tuple[Split, Position]] = field(default_factory=list)
    frames: list[pl.DataFrame] = field(default_factory=list)
    chunks: list[Chunk] = field(default_factory=list)


def source(
    config: dict[str, Any] | str | Path,
    base: Path,
    *,
    columns: Sequence[str] | None = None,
    contract: dict[str, str] | None = None,
) -> FileSource:
    if not isinstance(config, dict):
        config = {"path": str(config)}
    made = FileSource(FileSource.Config(**config), ConnectorContext("src", base))
    made.contract = Schema.of(contract) if contract else None
    return made.with_columns(columns) if columns is not None else made


def read(config: dict[str, Any] | str | Path, base: Path, **more: Any) -> Reading:
    return asyncio.run(read_all(source(config, base, **more)))


async def read_all(src: FileSource) -> Reading:
    await src.validate()
    schema = await src.schema()
    found = Reading(pl.DataFrame(schema=schema.to_polars()))
    for split in await src.splits():
        await read_split(src, split, None, found)
    if found.frames:
        found.frame = pl.concat(found.frames)
    assert found.frame.schema == schema.to_polars()
    return found


async def read_split(
    src: FileSource, split: Split, position: Position | None, found: Reading
) -> Reading:
    reader = await src.open(Split.from_json(split.to_json()), position)
    while True:
        try:
            chunk = await reader.read_chunk()
        except EndOfSplit:
            break
        found.chunks.append(chunk)
        try:
            found.frames.append(chunk.scan().collect())
            assert chunk.count() in (None, found.frames[-1].height)
        except pl.exceptions.PolarsError:
            assert chunk.salvage is not None
            saved = chunk.salvage()
            assert saved.good.height == saved.good_rows.len()
            found.frames.append(saved.good)
            found.bad.extend(saved.bad)
        found.positions.append((split, chunk.position))
        assert reader.position() == chunk.position
    await reader.aclose()
    return found


def resume(
    config: Any, base: Path, split: Split, position: Position | None, **more: Any
) -> Reading:
    """What comes after a position, in one split."""
    src = source(config, base, **more)
    again = Position(position.to_json()) if position is not None else None
    return asyncio.run(read_split(src, split, again, Reading(pl.DataFrame())))


@dataclass
class Run:
    """One attempt at writing: a committer and its writers."""

    committer: Committer
    writers: list[Writer]

    async def write(self, frame: pl.DataFrame, writer: int = 0, batch_rows: int = 100) -> None:
        for start in range(0, frame.height, batch_rows):
            batch = SharedDataBatch(frame.slice(start, batch_rows))
            await self.writers[writer].write_batch(batch)

    async def prepare(self, epoch: int, *, final: bool = False) -> list[Committable]:
        found = [await writer.prepare(epoch, final=final) for writer in self.writers]
        return [Committable.from_json(c.to_json()) for c in found if c is not None]

    async def commit(self, epoch: int, of: list[Committable], *, final: bool = False) -> None:
        await self.committer.commit(Epoch(epoch, "{}", final), of)

    async def epoch(self, number: int, frame: pl.DataFrame, *, final: bool = False) -> Any:
        await self.write(frame)
        made = await self.prepare(number, final=final)
        await self.commit(number, made, final=final)
        return made

    async def aclose(self) -> None:
        for writer in self.writers:
            await writer.aclose()
        await self.committer.aclose()


def destination(config: dict[str, Any] | str | Path, base: Path) -> FileDestination:
    if not isinstance(config, dict):
        config = {"path": str(config)}
    return FileDestination(FileDestination.Config(**config), ConnectorContext("dst", base))


async def start(
    config: Any,
    base: Path,
    schema: Schema,
    *,
    epoch: int = 0,
    restored: Sequence[Committable] = (),
    lineage: str = LINEAGE,
    attempt: int = 1,
    subtasks: int = 1,
    recover: bool = True,
) -> Run:
    """Begin an attempt, after the last committed `epoch` with its committables."""
    made = destination(config, base)
    await made.validate(schema)

    def context(subtask: int) -> DestinationContext:
        return DestinationContext(
            "dst", lineage, attempt, schema, redo, subtask=subtask, subtasks=subtasks
        )

    redo = base.parent / f"{base.name}.redo"
    redo.mkdir(exist_ok=True)
    committer = await made.committer(context(0))
    assert await committer.marker() is None
    if recover:
        await committer.recover(epoch, restored)
        if not restored:
            await committer.begin(epoch)
    last = {c.subtask: c for c in restored}
    writers = [await made.open(context(n), last.get(n)) for n in range(subtasks)]
    return Run(committer, writers)


def write(config: Any, base: Path, *epochs: pl.DataFrame, **more: Any) -> dict[str, Any]:
    """Write frames, one per epoch, the last one final. Returns what was published."""

    async def work() -> dict[str, Any]:
        run = await start(config, base, Schema.from_polars(epochs[0].schema), **more)
        for number, frame in enumerate(epochs, 1):
            await run.epoch(number, frame, final=number == len(epochs))
        published = dict(await run.committer.published())
        await run.aclose()
        return published

    return asyncio.run(work())


def names(folder: Path) -> list[str]:
    """All files below a folder, hidden ones too."""
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
