"""The laws of destinations that stand on `dataflare.sdk.sql`: modes, keys, refused rows, owners, and the
transaction that several steps share. They hold besides those of `check_destination`.

async def test_lmdb(tmp_path):
    make = lambda folder, **options: description(
        LmdbDestination, {"path": "shop.lmdb", "table": "t", **options}, base=folder
    )
    await check_table(make, read_lmdb, tmp_path)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args

import polars as pl
from msgspec import Struct, field
from msgspec.structs import replace

from dataflare.errors import DataFlareError
from dataflare.model.batch import KIND_COLUMN, RowKind, SharedDataBatch
from dataflare.model.types import Schema
from dataflare.sdk.context import DestinationContext
from dataflare.sdk.sql.destination import TableDestination
from dataflare.sdk.sql.writing import TableWriter
from dataflare.testing.contract import Laws, check_laws, equal, hold
from dataflare.testing.protocol import LAST, Attempt, Play

SCHEMA = {"id": pl.Int64(), "name": pl.String(), "amount": pl.Float64()}


def orders(*rows: tuple[int | None, str | None, float | None]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


ONE = orders((1, "a", 1.5), (2, None, 2.5), (3, "c", None))
TWO = orders((2, "b", 0.25), (4, "d", -1.0), (2, "last", 9.0))


class TableUnderTest(Struct, frozen=True):
    """make: a description that writes below a folder, with other options than the default ones. read: the
    rows that are visible in a table there."""

    make: Callable[..., TableDestination]
    read: Callable[[Path, str], pl.DataFrame]
    folder: Path

    def has(self, mode: str) -> bool:
        """Whether the connector has a mode."""
        return mode in self.modes()

    def modes(self) -> tuple[str, ...]:
        """Those that the connector writes in. `history` is not one: the planner makes a step and an upsert of it."""
        config = self.make(self.folder, key=["id"]).Config
        modes = get_args(config.model_fields["mode"].annotation)
        return tuple(mode for mode in modes if mode != "history")

    def play(self, law: str, step: str = "tested", part: str = "", **options: Any) -> TablePlay:
        """A new lineage that writes to the folder of a law. options: of the destination."""
        folder = self.folder / law / (part or "whole")
        redo = folder / "redo" / f"{step}-{len(list(folder.glob('redo/*')))}"
        redo.mkdir(parents=True, exist_ok=True)
        given = {"key": ["id"], **options}

        def make() -> TableDestination:
            return self.make(folder, **given)

        schema, table = Schema.from_polars(SCHEMA), make().table_name
        return TablePlay(law, make, redo, schema, step=step, folder=folder, table=table)

    def holds(self, play: TablePlay, expected: pl.DataFrame, message: str) -> None:
        actual = self.read(play.folder, play.table)
        missing = [name for name in expected.columns if name not in actual.columns]
        hold(play.law, not missing, f"{message}: the columns {missing} are not there")
        equal(play.law, actual.select(expected.columns), expected, message, ordered=False)


class TablePlay(Play):
    """One lineage. more: other fields of the context of its destination."""

    step: str = "tested"
    folder: Path = field(default_factory=Path)
    table: str = ""
    more: dict[str, Any] = field(default_factory=dict)

    def context(self, subtask: int = 0) -> DestinationContext:
        context = replace(super().context(subtask), step=self.step)
        return replace(context, token=f"token {self.attempts}", **self.more)


async def check_table(
    make: Callable[..., TableDestination],
    read: Callable[[Path, str], pl.DataFrame],
    folder: Path,
    *,
    only: Sequence[str] = (),
    skip: Iterable[str] = (),
    gaps: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Check a destination against `TABLE_LAWS`. Raises ContractBroken with the law's name.

    make: called with a folder and with options of the destination (`mode`, `key`, `table`); returns a
    new description that writes below that folder. read: called with such a folder and the name of a
    table; returns the rows that are visible there, with the types that were written. Laws of modes that
    the destination does not have are not checked.
    """
    await check_laws(TABLE_LAWS, TableUnderTest(make, read, folder), only, skip, gaps)


