"""The laws of steps with state.

async def test_gaps():
    gaps = processor_of(Gaps, {"key": "k", "at": "at"}, Schema.of({"k": "string", "at": "int64"}))
    await check_processor(gaps, frame)
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence

import polars as pl
from msgspec import Struct

from dataflare.model.batch import KIND_COLUMN
from dataflare.model.event_time import TIME_COLUMN
from dataflare.operators.base import Result, Side, StatefulOperator
from dataflare.operators.changes import repeated, weighted
from dataflare.state.pieces import Chunk, Groups, own_rows
from dataflare.state.tables import Tables, TableShare
from dataflare.state.weighted import WEIGHT, summed
from dataflare.testing.build import ProcessorUnderTest
from dataflare.testing.contract import Laws, check_laws, equal, hold, through_json

_SIZES = (1, 3, 17)
_CUTS_MAX = 8


Batch = tuple[int, pl.DataFrame]
"""The number of an input, and rows of it."""


class Run(Struct, frozen=True):
    """An operator and the rows of each of its inputs."""

    operator: StatefulOperator
    inputs: Sequence[pl.DataFrame]

    def batches(self, size: int) -> list[Batch]:
        """All rows, the inputs in turns."""
        most = max(frame.height for frame in self.inputs)
        parts = [
            (port, frame.slice(at, size))
            for at in range(0, most, size)
            for port, frame in enumerate(self.inputs)
        ]
        return [(port, part) for port, part in parts if part.height]

    def whole(self) -> pl.DataFrame:
        """The output for all rows in one batch."""
        live = Subtask("", self)
        out = [frame for port, rows in enumerate(self.inputs) for frame in live.process(port, rows)]
        return joined([*out, *live.results()])


async def check_processor(
    processor: ProcessorUnderTest | StatefulOperator,
    *frames: pl.DataFrame,
    event_time: str | None = None,
    only: Sequence[str] = (),
    skip: Iterable[str] = (),
) -> None:
    """Hold a step that keeps state to `PROCESSOR_LAWS`. frames: rows of each input, a hundred or so,
    with keys that come again; of changelogs, what is left is compared. event_time: the column with their times, for a step that works by event time:
    rows come in that order, and a watermark follows each batch. Raises ContractBroken, naming the law."""
    operator = processor.operator if isinstance(processor, ProcessorUnderTest) else processor
    if event_time is not None:
        time = pl.col(event_time).dt.timestamp("us").alias(TIME_COLUMN)
        frames = tuple(frame.sort(event_time).with_columns(time) for frame in frames)
    if isinstance(processor, ProcessorUnderTest):
        frames = tuple(processor.prepared(*frames))
    run = Run(operator, frames)
    await check_laws(PROCESSOR_LAWS, run, only, skip)


class Stored(Struct, frozen=True):
    """A chunk of a storage in memory."""

    rows: int
    key_groups: Groups | None
    data: bytes


class InMemory:
    """A storage of state: frames as Arrow IPC."""

    def write(self, frame: pl.DataFrame, key_groups: Groups | None) -> Stored:
        buffer = io.BytesIO()
        frame.write_ipc(buffer)
        return Stored(frame.height, key_groups, buffer.getvalue())

    def read(self, chunk: Chunk) -> pl.DataFrame:
        assert isinstance(chunk, Stored)
        return pl.read_ipc(io.BytesIO(chunk.data))

    def release(self, chunk: Chunk) -> None:
        """Nothing is collected here."""


class Subtask:
    """One live copy of an operator, on new tables or on those of a checkpoint."""

    def __init__(
        self, law: str, run: Run, shares: Sequence[TableShare] = (), at: tuple[int, int] = (0, 1)
    ) -> None:
        self._law = law
        self.tables = Tables(*at, storage=InMemory(), shares=shares)
        self._live = run.operator.open(self.tables)
        self._at, self._ports = at, range(len(run.inputs))
        self._seen: list[int | None] = [None] * len(run.inputs)
        self._timed = run.operator.timed
        self._keys = [run.operator.keys_of(port) for port in self._ports]

    def process(self, port: int, frame: pl.DataFrame) -> list[pl.DataFrame]:
        """The output for those rows that belong to the subtask."""
        rows = own_rows(frame, self._keys[port], *self._at)
        out = _main(self._live.process(port, rows)) if rows.height else []
        return [*out, *self._time(port, frame)] if self._timed and frame.height else out

    def _time(self, port: int, frame: pl.DataFrame) -> list[pl.DataFrame]:
        """The output for the watermark behind a batch: rows of an input come in the order of time."""
        if TIME_COLUMN not in frame.columns:
            return []
        self._seen[port] = int(frame[TIME_COLUMN].max())  # type: ignore[arg-type]
        known = [time for time in self._seen if time is not None]
        return _main(self._live.watermark(min(known))) if len(known) == len(self._seen) else []

    def results(self) -> Iterator[pl.DataFrame]:
        """The output after the end of the input."""
        ends = (result for port in self._ports for result in self._live.end(port))
        return (result for result in ends if not isinstance(result, Side))

    def stored(self) -> TableShare:
        """The state after a checkpoint: frames as Arrow IPC, values as JSON, and back."""
        share = self.tables.store(self.tables.freeze())
        return TableShare(share.chunks, through_json(self._law, dict(share.values)))


def _main(results: Iterable[Result]) -> list[pl.DataFrame]:
    """The rows of the main output."""
    return [result for result in results if not isinstance(result, Side)]


def joined(frames: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """All rows; of a changelog those that are left when it is applied."""
    rows = pl.concat(frames) if frames else pl.DataFrame()
    if KIND_COLUMN not in rows.columns:
        return rows
    left = summed(weighted(rows, times=True))
    hold("changes", not (left[WEIGHT] < 0).any(), "a row was taken back that was not given")
    return repeated(left)


async def batches_do_not_matter(run: Run) -> None:
    law, whole = "batches_do_not_matter", run.whole()
    hold(law, whole.height > 0, "there is no output: give the suite rows that lead to some")
    for size in _SIZES:
        live = Subtask(law, run)
        out = [frame for batch in run.batches(size) for frame in live.process(*batch)]
        actual = joined([*out, *live.results()])
        equal(law, actual, whole, f"batches of {size}", ordered=False)


async def a_checkpoint_goes_on(run: Run) -> None:
    """Crash after each batch."""
    law, whole, batches = "a_checkpoint_goes_on", run.whole(), run.batches(5)
    step = max(1, len(batches) // _CUTS_MAX)
    for cut in range(0, len(batches) + 1, step):
        first = Subtask(law, run)
        out = [frame for batch in batches[:cut] for frame in first.process(*batch)]
        frozen = first.tables.freeze()
        # Rows that the first one processes after the freeze must not reach the checkpoint, which is stored
        # meanwhile.
        for batch in batches[cut:]:
            first.process(*batch)
        share = first.tables.store(frozen)
        share = TableShare(share.chunks, through_json(law, dict(share.values)))
        second = Subtask(law, run, [share])
        out += [frame for batch in batches[cut:] for frame in second.process(*batch)]
        actual = joined([*out, *second.results()])
        equal(law, actual, whole, f"restored after {cut} of {len(batches)} batches", ordered=False)


async def results_go_on(run: Run) -> None:
    """Crash between two results after the end of the input."""
    law, whole = "results_go_on", run.whole()
    live = Subtask(law, run)
    out = [f for batch in run.batches(10_000) for f in live.process(*batch)]
    for frame in live.results():
        out.append(frame)
        second = Subtask(law, run, [live.stored()])
        actual = joined([*out, *second.results()])
        equal(law, actual, whole, f"restored after {len(out)} results", ordered=False)


async def what_is_stored_is_not_stored_again(run: Run) -> None:
    """Also after a restart: a checkpoint without new rows writes nothing."""
    law, live = "what_is_stored_is_not_stored_again", Subtask("", run)
    for batch in run.batches(5):
        live.process(*batch)
        share = live.stored()
        second = Subtask(law, run, [share])
        for again in (live.stored(), second.stored()):
            for name, chunks in share.chunks.items():
                kept = {id(chunk) for chunk in chunks}
                new = [chunk for chunk in again.chunks[name] if id(chunk) not in kept]
                hold(law, not new, f"{len(new)} chunks of '{name}' were written again")


async def parallelism_does_not_matter(run: Run) -> None:
    """The number of subtasks changes in the middle: the output is the same."""
    law, keys = "parallelism_does_not_matter", run.operator.keys
    if not keys:
        return
    whole, batches = run.whole(), run.batches(5)
    early, late = batches[: len(batches) // 2], batches[len(batches) // 2 :]
    for before, after in ((1, 2), (2, 3), (3, 1)):
        shares, out = [], []
        for subtask in range(before):
            live = Subtask(law, run, at=(subtask, before))
            out += [frame for batch in early for frame in live.process(*batch)]
            shares.append(live.stored())
        for subtask in range(after):
            live = Subtask(law, run, shares, at=(subtask, after))
            out += [frame for batch in late for frame in live.process(*batch)]
            out += live.results()
        equal(law, joined(out), whole, f"{before} subtasks, then {after}", ordered=False)


async def waiting_results_find_a_subtask(run: Run) -> None:
    """Two subtasks, of which one or both hand out results at the end, then three (or one): what was
    not handed out comes once."""
    law, keys = "waiting_results_find_a_subtask", run.operator.keys
    if not keys:
        return
    whole = run.whole()
    for ended, after in (({0, 1}, 3), ({0, 1}, 1), ({0}, 3), ({1}, 1)):
        shares, out = [], []
        for subtask in range(2):
            live = Subtask(law, run, at=(subtask, 2))
            out += [f for batch in run.batches(10_000) for f in live.process(*batch)]
            if subtask in ended:
                first = next(live.results(), None)
                out += [] if first is None else [first]
            shares.append(live.stored())
        for subtask in range(after):
            live = Subtask(law, run, shares, at=(subtask, after))
            out += live.results()
        what = f"2 subtasks, of which {len(ended)} ended, then {after}"
        equal(law, joined(out), whole, what, ordered=False)


PROCESSOR_LAWS: Laws[Run] = {
    law.__name__: law
    for law in (
        batches_do_not_matter,
        a_checkpoint_goes_on,
        results_go_on,
        what_is_stored_is_not_stored_again,
        parallelism_does_not_matter,
        waiting_results_find_a_subtask,
    )
}
"""The laws by name. Each is an async function of a `Run` that raises ContractBroken."""
