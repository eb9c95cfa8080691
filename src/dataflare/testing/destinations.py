"""What a destination must keep, law by law: the protocol of `dataflare.sdk.destination`, cut short in
every place.

    async def test_dbm(tmp_path):
        make = lambda folder: description(DbmDestination, {"path": "kept", "key": "id"}, base=folder)
        await check_destination(make, read_dbm, tmp_path)
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import polars as pl

from dataflare.errors import DataFlareError
from dataflare.model.record import Discreet
from dataflare.model.types import Schema
from dataflare.sdk.destination import Delivery, DestinationConnector
from dataflare.testing.contract import Laws, check_laws, equal, hold
from dataflare.testing.protocol import LAST, Attempt, Play, epochs_of

POINTS = ("opened", "written", "prepared", "published", "committed")
_KEEPING = (Delivery.TRANSACTIONAL, Delivery.IDEMPOTENT)
ROWS = pl.DataFrame(
    {
        "id": range(30),
        "name": [None if n % 7 == 0 else f"name {n}" for n in range(30)],
        "amount": [n / 4 for n in range(30)],
    }
)


class DestinationUnderTest(Discreet, frozen=True):
    """make: a new description that writes below a folder. read: the rows that are visible there;
    None where nothing can be read back. frame: rows to write, no two alike."""

    hidden = ("frame",)

    make: Callable[[Path], DestinationConnector]
    read: Callable[[Path], pl.DataFrame] | None
    folder: Path
    frame: pl.DataFrame

    @property
    def delivery(self) -> Delivery:
        return self.make(self.folder).capabilities().delivery

    def play(self, law: str, part: str = "", subtasks: int = 1) -> Play:
        """A lineage with a place of its own to write to."""
        folder = self.place(law, part)
        redo = folder / "redo"
        redo.mkdir(parents=True, exist_ok=True)
        schema = Schema.from_polars(self.frame.schema)
        return Play(law, lambda: self.make(folder), redo, schema, subtasks)

    def place(self, law: str, part: str = "") -> Path:
        return self.folder / law / (part or "whole")

    def holds(self, law: str, wanted: pl.DataFrame, said: str, part: str = "") -> None:
        """Each row once, and nothing else."""
        if self.read is None or self.delivery is Delivery.FLEETING:
            return
        found = self.read(self.place(law, part))
        missing = [name for name in wanted.columns if name not in found.columns]
        hold(law, not missing, f"{said}: the columns {missing} are not there")
        equal(law, found.select(wanted.columns), wanted, said, ordered=False)


async def check_destination(
    make: Callable[[Path], DestinationConnector],
    read: Callable[[Path], pl.DataFrame] | None,
    folder: Path,
    *,
    frame: pl.DataFrame = ROWS,
    only: Sequence[str] = (),
    skip: Iterable[str] = (),
) -> None:
    """Hold a destination to `DESTINATION_LAWS`. Raises ContractBroken, naming the law.

    make: gives a new description that writes into a folder; read: what is visible in that folder,
    with at least the columns and types of `frame`; None if that cannot be read back. Each law has folders of its own below `folder`.
    What a destination does not promise (see `capabilities`) is not asked of it.
    """
    tested = DestinationUnderTest(make, read, folder, frame)
    await check_laws(DESTINATION_LAWS, tested, only, skip)


async def each_row_arrives_once(tested: DestinationUnderTest) -> None:
    law = "each_row_arrives_once"
    attempt = await tested.play(law).attempt(resume=0)
    await attempt.run(epochs_of(tested.frame))
    await attempt.close()
    tested.holds(law, tested.frame, "after three epochs")


async def an_epoch_may_be_empty(tested: DestinationUnderTest) -> None:
    law = "an_epoch_may_be_empty"
    none = tested.frame.clear()
    attempt = await tested.play(law).attempt(resume=0)
    await attempt.run({1: none, 2: tested.frame, LAST: none})
    await attempt.close()
    tested.holds(law, tested.frame, "after an empty, a full and an empty epoch")


async def several_writers_work_together(tested: DestinationUnderTest) -> None:
    law, make = "several_writers_work_together", tested.make
    if not make(tested.place(law)).capabilities().parallel:
        return
    attempt = await tested.play(law, subtasks=3).attempt(resume=0)
    await attempt.run(epochs_of(tested.frame))
    await attempt.close()
    tested.holds(law, tested.frame, "after three epochs of three writers")


async def nothing_is_seen_before_its_commit(tested: DestinationUnderTest) -> None:
    law = "nothing_is_seen_before_its_commit"
    if tested.delivery is not Delivery.TRANSACTIONAL:
        return
    attempt = await tested.play(law).attempt(resume=0)
    await attempt.write(tested.frame)
    _unseen(tested, law, "written")
    await attempt.prepare(1)
    _unseen(tested, law, "prepared")
    await attempt.close()
    _unseen(tested, law, "closed without a commit")


def _unseen(tested: DestinationUnderTest, law: str, said: str) -> None:
    assert tested.read is not None, "what is transactional can be read"
    try:
        seen = tested.read(tested.place(law)).height
    except Exception:
        return  # There is nothing yet that could be read.
    hold(law, seen == 0, f"{seen} rows are visible when they are {said}")


async def half_done_is_repaired(tested: DestinationUnderTest) -> None:
    """An attempt ends in the middle of each epoch, at each point; the next one goes on."""
    law = "half_done_is_repaired"
    if tested.delivery not in _KEEPING:
        return
    for epoch in range(1, LAST + 1):
        for point in POINTS:
            part = f"{epoch}-{point}"
            play = tested.play(law, part)
            resumed = await _until(play, epochs_of(tested.frame), epoch, point)
            if resumed == LAST:
                attempt = await play.attempt(resume=LAST)
            else:
                attempt = await play.attempt(resume=resumed)
                rest = {n: f for n, f in epochs_of(tested.frame).items() if n > resumed}
                await attempt.run(rest)
            await attempt.close()
            said = f"an attempt ended when epoch {epoch} was {point}"
            tested.holds(law, tested.frame, said, part)


async def _until(play: Play, epochs: dict[int, pl.DataFrame], epoch: int, point: str) -> int:
    """An attempt that ends at a point of an epoch. Gives the epoch to resume from."""
    attempt = await play.attempt(resume=0)
    await attempt.run({n: f for n, f in epochs.items() if n < epoch})
    reached = POINTS.index(point)
    if reached >= POINTS.index("written"):
        await attempt.write(epochs[epoch])
    if reached >= POINTS.index("prepared"):
        committables = await attempt.prepare(epoch, final=epoch == LAST)
        if reached >= POINTS.index("published"):
            attempt.publish(epoch, committables)
        if reached >= POINTS.index("committed"):
            await attempt.commit(epoch)
    await attempt.close()
    return epoch if epoch in play.published else epoch - 1


async def a_commit_twice_is_a_commit(tested: DestinationUnderTest) -> None:
    law = "a_commit_twice_is_a_commit"
    if tested.delivery not in _KEEPING:
        return
    play, epochs = tested.play(law), epochs_of(tested.frame)
    attempt = await play.attempt(resume=0)
    for number, frame in epochs.items():
        await attempt.run({number: frame})
        await attempt.commit(number)
        if number < LAST:
            await attempt.close()
            attempt = await play.attempt(resume=number)
    await attempt.close()
    tested.holds(law, tested.frame, "each epoch was committed twice here, and once more later")


async def what_was_never_published_goes(tested: DestinationUnderTest) -> None:
    """Rows that were prepared and in no manifest are not there in the end, nor in the way."""
    law = "what_was_never_published_goes"
    if tested.delivery is not Delivery.TRANSACTIONAL:
        return
    play, epochs = tested.play(law), epochs_of(tested.frame)
    attempt = await play.attempt(resume=0)
    await attempt.run({1: epochs[1]})
    await attempt.write(epochs[2])
    await attempt.prepare(2)
    await attempt.close()
    attempt = await play.attempt(resume=1)
    await attempt.run({2: epochs[3], LAST: tested.frame.clear()})
    await attempt.close()
    wanted = pl.concat([epochs[1], epochs[3]])
    tested.holds(law, wanted, "the rows of a dead attempt's epoch 2 were never published")


async def an_older_attempt_changes_nothing(tested: DestinationUnderTest) -> None:
    """One that was taken for dead comes back and commits: its rows are not there, the others are."""
    law = "an_older_attempt_changes_nothing"
    if tested.delivery is Delivery.TRANSACTIONAL:
        await _come_back(tested, law)


async def an_older_attempt_is_fenced(tested: DestinationUnderTest) -> None:
    """The one that comes back is told so: E0804, a newer attempt has been here."""
    law = "an_older_attempt_is_fenced"
    if tested.delivery is Delivery.TRANSACTIONAL:
        error = await _come_back(tested, law)
        hold(law, error is not None, "its commit passes in silence")
        assert error is not None
        hold(law, error.code == "E0804", f"its commit raises {error.code}: {error}")


async def _come_back(tested: DestinationUnderTest, law: str) -> DataFlareError | None:
    play, epochs = tested.play(law), epochs_of(tested.frame)
    older = await play.attempt(resume=0)
    await older.run({1: epochs[1]})
    await older.write(epochs[2])
    stale = await older.prepare(2)
    newer = await play.attempt(resume=1)
    raised: DataFlareError | None = None
    try:
        await older.committer.commit(older.epoch(2), stale)
    except DataFlareError as error:
        raised = error
    await newer.run({2: epochs[3], LAST: tested.frame.clear()})
    await newer.close()
    wanted = pl.concat([epochs[1], epochs[3]])
    tested.holds(law, wanted, "an older attempt wanted to commit its epoch")
    return raised


async def markers_tell_the_epoch(tested: DestinationUnderTest) -> None:
    """Where there is a marker at all: a destination may keep none and find out by itself."""
    law = "markers_tell_the_epoch"
    if tested.delivery is not Delivery.TRANSACTIONAL:
        return
    play, epochs = tested.play(law), epochs_of(tested.frame)
    attempt = await play.attempt(resume=0)
    hold(law, attempt.marker_before is None, "a new lineage has a marker")
    await attempt.run({1: epochs[1]})
    await _told(law, attempt, 1)
    await attempt.run({2: epochs[2]})
    await _told(law, attempt, 2)
    await attempt.close()
    attempt = await play.attempt(resume=2)
    before = attempt.marker_before
    hold(law, before is None or before.epoch == 2, f"after a restart it is {before}")
    await attempt.close()
    other = await tested.play(law).attempt(resume=0)
    hold(law, other.marker_before is None, "another lineage finds a marker of this one")
    await other.close()


async def _told(law: str, attempt: Attempt, epoch: int) -> None:
    marker = await attempt.committer.marker()
    if marker is None:
        return
    hold(law, marker.epoch == epoch, f"it says {marker.epoch} after epoch {epoch}")
    hold(law, marker.attempt == attempt.number, f"it says attempt {marker.attempt}")
    known = (None, attempt.epoch(epoch).manifest)
    hold(law, marker.manifest in known, f"it holds another manifest: {marker.manifest}")


async def a_description_pickles(tested: DestinationUnderTest) -> None:
    law = "a_description_pickles"
    made = tested.make(tested.place(law))
    again: DestinationConnector = pickle.loads(pickle.dumps(made))
    same = again.capabilities() == made.capabilities() and again.config == made.config
    hold(law, same, "it is another one after a pickle")


DESTINATION_LAWS: Laws[DestinationUnderTest] = {
    law.__name__: law
    for law in (
        each_row_arrives_once,
        an_epoch_may_be_empty,
        several_writers_work_together,
        nothing_is_seen_before_its_commit,
        half_done_is_repaired,
        a_commit_twice_is_a_commit,
        what_was_never_published_goes,
        an_older_attempt_changes_nothing,
        an_older_attempt_is_fenced,
        markers_tell_the_epoch,
        a_description_pickles,
    )
}
"""By name; each is an async function of a `DestinationUnderTest` that raises ContractBroken."""