async def a_key_has_its_last_row(tested: TableUnderTest) -> None:
    law = "a_key_has_its_last_row"
    if not tested.has("upsert"):
        return
    play = tested.play(law, mode="upsert")
    attempt = await play.attempt(resume=0)
    await attempt.run({1: ONE, 2: TWO, LAST: orders()})
    await attempt.close()
    expected = orders((1, "a", 1.5), (2, "last", 9.0), (3, "c", None), (4, "d", -1.0))
    tested.holds(play, expected, "after two epochs with a key in both, and twice in one")


async def a_later_run_changes_rows(tested: TableUnderTest) -> None:
    law = "a_later_run_changes_rows"
    if not tested.has("upsert"):
        return
    for frame in (ONE, TWO):
        play = tested.play(law, mode="upsert")
        attempt = await play.attempt(resume=0)
        await attempt.run({1: orders(), LAST: frame})
        await attempt.close()
    expected = orders((1, "a", 1.5), (2, "last", 9.0), (3, "c", None), (4, "d", -1.0))
    tested.holds(play, expected, "after two runs of two lineages")


async def deletes_count_in_a_mirror(tested: TableUnderTest) -> None:
    law = "deletes_count_in_a_mirror"
    if not tested.has("mirror"):
        return
    kinds = [RowKind.UPDATE_BEFORE, RowKind.UPDATE_AFTER, RowKind.DELETE, RowKind.INSERT]
    changes = orders((1, "a", 1.5), (1, "new", 1.0), (3, "c", None), (5, "e", 5.0)).with_columns(
        pl.Series(KIND_COLUMN, [kind.value for kind in kinds], dtype=pl.UInt8)
    )
    play = tested.play(law, mode="mirror")
    attempt = await play.attempt(resume=0)
    await attempt.run({1: ONE})
    await attempt.writers[0].write_batch(SharedDataBatch(changes))
    attempt.publish(2, await attempt.prepare(2))
    await attempt.commit(2)
    await attempt.run({LAST: orders()})
    await attempt.close()
    expected = orders((1, "new", 1.0), (2, None, 2.5), (5, "e", 5.0))
    tested.holds(play, expected, "after an update, a delete and an insert")


async def what_did_not_come_is_deleted(tested: TableUnderTest) -> None:
    law = "what_did_not_come_is_deleted"
    if not tested.has("mirror"):
        return
    for frame in (ONE, TWO):
        play = tested.play(law, mode="mirror", delete_max="100%")
        play.more = {"complete": True}
        attempt = await play.attempt(resume=0)
        await attempt.run({1: frame.head(1), 2: frame.slice(1), LAST: orders()})
        await attempt.close()
    expected = orders((2, "last", 9.0), (4, "d", -1.0))
    tested.holds(play, expected, "two of the first run's rows did not come in the second one")


async def too_many_deletes_are_refused(tested: TableUnderTest) -> None:
    law = "too_many_deletes_are_refused"
    if not tested.has("mirror"):
        return
    for frame, limit in ((ONE, "100%"), (TWO, 1)):
        play = tested.play(law, mode="mirror", delete_max=limit)
        play.more = {"complete": True}
        attempt = await play.attempt(resume=0)
        error = None
        try:
            await attempt.run({1: frame, LAST: orders()})
        except DataFlareError as caught:
            error = caught
        await attempt.close()
    hold(law, error is not None and error.code == "E0512", f"it raises {error}")


async def an_overwrite_shows_old_rows_until_its_end(tested: TableUnderTest) -> None:
    law = "an_overwrite_shows_old_rows_until_its_end"
    if not tested.has("overwrite"):
        return
    play = tested.play(law, mode="overwrite", key=[])
    attempt = await play.attempt(resume=0)
    await attempt.run({1: ONE, LAST: orders()})
    await attempt.close()
    play = tested.play(law, mode="overwrite", key=[])
    attempt = await play.attempt(resume=0)
    await attempt.run({1: TWO})
    tested.holds(play, ONE, "a run that is not finished has written an epoch")
    await attempt.close()
    attempt = await play.attempt(resume=1)
    await attempt.run({2: ONE.head(1), LAST: orders()})
    await attempt.close()
    tested.holds(play, pl.concat([TWO, ONE.head(1)]), "after the run was resumed and has finished")


