"""The laws of destinations: the protocol of `dataflare.sdk.destination`, interrupted at each point.

async def test_dbm(tmp_path):
    make = lambda folder: description(DbmDestination, {"path": "kept", "key": "id"}, base=folder)
    await check_destination(make, read_dbm, tmp_path)
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import polars as pl

from dataflare.errors import DataFlareError
from dataflare.model.record import Discreet
from dataflare.model.types import Schema
from dataflare.sdk.destination import Delivery, DestinationConnector
from dataflare.testing.contract import Laws, check_laws, equal, hold
from dataflare.testing.protocol import LAST, Attempt, Play, epochs_of

POINTS = ("opened", "written", "prepared", "published", "committed")
ROWS = pl.DataFrame(
    {
        "id": range(30),
        "name": [None if n % 7 == 0 else f"name {n}" for n in range(30)],
        "amount": [n / 4 for n in range(30)],
    }
)


class DestinationUnderTest(Discreet, frozen=True):
    """make: a new description that writes below a folder. read: the rows that are visible there;
    None if they cannot be read. frame: the rows to write, all different."""

    hidden = ("frame",)

    make: Callable[[Path], DestinationConnector]
    read: Callable[[Path], pl.DataFrame] | None
    folder: Path
    frame: pl.DataFrame

    @property
    def delivery(self) -> Delivery:
        return self.make(self.folder).capabilities().delivery

    def promises(self, law: str) -> bool:
        return law not in NOT_PROMISED[self.delivery]

    def play(self, law: str, part: str = "", subtasks: int = 1) -> Play:
        """A new lineage that writes to a folder of its own."""
        folder = self.place(law, part)
        redo = folder / "redo"
        redo.mkdir(parents=True, exist_ok=True)
        schema = Schema.from_polars(self.frame.schema)
        return Play(law, lambda: self.make(folder), redo, schema, subtasks)

    def place(self, law: str, part: str = "") -> Path:
        return self.folder / law / (part or "whole")

    def holds(self, law: str, expected: pl.DataFrame, message: str, part: str = "") -> None:
        """Check that the destination has each expected row once, and no other rows."""
        if self.read is None or self.delivery is Delivery.FLEETING:
            return
        actual = self.read(self.place(law, part))
        missing = [name for name in expected.columns if name not in actual.columns]
        hold(law, not missing, f"{message}: the columns {missing} are not there")
        equal(law, actual.select(expected.columns), expected, message, ordered=False)


async def check_destination(
    make: Callable[[Path], DestinationConnector],
    read: Callable[[Path], pl.DataFrame] | None,
    folder: Path,
    *,
    frame: pl.DataFrame = ROWS,
    only: Sequence[str] = (),
    skip: Iterable[str] = (),
    gaps: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Check a destination against `DESTINATION_LAWS`. Raises ContractBroken with the law's name.

    make: returns a new description that writes into a folder. read: returns the rows that are visible
    in that folder, with at least the columns and types of `frame`; None if they cannot be read. Each
    law uses its own folders below `folder`. Laws that the destination does not promise (see
    `capabilities`) are not checked.
    """
    tested = DestinationUnderTest(make, read, folder, frame)
    await check_laws(DESTINATION_LAWS, tested, only, skip, gaps)


async def each_row_arrives_once(tested: DestinationUnderTest) -> None:
    law = "each_row_arrives_once"
    attempt = await tested.play(law).attempt(resume=0)
    await attempt.run(epochs_of(tested.frame))
    await attempt.close()
    tested.holds(law, tested.frame, "after three epochs")


async def an_epoch_may_be_empty(tested: DestinationUnderTest) -> None:
    law = "an_epoch_may_be_empty"
    no_rows = tested.frame.clear()
    attempt = await tested.play(law).attempt(resume=0)
    await attempt.run({1: no_rows, 2: tested.frame, LAST: no_rows})
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
    if not tested.promises(law):
        return
    attempt = await tested.play(law).attempt(resume=0)
    await attempt.write(tested.frame)
    _unseen(tested, law, "written")
    await attempt.prepare(1)
    _unseen(tested, law, "prepared")
    await attempt.close()
    _unseen(tested, law, "closed without a commit")


def _unseen(tested: DestinationUnderTest, law: str, state: str) -> None:
    assert tested.read is not None, "a transactional destination must be readable"
    try:
        visible_rows = tested.read(tested.place(law)).height
    except Exception:
        return  # There is no table or file yet.
    hold(law, visible_rows == 0, f"{visible_rows} rows are visible when they are {state}")


async def half_done_is_repaired(tested: DestinationUnderTest) -> None:
    """An attempt ends in the middle of each epoch, at each point; the next attempt continues."""
    law = "half_done_is_repaired"
    if not tested.promises(law):
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
                later_epochs = {n: f for n, f in epochs_of(tested.frame).items() if n > resumed}
                await attempt.run(later_epochs)
            await attempt.close()
            message = f"an attempt ended when epoch {epoch} was {point}"
            tested.holds(law, tested.frame, message, part)


