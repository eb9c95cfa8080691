"""The laws of steps with state.

async def test_gaps():
    gaps = processor_of(Gaps, {"key": "k", "at": "at"}, Schema.of({"k": "string", "at": "int64"}))
    await check_processor(gaps, frame)
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence

import polars as pl
from msgspec import Struct

from dataflare.operators.base import LiveOperator, Snapshot, StatefulOperator
from dataflare.state.partials import own_rows
from dataflare.testing.build import ProcessorUnderTest
from dataflare.testing.contract import Laws, check_laws, equal, hold, through_json

_SIZES = (1, 3, 17)
_CUTS_MAX = 8


class Run(Struct, frozen=True):
    """An operator and the rows that reach it."""

    operator: StatefulOperator
    frame: pl.DataFrame

    def batches(self, size: int) -> list[pl.DataFrame]:
        return [self.frame.slice(at, size) for at in range(0, self.frame.height, size)]

    def whole(self) -> pl.DataFrame:
        """The output for all rows in one batch."""
        live = self.operator.open(0, 1)
        return joined([*live.process(self.frame), *drained(live)])


async def check_processor(
    processor: ProcessorUnderTest | StatefulOperator,
    *frames: pl.DataFrame,
    only: Sequence[str] = (),
    skip: Iterable[str] = (),
) -> None:
    """Check a step with state against `PROCESSOR_LAWS`. Raises ContractBroken with the law's name.

    frames: the rows of each input, about a hundred, with repeated keys.
    """
    if isinstance(processor, ProcessorUnderTest):
        run = Run(processor.operator, processor.prepared(*frames))
    else:
        run = Run(processor, *frames)
    await check_laws(PROCESSOR_LAWS, run, only, skip)


def drained(live: LiveOperator) -> list[pl.DataFrame]:
    """The output after the end of the input."""
    live.end()
    frames = []
    while (frame := live.drain()) is not None:
        frames.append(frame)
    return frames


def joined(frames: Sequence[pl.DataFrame]) -> pl.DataFrame:
    return pl.concat(frames) if frames else pl.DataFrame()


def stored(law: str, snapshot: Snapshot) -> Snapshot:
    """The snapshot after it was written (frames as Arrow IPC, facts as JSON) and read again."""
    frames = {}
    for number, frame in enumerate(snapshot.frames.values()):
        buffer = io.BytesIO()
        frame.write_ipc(buffer)
        buffer.seek(0)
        frames[f"chunk {number}"] = pl.read_ipc(buffer)
    return Snapshot(frames, through_json(law, dict(snapshot.facts)))


async def batches_do_not_matter(run: Run) -> None:
    law, whole = "batches_do_not_matter", run.whole()
    hold(law, whole.height > 0, "there is no output: give the suite rows that lead to some")
    for size in _SIZES:
        live = run.operator.open(0, 1)
        out = [frame for batch in run.batches(size) for frame in live.process(batch)]
        actual = joined([*out, *drained(live)])
        equal(law, actual, whole, f"batches of {size}", ordered=False)


async def a_snapshot_goes_on(run: Run) -> None:
    """Crash after each batch."""
    law, whole, batches = "a_snapshot_goes_on", run.whole(), run.batches(5)
    step = max(1, len(batches) // _CUTS_MAX)
    for cut in range(0, len(batches) + 1, step):
        first = run.operator.open(0, 1)
        out = [frame for batch in batches[:cut] for frame in first.process(batch)]
        snapshot = stored(law, first.snapshot())
        # Rows that the first one processes after the snapshot must not change the snapshot.
        for batch in batches[cut:]:
            list(first.process(batch))
        second = run.operator.open(0, 1)
        second.restore([snapshot])
        out += [frame for batch in batches[cut:] for frame in second.process(batch)]
        actual = joined([*out, *drained(second)])
        equal(law, actual, whole, f"restored after {cut} of {len(batches)} batches", ordered=False)


async def results_go_on(run: Run) -> None:
    """Crash between two results after the end of the input."""
    law, whole = "results_go_on", run.whole()
    live = run.operator.open(0, 1)
    out = list(live.process(run.frame))
    live.end()
    while (frame := live.drain()) is not None:
        out.append(frame)
        second = run.operator.open(0, 1)
        second.restore([stored(law, live.snapshot())])
        actual = joined([*out, *drained(second)])
        equal(law, actual, whole, f"restored after {len(out)} results", ordered=False)


async def a_name_means_the_same_rows(run: Run) -> None:
    law, live = "a_name_means_the_same_rows", run.operator.open(0, 1)
    earlier: dict[str, pl.DataFrame] = {}
    for batch in run.batches(5):
        list(live.process(batch))
        for name, frame in live.snapshot().frames.items():
            if name in earlier:
                equal(law, frame, earlier[name], f"the frame '{name}' in a later snapshot")
            earlier[name] = frame.clone()


async def parallelism_does_not_matter(run: Run) -> None:
    """The number of subtasks changes in the middle: the output is the same."""
    law, keys = "parallelism_does_not_matter", run.operator.keys
    if not keys:
        return
    whole, middle = run.whole(), run.frame.height // 2
    early, late = run.frame.slice(0, middle), run.frame.slice(middle)
    for before, after in ((1, 2), (2, 3), (3, 1)):
        snapshots, out = [], []
        for subtask in range(before):
            live = run.operator.open(subtask, before)
            out += list(live.process(own_rows(early, keys, subtask, before)))
            snapshots.append(stored(law, live.snapshot()))
        for subtask in range(after):
            live = run.operator.open(subtask, after)
            live.restore(snapshots)
            out += list(live.process(own_rows(late, keys, subtask, after)))
            out += drained(live)
        equal(law, joined(out), whole, f"{before} subtasks, then {after}", ordered=False)


async def waiting_results_find_a_subtask(run: Run) -> None:
    """Two subtasks, of which one or both hand out results at the end, then three (or one): what was
    not handed out comes once."""
    law, keys = "waiting_results_find_a_subtask", run.operator.keys
    if not keys:
        return
    whole = run.whole()
    for ended, after in (({0, 1}, 3), ({0, 1}, 1), ({0}, 3), ({1}, 1)):
        snapshots, out = [], []
        for subtask in range(2):
            live = run.operator.open(subtask, 2)
            out += list(live.process(own_rows(run.frame, keys, subtask, 2)))
            if subtask in ended:
                live.end()
                first = live.drain()
                out += [] if first is None else [first]
            snapshots.append(stored(law, live.snapshot()))
        for subtask in range(after):
            live = run.operator.open(subtask, after)
            live.restore(snapshots)
            out += drained(live)
        what = f"2 subtasks, of which {len(ended)} ended, then {after}"
        equal(law, joined(out), whole, what, ordered=False)


PROCESSOR_LAWS: Laws[Run] = {
    law.__name__: law
    for law in (
        batches_do_not_matter,
        a_snapshot_goes_on,
        results_go_on,
        a_name_means_the_same_rows,
        parallelism_does_not_matter,
        waiting_results_find_a_subtask,
    )
}
"""The laws by name. Each is an async function of a `Run` that raises ContractBroken."""