async def rows_are_added(tested: TableUnderTest) -> None:
    law = "rows_are_added"
    if not tested.has("append"):
        return
    for _ in range(2):
        play = tested.play(law, mode="append", key=[])
        attempt = await play.attempt(resume=0)
        await attempt.run({1: ONE, LAST: orders()})
        await attempt.close()
    tested.holds(play, pl.concat([ONE, ONE]), "after two runs of two lineages")


async def a_lost_transaction_is_applied_again(tested: TableUnderTest) -> None:
    """The open transaction ends between `prepare` and `commit`: the redo file has the rows."""
    law = "a_lost_transaction_is_applied_again"
    for mode in tested.modes():
        key = ["id"] if mode in ("upsert", "mirror") else []
        play = tested.play(law, part=mode, mode=mode, key=key)
        attempt = await play.attempt(resume=0)
        for number, frame in ((1, ONE), (2, orders((7, "g", 7.0))), (LAST, orders((8, "h", 8.0)))):
            await attempt.write(frame)
            attempt.publish(number, await attempt.prepare(number, final=number == LAST))
            lose(attempt)
            await attempt.commit(number)
        await attempt.close()
        expected = pl.concat([ONE, orders((7, "g", 7.0), (8, "h", 8.0))])
        tested.holds(play, expected, f"{mode}, with a lost transaction in each epoch")


def lose(attempt: Attempt) -> None:
    """End the transaction that the writers share, as a server or another program may."""
    for writer in attempt.writers:
        assert isinstance(writer, TableWriter), "the writer must be that of `dataflare.sdk.sql`"
        writer.session.abandon()


async def an_epoch_may_be_prepared_before_the_last_is_committed(tested: TableUnderTest) -> None:
    law = "an_epoch_may_be_prepared_before_the_last_is_committed"
    for mode in tested.modes():
        key = ["id"] if mode in ("upsert", "mirror") else []
        play = tested.play(law, part=mode, mode=mode, key=key)
        attempt = await play.attempt(resume=0)
        for number, frame in ((1, ONE), (2, orders((7, "g", 7.0)))):
            await attempt.write(frame)
            attempt.publish(number, await attempt.prepare(number))
        await attempt.commit(1)
        await attempt.commit(2)
        await attempt.run({LAST: orders((8, "h", 8.0))})
        await attempt.close()
        expected = pl.concat([ONE, orders((7, "g", 7.0), (8, "h", 8.0))])
        tested.holds(
            play, expected, f"{mode}, with two epochs that were prepared and not committed"
        )


async def steps_share_a_transaction(tested: TableUnderTest) -> None:
    """Two steps of a run write to two tables: each has its rows once, also if the transaction is lost."""
    law = "steps_share_a_transaction"
    mode = tested.modes()[0]
    key = ["id"] if mode in ("upsert", "mirror") else []
    plays = [tested.play(law, step=name, mode=mode, key=key, table=name) for name in ("a", "b")]
    plays[1].lineage = plays[0].lineage
    attempts = [await play.attempt(resume=0) for play in plays]
    for number, frame in ((1, ONE), (2, orders((7, "g", 7.0))), (LAST, orders())):
        for attempt in attempts:
            await attempt.write(frame)
        for attempt in attempts:
            attempt.publish(number, await attempt.prepare(number, final=number == LAST))
        if number == 2:
            lose(attempts[0])
        for attempt in attempts:
            await attempt.commit(number)
    for attempt in attempts:
        await attempt.close()
    for play in plays:
        tested.holds(play, pl.concat([ONE, orders((7, "g", 7.0))]), f"table {play.table}")


