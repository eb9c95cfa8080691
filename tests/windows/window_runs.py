"""A window step without an engine: rows and watermarks go in, in any batches, with checkpoints, crashes and other
numbers of subtasks; results and late rows come out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
from msgspec import Struct
from reference import Row

from dataflare.model.event_time import NEVER, TIME_COLUMN, WATERMARK_COLUMN
from dataflare.model.types import Schema
from dataflare.operators.base import (
    ERROR_COLUMN,
    LATE,
    LATE_IN_PART,
    BindContext,
    Bound,
    Lowering,
    Result,
    Side,
)
from dataflare.operators.window import WindowStep
from dataflare.sdk.context import Policy
from dataflare.state.pieces import own_rows
from dataflare.state.tables import Tables, TableShare
from dataflare.testing.processors import InMemory
from dataflare.workflow import bind

SCHEMA = Schema.of({"k": "string", "v": "int64", "number": "int64"})


def bound(config: Mapping[str, Any], *, schema: Schema = SCHEMA) -> Bound:
    """The step as it is bound, with its late rows read."""
    context = BindContext(
        step="w",
        base=Path(),
        policy=Policy(),
        bounded=True,
        parallelism=1,
        table=lambda _: None,  # type: ignore[arg-type, return-value]
        timed=(True,),
        streaming=True,
        read=frozenset({"late"}),
    )
    return WindowStep.bind(bind(WindowStep.Config, config, step="w"), [schema], context)


def frame_of(rows: Sequence[Row], *, streams: bool = True) -> pl.DataFrame:
    """Rows as they come to the step."""
    columns: dict[str, Any] = {
        "k": [row.key for row in rows],
        "v": [row.value for row in rows],
        "number": [row.number for row in rows],
        TIME_COLUMN: [row.time for row in rows],
    }
    if streams:
        columns[WATERMARK_COLUMN] = [row.watermark for row in rows]
    types = {"k": pl.String, **dict.fromkeys([*columns][1:], pl.Int64)}
    return pl.DataFrame(columns, schema=types)


class Given(Struct):
    """What came out of all subtasks. results: rows in the order in which they came."""

    results: list[dict[str, Any]]
    late: list[dict[str, Any]]
    in_part: list[dict[str, Any]]

    def copy(self) -> Given:
        return Given([*self.results], [*self.late], [*self.in_part])


class WindowRun:
    """All subtasks of a step. A checkpoint holds the state and what was given until then."""

    def __init__(
        self, config: Mapping[str, Any], subtasks: int = 1, *, streams: bool = True
    ) -> None:
        self.bound = bound(config)
        assert self.bound.stateful is not None
        self.operator, self.streams = self.bound.stateful, streams
        self.storage = InMemory()
        self.given = Given([], [], [])
        self.checkpoint: tuple[list[TableShare], Given] = ([], Given([], [], []))
        self.restart(subtasks)

    def restart(self, subtasks: int) -> None:
        """Crash, and go on from the last checkpoint."""
        shares, given = self.checkpoint
        self.given = given.copy()
        subtasks = subtasks if self.operator.keys else 1
        self.tables = [
            Tables(n, subtasks, storage=self.storage, shares=shares) for n in range(subtasks)
        ]
        self.live = [self.operator.open(tables) for tables in self.tables]

    def store(self) -> None:
        self.checkpoint = [t.store(t.freeze()) for t in self.tables], self.given.copy()

    def rows(self, rows: Sequence[Row]) -> None:
        query = frame_of(rows, streams=self.streams).lazy()
        lowering = Lowering()
        for operator in self.bound.operators:
            query = operator.lower(query, lowering)
        frame = query.collect()
        for number, live in enumerate(self.live):
            mine = own_rows(frame, self.operator.keys, number, len(self.live))
            if mine.height:
                self.take(live.process(0, mine))

    def watermark(self, time: int) -> None:
        if time > NEVER:
            for live in self.live:
                self.take(live.watermark(time))

    def tick(self) -> None:
        for live in self.live:
            self.take(live.tick())

    def end(self, crash_at: int | None = None, subtasks: int = 1) -> None:
        """Let all windows out; crash once after so many frames, with a checkpoint just before or after one."""
        count = 0
        for live in list(self.live):
            for result in live.end(0):
                self.take([result])
                count += 1
                if count == crash_at:
                    self.store()
                    self.restart(subtasks)
                    self.end()
                    return

    def take(self, results: Iterable[Result]) -> None:
        for result in results:
            if isinstance(result, Side):
                rows = self.given.late if result.output == LATE else self.given.in_part
                assert result.output in (LATE, LATE_IN_PART)
                rows += result.frame.rows(named=True)
            else:
                faults = result.get_column(ERROR_COLUMN, default=None)
                assert faults is None or faults.null_count() == result.height
                self.given.results += result.drop(ERROR_COLUMN, strict=False).rows(named=True)