async def _until(play: Play, epochs: dict[int, pl.DataFrame], epoch: int, point: str) -> int:
    """Run an attempt that ends at a point of an epoch. Returns the epoch to resume from."""
    attempt = await play.attempt(resume=0)
    await attempt.run({n: f for n, f in epochs.items() if n < epoch})
    end = POINTS.index(point)
    if end >= POINTS.index("written"):
        await attempt.write(epochs[epoch])
    if end >= POINTS.index("prepared"):
        committables = await attempt.prepare(epoch, final=epoch == LAST)
        if end >= POINTS.index("published"):
            attempt.publish(epoch, committables)
        if end >= POINTS.index("committed"):
            await attempt.commit(epoch)
    await attempt.close()
    return epoch if epoch in play.published else epoch - 1


async def a_commit_twice_is_a_commit(tested: DestinationUnderTest) -> None:
    law = "a_commit_twice_is_a_commit"
    if not tested.promises(law):
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
    """Rows that were prepared and are in no manifest do not appear, and do not block other rows."""
    law = "what_was_never_published_goes"
    if not tested.promises(law):
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
    expected = pl.concat([epochs[1], epochs[3]])
    tested.holds(law, expected, "the rows of a dead attempt's epoch 2 were never published")


async def an_older_attempt_changes_nothing(tested: DestinationUnderTest) -> None:
    """An attempt commits after a newer one began: its rows do not appear, those of the newer one do."""
    law = "an_older_attempt_changes_nothing"
    if tested.promises(law):
        await _come_back(tested, law)


async def an_older_attempt_is_fenced(tested: DestinationUnderTest) -> None:
    """The commit of an attempt after a newer one began raises E0804."""
    law = "an_older_attempt_is_fenced"
    if tested.promises(law):
        error = await _come_back(tested, law)
        hold(law, error is not None, "its commit raises no error")
        assert error is not None
        hold(law, error.code == "E0804", f"its commit raises {error.code}: {error}")


async def _come_back(tested: DestinationUnderTest, law: str) -> DataFlareError | None:
    play, epochs = tested.play(law), epochs_of(tested.frame)
    older = await play.attempt(resume=0)
    await older.run({1: epochs[1]})
    await older.write(epochs[2])
    stale = await older.prepare(2)
    newer = await play.attempt(resume=1)
    fence_error: DataFlareError | None = None
    try:
        await older.committer.commit(older.epoch(2), stale)
    except DataFlareError as error:
        fence_error = error
    await newer.run({2: epochs[3], LAST: tested.frame.clear()})
    await newer.close()
    expected = pl.concat([epochs[1], epochs[3]])
    tested.holds(law, expected, "an older attempt wanted to commit its epoch")
    return fence_error


async def markers_tell_the_epoch(tested: DestinationUnderTest) -> None:
    """A destination may have no marker and use another way; this law then has nothing to check."""
    law = "markers_tell_the_epoch"
    if not tested.promises(law):
        return
    play, epochs = tested.play(law), epochs_of(tested.frame)
    attempt = await play.attempt(resume=0)
    hold(law, attempt.marker_before is None, "a new lineage has a marker")
    await attempt.run({1: epochs[1]})
    await _check_marker(law, attempt, 1)
    await attempt.run({2: epochs[2]})
    await _check_marker(law, attempt, 2)
    await attempt.close()
    attempt = await play.attempt(resume=2)
    before = attempt.marker_before
    hold(law, before is None or before.epoch == 2, f"after a restart it is {before}")
    await attempt.close()
    other = await tested.play(law).attempt(resume=0)
    hold(law, other.marker_before is None, "another lineage finds a marker of this one")
    await other.close()


async def _check_marker(law: str, attempt: Attempt, epoch: int) -> None:
    marker = await attempt.committer.marker()
    if marker is None:
        return
    hold(law, marker.epoch == epoch, f"it says {marker.epoch} after epoch {epoch}")
    hold(law, marker.attempt == attempt.number, f"it says attempt {marker.attempt}")
    manifests = (None, attempt.epoch(epoch).manifest)
    hold(law, marker.manifest in manifests, f"it holds another manifest: {marker.manifest}")


async def a_description_pickles(tested: DestinationUnderTest) -> None:
    law = "a_description_pickles"
    connector = tested.make(tested.place(law))
    unpickled: DestinationConnector = pickle.loads(pickle.dumps(connector))
    same = (
        unpickled.capabilities() == connector.capabilities()
        and unpickled.config == connector.config
    )
    hold(law, same, "it differs after it was pickled")


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
"""The laws by name. Each is an async function of a `DestinationUnderTest` that raises ContractBroken."""
_OF_TRANSACTIONS = frozenset(
    {
        "nothing_is_seen_before_its_commit",
        "what_was_never_published_goes",
        "an_older_attempt_changes_nothing",
        "an_older_attempt_is_fenced",
        "markers_tell_the_epoch",
    }
)
_OF_EPOCHS = frozenset({"half_done_is_repaired", "a_commit_twice_is_a_commit"})
NOT_PROMISED: Mapping[Delivery, frozenset[str]] = {
    Delivery.TRANSACTIONAL: frozenset(),
    Delivery.IDEMPOTENT: _OF_TRANSACTIONS,
    Delivery.REPEATING: _OF_TRANSACTIONS | _OF_EPOCHS,
    Delivery.FLEETING: _OF_TRANSACTIONS | _OF_EPOCHS,
}
"""By delivery, the laws that it does not promise, and that are not checked."""