async def a_refused_row_is_left_out(tested: TableUnderTest) -> None:
    law = "a_refused_row_is_left_out"
    if not tested.has("upsert"):
        return
    play = tested.play(law, mode="upsert")
    play.more = {"sift": True}
    attempt = await play.attempt(resume=0)
    bad = orders((None, "no key", 1.0))
    await attempt.write(pl.concat([ONE.head(1), bad, ONE.slice(1)]))
    [writer] = attempt.writers
    refused = await writer.settle()
    hold(law, len(refused) == 1, f"{len(refused)} rows of 1 were refused")
    hold(law, refused[0].row["name"] == "no key", f"{dict(refused[0].row)} was refused")
    attempt.publish(1, await attempt.prepare(1))
    lose(attempt)
    await attempt.commit(1)
    await attempt.run({LAST: orders()})
    await attempt.close()
    tested.holds(play, ONE, "one of four rows was refused")


async def a_row_without_a_key_is_an_error(tested: TableUnderTest) -> None:
    law = "a_row_without_a_key_is_an_error"
    if not tested.has("upsert"):
        return
    attempt = await tested.play(law, mode="upsert").attempt(resume=0)
    error = None
    try:
        await attempt.run({1: pl.concat([ONE, orders((None, "no key", 1.0))])})
    except DataFlareError as caught:
        error = caught
    await attempt.close()
    hold(law, error is not None and error.code == "E0510", f"it raises {error}")


async def new_columns_are_added(tested: TableUnderTest) -> None:
    law = "new_columns_are_added"
    mode = tested.modes()[0]
    key = ["id"] if mode in ("upsert", "mirror") else []
    play = tested.play(law, mode=mode, key=key)
    attempt = await play.attempt(resume=0)
    wider = orders((7, "g", 7.0)).with_columns(pl.lit("fr").alias("lang"))
    await attempt.run({1: ONE, 2: wider, LAST: orders()})
    await attempt.close()
    expected = pl.concat([ONE.with_columns(pl.lit(None, pl.String).alias("lang")), wider])
    tested.holds(play, expected, "the rows of the second epoch have another column")


async def another_lineage_takes_over(tested: TableUnderTest) -> None:
    """A lineage finds the owner of its table; after it has taken over, the owner is fenced."""
    law = "another_lineage_takes_over"
    mode = "upsert" if tested.has("upsert") else tested.modes()[0]
    key = ["id"] if mode in ("upsert", "mirror") else []
    first, other = (tested.play(law, mode=mode, key=key) for _ in range(2))
    first.more = other.more = {"workflow": "tested"}
    older = await first.attempt(resume=0)
    await older.run({1: ONE})
    await older.write(TWO)
    stale = await older.prepare(2)
    committer = await other.make().committer(other.context())
    owner = await committer.owner()
    hold(law, owner is not None, "it is not told that another lineage has written there")
    assert owner is not None
    found = owner.lineage, owner.epoch, owner.rows
    hold(law, found == (first.lineage, 1, ONE.height), f"the owner is said to be {found}")
    await committer.supersede(0)
    await committer.aclose()
    error = None
    try:
        await older.committer.commit(older.epoch(2), stale)
    except DataFlareError as caught:
        error = caught
    hold(law, error is not None and error.code == "E0804", f"the older lineage's commit: {error}")
    await older.close()
    tested.holds(first, ONE, "the older lineage wanted to write an epoch more")


TABLE_LAWS: Laws[TableUnderTest] = {
    law.__name__: law
    for law in (
        a_key_has_its_last_row,
        a_later_run_changes_rows,
        deletes_count_in_a_mirror,
        what_did_not_come_is_deleted,
        too_many_deletes_are_refused,
        an_overwrite_shows_old_rows_until_its_end,
        rows_are_added,
        a_lost_transaction_is_applied_again,
        an_epoch_may_be_prepared_before_the_last_is_committed,
        steps_share_a_transaction,
        a_refused_row_is_left_out,
        a_row_without_a_key_is_an_error,
        new_columns_are_added,
        another_lineage_takes_over,
    )
}
"""The laws by name. Each is an async function of a `TableUnderTest` that raises ContractBroken."""
