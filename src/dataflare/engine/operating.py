"""The body of a task that remembers: a stateful operator, and the chain behind it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import count
from typing import Any, ClassVar, cast

import polars as pl

from dataflare.checkpoint.manifest import OperatorSnapshot, StateChunk
from dataflare.checkpoint.store import Storage, chunk_name
from dataflare.engine.body import Body
from dataflare.engine.channel import MemoryBudget
from dataflare.engine.messages import Share
from dataflare.engine.segments import Given, Outcome, SegmentRunner
from dataflare.errors import Blame, RunError
from dataflare.model.batch import SharedDataBatch
from dataflare.operators.base import (
    ERROR_COLUMN,
    LATE,
    LATE_IN_PART,
    LATE_RIGHT,
    LiveOperator,
    Result,
    Side,
)
from dataflare.sdk.threads import in_thread
from dataflare.state.layout import Layout, TableLayout, as_json, difference
from dataflare.state.pieces import Chunk, Groups
from dataflare.state.tables import LEGACY, Frozen, Tables, TableShare

_SHORT_S, _RESTS, _REST_MAX_S = 0.01, 3, 2.0
"""A watermark that takes longer than `_SHORT_S` looks at much state. Then rows come for `_RESTS` times as long, so that
small batches do not each pay for it."""


class ChunkFolder:
    """The chunks of one subtask's state in a lineage's storage, under names that no other attempt uses."""

    def __init__(self, store: Storage, step: str, subtask: int, attempt: int) -> None:
        self._store, self._step, self._subtask, self._attempt = store, step, subtask, attempt
        self._numbers = count(1)
        self.epoch = 0

    def write(self, frame: pl.DataFrame, key_groups: Groups | None) -> StateChunk:
        number = next(self._numbers)
        name = chunk_name(self._step, self._subtask, self._attempt, self.epoch, number)
        return self._store.write_chunk(name, frame, key_groups)

    def read(self, chunk: Chunk) -> pl.DataFrame:
        assert isinstance(chunk, StateChunk)
        return self._store.read_chunk(chunk)

    def release(self, chunk: Chunk) -> None:
        assert isinstance(chunk, StateChunk)
        self._store.release_chunk(chunk.name)


class Operating(Body):
    """live: the operator's copy of this subtask, opened on its tables. sides: what runs behind its outputs
    other than the main one. state_max: how many bytes of the tables stay in memory. timed: it is told watermarks."""

    def __init__(
        self,
        live: LiveOperator,
        tables: Tables,
        chunks: ChunkFolder,
        runner: SegmentRunner,
        budget: MemoryBudget,
        state_max: int,
        *,
        sides: Mapping[str, SegmentRunner] | None = None,
        timed: bool = False,
        layout: Layout | None = None,
    ) -> None:
        self._layout = layout
        self.live, self.tables, self.runner = live, tables, runner
        self._sides, self._timed = sides or {}, timed
        self._chunks, self._budget, self._state_max = chunks, budget, state_max
        self._last: Share | None = None
        self._calling = threading.Lock()

    joins_batches: ClassVar[bool] = True

    def begin(self) -> None:
        if not self.live.needs_rows:
            self.cancel()

    def takes_at_once(self, batch: SharedDataBatch) -> bool:
        return self.task.pool.is_inline(batch.num_rows) and self.tables.in_memory

    async def rows(self, port: int, batch: SharedDataBatch) -> float:
        if self.takes_at_once(batch):
            outcome = self._process(port, batch.frame)
        else:
            outcome = await self.task.pool.submit(self._process, port, batch.frame)
        metric = self.task.metrics.step(self.task.name)
        metric.add_in(batch.num_rows)
        metric.seconds += outcome.seconds
        await self._let_out(outcome)
        if not self.live.needs_rows:
            self.cancel()
        return outcome.seconds

    async def time(self, event_time_us: int) -> int:
        if not self._timed:
            return event_time_us
        outcome = await self.task.pool.submit(self._watermark, event_time_us)
        if outcome.seconds > _SHORT_S:
            rest_s = min(_RESTS * outcome.seconds, _REST_MAX_S)
            self.rests_until = asyncio.get_running_loop().time() + rest_s
        await self._let_out(outcome)
        return self.live.passed_on(event_time_us)

    @property
    def tick_s(self) -> float | None:
        return self.live.tick_s

    async def tick(self) -> None:
        await self._let_out(await self.task.pool.submit(self._given, self.live.tick))

    async def ended(self, port: int) -> None:
        """Hand out the results, batch by batch, cutting in between when asked."""
        results = self._results(port)
        while not self.task.unwanted:
            if self.task.is_root:
                await self.task.cut_if_asked()
                await self.task.hold_back()
            outcome = await self.task.pool.submit(self._next_result, results)
            if outcome is None:
                return
            await self._let_out(outcome)

    def _results(self, port: int) -> Iterator[Result]:
        """What follows from the end of an input. The first step of it is made by the first `next`, on the
        pool."""
        yield from self.live.end(port)

    async def finish(self) -> None:
        """All was handed out when the inputs ended. What the operator remembers of it belongs to every later
        epoch: a resumed run must not hand it out again."""
        if not self.task.unwanted:
            for (step, warning), rows in self.live.warnings().items():
                warnings = self.task.metrics.step(step).warnings
                warnings[warning] = warnings.get(warning, 0) + rows
            self._last = await self.task.pool.submit(self._store, self.tables.freeze(), None)

    def last_share(self) -> Share:
        return self._last or Share(self.task.id, None)

    def freeze(self, epoch: int) -> Callable[[], Share]:
        self._chunks.epoch = epoch
        return partial(self._store, self.tables.freeze(), epoch)

    def _store(self, frozen: Frozen, epoch: int | None) -> Share:
        share = self.tables.store(frozen)
        state = snapshot_of(self.task.subtask, share, self._layout)
        return Share(self.task.id, epoch, state=state)

    async def aclose(self) -> None:
        """Release what the operator holds, at the end and after a failed attempt alike."""
        await in_thread(self._close)

    async def _let_out(self, outcome: Outcome) -> None:
        if self.tables.exceed(self._state_max):
            await self.task.pool.submit(self.tables.keep_within, self._state_max)
        self._budget.set_state(self.task.id, self.tables.num_bytes())
        await self.task.emit(outcome)

    # -- on a pool thread --------------------------------------------------------------------------

    def _process(self, port: int, frame: pl.DataFrame) -> Outcome:
        return self._given(lambda: self.live.process(port, frame))

    def _watermark(self, event_time_us: int) -> Outcome:
        return self._given(lambda: self.live.watermark(event_time_us))

    def _given(self, call: Callable[[], Iterable[Result]]) -> Outcome:
        """What follows from a call of the operator, through the chain behind it."""
        started = time.perf_counter()
        outcome = Outcome()
        with self._calling:
            for result in call():
                self._behind(result, outcome)
            self._refused(outcome)
        outcome.seconds = time.perf_counter() - started
        return outcome

    def _next_result(self, results: Iterator[Result]) -> Outcome | None:
        outcome = Outcome()
        with self._calling:
            result = next(results, None)
            self._refused(outcome)
        if result is None:
            return outcome if outcome.failed or outcome.errors else None
        self._behind(result, outcome)
        return outcome

    def _close(self) -> None:
        # A call that a cancelled task was waiting for may still be under way.
        with self._calling:
            self.live.close()
            self.tables.close()

    def _refused(self, outcome: Outcome) -> None:
        for refused in self.live.refused():
            self.runner.errors.refused(self.task.name, refused, outcome)

    def _behind(self, result: Result, outcome: Outcome) -> None:
        """A result through the chain behind its output."""
        if isinstance(result, Side):
            self._beside(result, outcome)
            return
        frame = result
        lowering = self.live.lowering
        if lowering is not None and ERROR_COLUMN in frame.columns:
            frame = frame.with_row_index("__dataflare_row")
            bad = frame[ERROR_COLUMN].is_not_null()
            if bad.any():
                given = Given(frame, frame.height, lambda: frame)
                self.runner.errors.take(frame.filter(bad), lowering, given, outcome)
            frame = frame.filter(~bad).drop(ERROR_COLUMN, "__dataflare_row")
        outcome.counts.append((self.task.name, 0, frame.height))
        outcome.add(self.runner.run(Given(frame, frame.height, lambda: frame)))

    def _beside(self, side: Side, outcome: Outcome) -> None:
        """Rows of another output. Late rows are counted, also if no step reads them."""
        frame = side.frame
        if side.output == LATE_IN_PART:
            outcome.count_late_in_part(self.task.name, frame.height)
            return
        runner = self._sides.get(side.output)
        if side.output in (LATE, LATE_RIGHT):
            unread = frame.height if runner is None else 0
            outcome.count_late(self.task.name, side.output, frame.height, unread)
        if runner is not None:
            outcome.counts.append((self.task.name, 0, frame.height))
            outcome.add(runner.run(Given(frame, frame.height, lambda: frame)))


def snapshot_of(subtask: int, share: TableShare, layout: Layout | None = None) -> OperatorSnapshot:
    """The share as a manifest holds it: chunks by the names of their tables in order, because a manifest
    keeps no other order of names. layout: what the columns mean."""
    names = sorted(share.chunks)
    chunks = [chunk for name in names for chunk in share.chunks[name]]
    counts = {name: len(share.chunks[name]) for name in names}
    facts: dict[str, Any] = {"tables": counts, "values": dict(share.values)}
    if layout is not None:
        facts["layout"] = as_json(layout)
    return OperatorSnapshot(subtask, tuple(cast("list[StateChunk]", chunks)), facts)


def share_of(snapshot: OperatorSnapshot) -> TableShare:
    """The share that a manifest holds, also one of a version that did not know tables."""
    facts = snapshot.facts or {}
    if "tables" in facts:
        chunks, place = {}, 0
        for name, number in sorted(facts["tables"].items()):
            chunks[name] = snapshot.chunks[place : place + number]
            place += number
        return TableShare(chunks, facts["values"])
    if "names" not in facts:
        return TableShare({LEGACY: snapshot.chunks}, facts, legacy=True)
    by_name: dict[str, list[StateChunk]] = {}
    for name, chunk in zip(facts["names"], snapshot.chunks, strict=True):
        table = "results" if name.startswith("result.") else name.rpartition(".")[0]
        by_name.setdefault(table, []).append(chunk)
    return TableShare(by_name, {"ended": facts["ended"]})


def layout_before(shares: Sequence[OperatorSnapshot]) -> Layout | None:
    """What the state in a checkpoint means; None if it does not say so."""
    for share in shares:
        layout = (share.facts or {}).get("layout") if isinstance(share.facts, Mapping) else None
        if layout is None:
            return None
        return {name: TableLayout.from_json(table) for name, table in layout.items()}
    return None


def refuse_other_layout(
    step: str, shares: Sequence[OperatorSnapshot], layout: Layout | None
) -> None:
    """Raise RunError (E0810) if the columns of restored state do not mean what those of the step mean."""
    before = layout_before(shares)
    if before is None or layout is None:
        return
    tables = {name for share in shares for name, chunks in share_of(share).chunks.items() if chunks}
    reason = difference(before, layout, tables)
    if reason is not None:
        raise RunError(
            f"the state of step '{step}' in the checkpoint cannot be used: {reason}",
            code="E0810",
            blame=Blame.USER,
            step=step,
            help="undo the change, or use --fresh to start over",
        )
