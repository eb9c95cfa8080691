"""Rows in the process: read where they were left, visible once, at the commit of their epoch."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from dataflare.connectors import memory
from dataflare.connectors.memory import MemoryDestination, MemorySource
from dataflare.errors import CheckpointError, ConfigError, RunError, SystemError_
from dataflare.model.batch import KIND_COLUMN, SharedDataBatch
from dataflare.model.progress import Position
from dataflare.model.types import Schema
from dataflare.sdk.context import ConnectorContext, DestinationContext
from dataflare.sdk.destination import Committable, Delivery, Epoch
from dataflare.sdk.source import EndOfSplit, Replay

LINEAGE = "0f8fad5b-d9cb-469f-a165-70867728950e"


@pytest.fixture(autouse=True)
def _nothing_left_over() -> Iterator[None]:
    memory.clear()
    yield
    memory.clear()


def source(name: str | None = "orders", contract: dict[str, str] | None = None) -> MemorySource:
    made = MemorySource(MemorySource.Config(name=name), ConnectorContext("step"))
    made.contract = Schema.of(contract) if contract else None
    return made


def rows(*ids: int) -> pl.DataFrame:
    return pl.DataFrame({"id": list(ids)}, schema={"id": pl.Int64})


async def read_all(made: MemorySource, rows_max: int = 2) -> list[int]:
    found: list[int] = []
    for split in await made.splits():
        reader = await made.open(split, None)
        try:
            while True:
                batch = await reader.read_batch(rows_max)
                assert batch.num_rows <= rows_max
                found += batch.frame["id"].to_list()
        except EndOfSplit:
            pass
    return found


def test_the_frames_that_were_put_are_read():
    memory.put("orders", [rows(1, 2, 3), rows(), rows(4)])
    assert asyncio.run(read_all(source())) == [1, 2, 3, 4]
    assert asyncio.run(source().schema()).to_json() == {"id": "int64"}
    assert len(asyncio.run(source().splits())) == 3
    assert source().capabilities().replay is Replay.EXACT
    memory.put("orders", rows(9))
    assert asyncio.run(read_all(source())) == [9]


def test_the_name_is_the_steps_by_default():
    memory.put("step", rows(7))
    assert asyncio.run(read_all(source(None))) == [7]


def test_a_reader_goes_on_where_another_stopped():
    async def read() -> None:
        memory.put("orders", rows(1, 2, 3))
        (split,) = await source().splits()
        first = await source().open(split, None)
        await first.read_batch(2)
        assert first.position() == Position({"row": 2})
        second = await source().open(split, first.position())
        assert (await second.read_batch(10)).frame["id"].to_list() == [3]

    asyncio.run(read())


def test_nothing_put_is_a_missing_input():
    with pytest.raises(SystemError_, match="nothing was put into 'orders'"):
        asyncio.run(source().schema())


def test_frames_of_different_schemas_and_none_are_refused():
    for frames in ([], [rows(1), pl.DataFrame({"x": [1]})]):
        with pytest.raises(ValueError, match="one schema"):
            memory.put("orders", frames)


def test_frames_that_break_the_contract_are_refused():
    memory.put("orders", rows(1))
    assert asyncio.run(source(contract={"id": "int64"}).schema()).names == ("id",)
    with pytest.raises(ConfigError, match="'schema'"):
        asyncio.run(source(contract={"id": "string"}).schema())


def test_fewer_frames_than_a_checkpoint_knows_is_an_error():
    async def read() -> None:
        memory.put("orders", [rows(1), rows(2)])
        last = (await source().splits())[-1]
        memory.put("orders", rows(1))
        with pytest.raises(CheckpointError, match="1 frames now"):
            await source().open(last, None)

    asyncio.run(read())


# -- the destination


class Run:
    """One attempt of an engine at writing to `totals`, by the book."""

    def __init__(
        self,
        *,
        attempt: int = 1,
        subtasks: int = 1,
        changelog: bool = False,
        lineage: str = LINEAGE,
        run_id: str = "",
        columns: Any = None,
    ):
        self.destination = MemoryDestination(
            MemoryDestination.Config(name="totals"), ConnectorContext("out")
        )
        self.contexts = [
            DestinationContext(
                "out",
                lineage,
                attempt,
                Schema.of(columns or {"id": "int64"}),
                Path(),
                run_id=run_id,
                changelog=changelog,
                subtask=subtask,
                subtasks=subtasks,
            )
            for subtask in range(subtasks)
        ]

    async def open(self) -> Run:
        self.committer = await self.destination.committer(self.contexts[0])
        self.writers = [await self.destination.open(context, None) for context in self.contexts]
        return self

    async def write(self, *ids: int, subtask: int = 0) -> None:
        stats = await self.writers[subtask].write_batch(SharedDataBatch(rows(*ids)))
        assert stats.rows == len(ids)

    async def prepare(self, epoch: int) -> list[Committable]:
        prepared = [await writer.prepare(epoch, final=False) for writer in self.writers]
        return [Committable.from_json(each.to_json()) for each in prepared]

    async def commit(self, epoch: int, committables: list[Committable]) -> None:
        await self.committer.commit(Epoch(epoch, f"manifest {epoch}"), committables)


def ids() -> list[int]:
    frame = memory.committed("totals")
    return frame["id"].to_list() if frame.width else []


def run(scenario: Any) -> None:
    asyncio.run(scenario())


def test_rows_are_visible_when_their_epoch_is_committed_and_not_before():
    async def scenario() -> None:
        one = await Run(subtasks=2).open()
        await one.write(1, 2)
        await one.write(3, subtask=1)
        assert ids() == []
        prepared = await one.prepare(1)
        assert ids() == []
        await one.write(4)
        await one.commit(1, prepared)
        assert ids() == [1, 2, 3]
        await one.commit(2, await one.prepare(2))
        assert ids() == [1, 2, 3, 4]
        assert await one.committer.published() == {"rows": 4}

    run(scenario)


def test_the_same_epoch_twice_is_once():
    async def scenario() -> None:
        one = await Run().open()
        await one.write(1)
        prepared = await one.prepare(1)
        await one.commit(1, prepared)
        await one.commit(1, prepared)
        assert ids() == [1]

    run(scenario)


def test_an_attempt_that_died_before_its_commit_is_committed_by_the_next():
    async def scenario() -> None:
        dead = await Run().open()
        await dead.write(1)
        prepared = await dead.prepare(1)
        await dead.write(99)

        alive = await Run(attempt=2).open()
        assert await alive.committer.marker() is None
        await alive.committer.recover(1, prepared)
        await alive.commit(1, prepared)
        assert ids() == [1]
        marker = await alive.committer.marker()
        assert marker is not None
        assert (marker.epoch, marker.attempt, marker.manifest) == (1, 2, "manifest 1")

    run(scenario)


def test_what_a_dead_attempt_staged_after_the_checkpoint_is_cleared():
    async def scenario() -> None:
        dead = await Run().open()
        await dead.write(1)
        first = await dead.prepare(1)
        await dead.commit(1, first)
        await dead.write(99)
        await dead.prepare(2)

        alive = await Run(attempt=2).open()
        await alive.committer.recover(1, first)
        await alive.commit(1, first)
        await alive.write(2)
        await alive.commit(2, await alive.prepare(2))
        assert ids() == [1, 2]

    run(scenario)


def test_an_older_attempt_is_fenced():
    async def scenario() -> None:
        old, new = await Run(attempt=1).open(), await Run(attempt=2).open()
        await new.write(1)
        await new.commit(1, await new.prepare(1))
        await old.write(2)
        with pytest.raises(RunError) as raised:
            await old.commit(2, await old.prepare(2))
        assert raised.value.code == "E0804"
        assert ids() == [1]

    run(scenario)


def test_another_lineage_adds_to_what_is_there():
    async def scenario() -> None:
        for lineage in (LINEAGE, "1f8fad5b-d9cb-469f-a165-70867728950e"):
            one = await Run(lineage=lineage).open()
            await one.write(1)
            await one.commit(1, await one.prepare(1))
        assert ids() == [1, 1]

    run(scenario)


def test_runs_whose_types_differ_are_not_made_one():
    async def scenario() -> None:
        for number, run_id in enumerate(("1", "2")):
            one = await Run(run_id=run_id, columns={"id": "string" if number else "int64"}).open()
            frame = rows(1).cast(pl.String) if number else rows(1)
            await one.writers[0].write_batch(SharedDataBatch(frame))
            await one.commit(number + 1, await one.prepare(number + 1))

    run(scenario)
    assert memory.committed_by("totals", "1", "out").to_dicts() == [{"id": 1}]
    assert memory.committed_by("totals", "2", "out").to_dicts() == [{"id": "1"}]
    assert memory.committed_by("totals", "2", "other").width == 0
    with pytest.raises(ConfigError, match="'id' is int64 in some and string in others"):
        memory.committed("totals")


def test_an_empty_run_has_its_columns():
    async def scenario() -> None:
        await Run(run_id="1", columns={"old": "int64"}).open()
        await Run(run_id="2", changelog=True).open()

    run(scenario)
    assert memory.committed_by("totals", "2", "out").schema == {"id": pl.Int64, "_op": pl.String}


def test_rows_of_a_process_that_ended_are_not_silently_lost():
    async def scenario() -> None:
        one = await Run().open()
        await one.commit(1, [Committable(0, {"rows": 0})])
        with pytest.raises(CheckpointError, match="epoch 2 were in the memory"):
            await one.commit(2, [Committable(0, {"rows": 3})])

    run(scenario)


def test_taking_empties_and_an_empty_one_keeps_its_columns():
    async def scenario() -> None:
        one = await Run().open()
        assert memory.committed("totals").schema == {"id": pl.Int64}
        await one.write(1)
        await one.commit(1, await one.prepare(1))
        assert memory.take("totals")["id"].to_list() == [1]
        assert memory.take("totals").schema == {"id": pl.Int64}

    run(scenario)
    assert memory.committed("never").width == 0


def test_a_changelog_shows_its_kinds():
    async def scenario() -> None:
        one = await Run(changelog=True).open()
        kinds = pl.Series(KIND_COLUMN, [0, 1, 2, 3], dtype=pl.UInt8)
        await one.writers[0].write_batch(SharedDataBatch(rows(1, 1, 1, 1).with_columns(kinds)))
        await one.commit(1, await one.prepare(1))
        assert memory.committed("totals")["_op"].to_list() == [
            "insert",
            "update_before",
            "update_after",
            "delete",
        ]

    run(scenario)


def test_a_column_that_the_kinds_would_overwrite_is_refused():
    context = DestinationContext(
        "out", LINEAGE, 1, Schema.of({"_op": "string"}), Path(), changelog=True
    )
    made = MemoryDestination(MemoryDestination.Config(), ConnectorContext("out"))
    with pytest.raises(ConfigError, match="'_op'"):
        asyncio.run(made.open(context, None))


def test_it_promises_exactly_once():
    made = MemoryDestination(MemoryDestination.Config(), ConnectorContext("out"))
    assert made.capabilities().delivery is Delivery.TRANSACTIONAL
