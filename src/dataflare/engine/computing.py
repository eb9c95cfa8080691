"""What a source's task does with a chunk or a batch: its chain, rows that could not be read, new fields.

Called on the worker pool, or at once for few rows. Holds nothing of a chunk.
"""

from __future__ import annotations

import asyncio
import datetime
import json
import time
from collections.abc import Callable
from functools import partial

import polars as pl
from msgspec import Struct

from dataflare.engine import new_fields
from dataflare.engine.new_fields import Place
from dataflare.engine.pool import INLINE_BYTES, INLINE_ROWS, ThreadPool
from dataflare.engine.segments import Given, Outcome, SegmentRunner, broken_data
from dataflare.expr import NOW_COLUMN, ROWKEY_COLUMN
from dataflare.model.batch import SharedDataBatch
from dataflare.model.hashing import mix_int
from dataflare.model.progress import Position
from dataflare.sdk.source import Chunk, NewFields, Salvaged, SourceBatch

_RUSH_FAILURES = 4
"""After so many chunks in a row that did not parse, the careful way is tried first."""


class Computing:
    """step: the source's. run_key: what row keys begin with. schema_change: what happens to fields that the
    columns lack; None where no destination would get them.

    split: the id of the split that is read.
    """

    def __init__(
        self,
        step: str,
        runner: SegmentRunner,
        run_key: int,
        schema_change: str | None,
        split: Callable[[], str],
    ) -> None:
        self.step, self.runner, self._split = step, runner, split
        self._run_key, self._schema_change = run_key, schema_change
        self._failures = 0

    def start(
        self, chunk: Chunk, pool: ThreadPool, *, others: bool = False
    ) -> asyncio.Future[Outcome]:
        """Begin with a chunk. One of few rows in memory costs less than to hand it to another thread, which waits for its
        turn on a busy machine: it is done when this returns. others: chunks before it are under way, and what decodes
        them may serve one thread at a time."""
        memory = chunk.in_memory
        at_once = memory is not None and not others and pool.is_inline(memory.rows_max)
        if not at_once or self.runner.calls_out or chunk.num_bytes > INLINE_BYTES:
            return pool.submit(self.chunk, chunk)
        done: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        try:
            done.set_result(self.chunk(chunk))
        except Exception as error:
            done.set_exception(error)
        return done

    def chunk(self, chunk: Chunk) -> Outcome:
        """A chunk through the chain."""
        if chunk.bad or chunk.row_numbers is not None:
            found = chunk.new_fields() if self._schema_change and chunk.new_fields else None
            return self._parted(chunk, partial(_scanned, chunk), found)
        rush = self._failures < _RUSH_FAILURES
        if rush or chunk.salvage is None:
            try:
                outcome = self._run(chunk)
            except pl.exceptions.PolarsError as error:
                if chunk.salvage is None:
                    raise broken_data(error, self.step) from error
                self._failures += 1
            else:
                self._failures = 0
                return outcome
        found = chunk.new_fields() if self._schema_change and chunk.new_fields else None
        return self._salvaged(chunk, found)

    def _run(self, chunk: Chunk) -> Outcome:
        """The quick way. Raises a Polars error for a chunk with bad rows."""
        ignored = Outcome()
        frame: pl.LazyFrame | pl.DataFrame
        if self._schema_change is None or chunk.watched is None:
            frame = chunk.scan()
        else:
            frame, found = chunk.watched()
            if found is not None and self._decide(found, chunk.place, ignored):
                return self._salvaged(chunk, found)
        memory = chunk.in_memory
        if memory is not None and memory.rows_max < INLINE_ROWS:
            frame = memory.rows()
            if self.runner.needs:
                frame = self._with_needs(frame.lazy(), chunk.key).collect(engine="in-memory")
        else:
            frame = self._with_needs(frame, chunk.key)
        original = lambda: chunk.scan().collect(engine="streaming")  # noqa: E731
        given = Given(
            frame,
            chunk.count(),
            original,
            chunk.place,
            source=self.step,
            texts=chunk.texts,
            originals=chunk.originals,
        )
        outcome = self.runner.run(given)
        outcome.left_out += ignored.left_out
        return outcome

    def _decide(self, found: NewFields, place: Place | None, outcome: Outcome) -> bool:
        """What becomes of new fields: whether their rows become dead letters. Raises what ends the
        run, or the attempt."""
        match self._schema_change:
            case "evolve" if found.columns([found.sample]):
                raise new_fields.NewFieldsFound(found)
            case "fail":
                raise new_fields.refused(self.step, found, place)
            case "dead_letter":
                return True
        new_fields.left_out(self.step, found, place, outcome)
        return False

    def _salvaged(self, chunk: Chunk, found: NewFields | None) -> Outcome:
        """The good rows of a chunk that is read row by row."""
        salvage = chunk.salvage
        assert salvage is not None

        def saved() -> Salvaged:
            saved = salvage()
            if not saved.bad:
                self._failures = 0  # the quick way would do for the next chunks
            return saved

        return self._parted(chunk, saved, found)

    def _parted(
        self, chunk: Chunk | Rows, parted: Callable[[], Salvaged], found: NewFields | None
    ) -> Outcome:
        """The good rows of a chunk or batch with bad rows or new fields, and what becomes of the others."""
        fresh = Outcome()
        takes_out = found is not None and self._decide(found, chunk.place, fresh)
        saved = parted()
        unread = partial(self.runner.errors.unread, self.step, originals=chunk.originals)
        unread(saved.bad, fresh)
        if found is not None and takes_out:
            saved = new_fields.letters(found, saved, chunk.place)
            unread(saved.bad, fresh, policy="dead_letter")
        lazy = self._with_needs(saved.good.lazy(), chunk.key)
        given = Given(
            lazy.collect(engine="in-memory"),
            saved.good.height,
            lambda: saved.good,
            chunk.place,
            saved.good_rows,
            self.step,
            chunk.texts,
            chunk.originals,
        )
        outcome = self.runner.run(given)
        outcome.failed[:0] = fresh.failed
        outcome.left_out += fresh.left_out
        for step, rows in fresh.errors.items():
            outcome.count_errors(step, rows)
        return outcome

    def _with_needs(self, frame: pl.LazyFrame, key: int) -> pl.LazyFrame:
        """The reserved columns that the chain reads."""
        needs = self.runner.needs
        if NOW_COLUMN in needs:
            now = datetime.datetime.fromtimestamp(time.time(), datetime.UTC)
            frame = frame.with_columns(pl.lit(now, pl.Datetime("us", "UTC")).alias(NOW_COLUMN))
        if ROWKEY_COLUMN in needs:
            base = mix_int(self._run_key ^ mix_int(hash_text(self._split())) ^ mix_int(key))
            frame = (
                frame.with_row_index("__dataflare_n")
                .with_columns(
                    (pl.col("__dataflare_n").cast(pl.UInt64) + pl.lit(base, pl.UInt64)).alias(
                        ROWKEY_COLUMN
                    )
                )
                .drop("__dataflare_n")
            )
        return frame

    def batch(self, batch: SharedDataBatch, start: Position | None, rows_read: int) -> Outcome:
        """start: where the batch begins. rows_read: rows of the split that this task has read before."""
        key = self._key(batch, start, rows_read) if self.runner.needs else 0
        place = None
        if isinstance(batch, SourceBatch):
            place = batch.place
            found = batch.new_fields if self._schema_change is not None else None
            if batch.bad or found is not None:
                saved = Salvaged(batch.frame, _numbers(batch.frame, batch), batch.bad)
                return self._parted(Rows(key, place), lambda: saved, found)
        frame: pl.DataFrame = batch.frame
        if self.runner.needs:
            frame = self._with_needs(frame.lazy(), key).collect(engine="in-memory")
        numbers = batch.row_numbers if isinstance(batch, SourceBatch) else None
        return self.runner.run(Given(frame, frame.height, lambda: batch.frame, place, numbers))

    def _key(self, batch: SharedDataBatch, start: Position | None, rows_read: int) -> int:
        place = "" if start is None else json.dumps(start.to_json(), sort_keys=True, default=str)
        return hash_text(f"{place} {batch.metadata.get('key', rows_read)}")


class Rows(Struct, frozen=True):
    """What is asked of a chunk also where rows came as a batch."""

    key: int
    place: Place | None
    texts: None = None
    originals: None = None


def _scanned(chunk: Chunk) -> Salvaged:
    rows: pl.DataFrame = chunk.scan().collect(engine="streaming")
    return Salvaged(rows, _numbers(rows, chunk), chunk.bad)


def _numbers(rows: pl.DataFrame, read: Chunk | SourceBatch) -> pl.Series:
    """The numbers of good rows among all that were read."""
    if read.row_numbers is not None:
        return read.row_numbers
    return pl.int_range(rows.height, dtype=pl.Int64, eager=True)


def searched(chunk: Chunk) -> NewFields | None:
    """The new fields of a chunk, whose rows are not used."""
    if chunk.watched is None or chunk.new_fields is None:
        return None
    try:
        return chunk.watched()[1]
    except pl.exceptions.PolarsError:
        return chunk.new_fields()


def hash_text(text: str) -> int:
    """A stable 64-bit hash of a name."""
    import xxhash

    return int(xxhash.xxh3_64_intdigest(text.encode()))
