"""The laws of sources.

async def test_mailbox(tmp_path):
    make_mailbox(tmp_path)
    await check_source(lambda: description(MboxSource, {"path": "in.mbox"}, base=tmp_path))
"""

from __future__ import annotations

import pickle
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from types import MappingProxyType

import polars as pl
from msgspec import Struct

from dataflare.expr import check
from dataflare.model.batch import KIND_COLUMN, RowKind
from dataflare.model.progress import Position, Split
from dataflare.model.record import Discreet
from dataflare.model.types import RESERVED
from dataflare.model.unchanged import UNCHANGED
from dataflare.sdk.source import (
    BadRow,
    ChunkReader,
    EndOfSplit,
    KnownSplits,
    Replay,
    SourceBatch,
    SourceConnector,
    SplitReader,
    SupportsDiscovery,
    SupportsFilter,
    SupportsProjection,
)
from dataflare.testing.contract import Laws, check_laws, equal, hold, through_json

_ROWS_MAX = (1, 7, 10_000)
_POSITIONS_MAX = 12
"""The most positions of a split that are resumed. If there are more, they are spread over the split."""


class SourceUnderTest(Struct, frozen=True):
    """make: returns a new description of data that does not change. conditions: expressions that may be
    pushed down; by default some over each column."""

    make: Callable[[], SourceConnector]
    conditions: Sequence[str] = ()


class Piece(Discreet, frozen=True):
    """A batch or chunk: its good rows, the position after it, its bad rows, and whether a checkpoint may be cut
    behind it."""

    hidden = ("position",)

    frame: pl.DataFrame
    position: Position
    bad: tuple[BadRow, ...] = ()
    may_cut: bool = True


async def check_source(
    make: Callable[[], SourceConnector],
    *,
    conditions: Sequence[str] = (),
    only: Sequence[str] = (),
    skip: Iterable[str] = (),
    gaps: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Check a source against `SOURCE_LAWS`. Raises ContractBroken with the law's name.

    make: returns a new description of a bounded source with some rows, ready to be read. only, skip:
    names of laws. A description that a law reads from is closed before the next one reads, because a
    queue gives a message again when the one that has it is gone.
    """
    laws = {name: _closing(law) for name, law in SOURCE_LAWS.items()}
    await check_laws(laws, SourceUnderTest(make, tuple(conditions)), only, skip, gaps)


def _closing(
    law: Callable[[SourceUnderTest], Awaitable[None]],
) -> Callable[[SourceUnderTest], Awaitable[None]]:
    """The law, after which all that it made is closed."""

    async def checked(tested: SourceUnderTest) -> None:
        made: list[SourceConnector] = []

        def make() -> SourceConnector:
            made.append(tested.make())
            return made[-1]

        try:
            await law(SourceUnderTest(make, tested.conditions))
        finally:
            for source in made:
                await source.aclose()

    return checked


async def next_piece(reader: SplitReader, rows_max: int) -> Piece:
    """The next batch or chunk of a reader, whichever kind of reader it is. Raises EndOfSplit."""
    if isinstance(reader, ChunkReader):
        chunk = await reader.read_chunk()
        return Piece(chunk.scan().collect(), chunk.position, tuple(chunk.bad), chunk.may_cut)
    batch = await reader.read_batch(rows_max)
    if isinstance(batch, SourceBatch):
        return Piece(batch.frame, reader.position(), tuple(batch.bad), batch.may_cut)
    return Piece(batch.frame, reader.position())


async def read_split(
    source: SourceConnector, split: Split, position: Position | None = None, rows_max: int = 10_000
) -> list[Piece]:
    """All batches or chunks of a split from a position on."""
    reader = await source.open(split, position)
    pieces = []
    try:
        while True:
            pieces.append(await next_piece(reader, rows_max))
    except EndOfSplit:
        return pieces
    finally:
        await reader.aclose()


async def every_split(source: SourceConnector) -> list[Split]:
    """The splits that are listed, and those that are found when these are done, until a look finds none."""
    listed = list(await source.splits())
    splits = {split.id: split for split in listed}
    if not isinstance(source, SupportsDiscovery) or source.discovery_interval_s() is None:
        return listed
    while True:
        ids = frozenset(splits)
        found = await source.discover(KnownSplits(listed, ids, ids))
        fresh = [split for split in found or () if split.id not in splits]
        if not fresh:
            return list(splits.values())
        splits |= {split.id: split for split in fresh}


async def read_source(source: SourceConnector, rows_max: int = 10_000) -> pl.DataFrame:
    """All rows of all splits, in their order."""
    frames = [await _nothing(source)]
    for split in await every_split(source):
        frames += [piece.frame for piece in await read_split(source, split, None, rows_max)]
    return _together(frames)


async def _nothing(source: SourceConnector) -> pl.DataFrame:
    """No rows, with the columns of a batch."""
    kinds = {KIND_COLUMN: pl.UInt8} if source.capabilities().changelog else {}
    return pl.DataFrame(schema={**(await source.schema()).to_polars(), **kinds})


def _together(frames: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Only some batches of changes have UNCHANGED, and a batch without kinds has new rows only."""
    if KIND_COLUMN in frames[0].columns:
        new = pl.lit(RowKind.INSERT.value, pl.UInt8).alias(KIND_COLUMN)
        frames = [f if KIND_COLUMN in f.columns else f.with_columns(new) for f in frames]
    has_marks = any(UNCHANGED in frame.columns for frame in frames)
    return pl.concat(frames, how="diagonal" if has_marks else "vertical")


async def _bad_rows(source: SourceConnector, rows_max: int) -> list[tuple[str, str, str]]:
    """Code, text and place of all bad rows, sorted."""
    pieces = [
        piece
        for split in await every_split(source)
        for piece in await read_split(source, split, None, rows_max)
    ]
    return sorted((bad.code, bad.raw, bad.place) for piece in pieces for bad in piece.bad)


async def splits_are_stable(tested: SourceUnderTest) -> None:
    law, source, other = "splits_are_stable", tested.make(), tested.make()
    listed, second_listing = await source.splits(), await source.splits()
    ids = [split.id for split in listed]
    hold(
        law, bool(await every_split(source)), "there is no split: give the suite a source with rows"
    )
    hold(law, ids == [split.id for split in second_listing], "a second listing has other ids")
    hold(
        law, ids == [split.id for split in await other.splits()], "a second description has others"
    )
    hold(law, len(set(ids)) == len(ids), f"an id comes twice: {ids}")
    for split in listed:
        decoded = Split.from_json(through_json(law, split.to_json()))
        message = f"{split} differs after JSON"
        hold(law, decoded.to_json() == through_json(law, split.to_json()), message)


async def batches_have_the_schema(tested: SourceUnderTest) -> None:
    law, source = "batches_have_the_schema", tested.make()
    schema = await source.schema()
    hold(law, schema == await source.schema(), "a second call of `schema` gives another schema")
    for split in await every_split(source):
        for piece in await read_split(source, split, rows_max=7):
            actual = {n: t for n, t in piece.frame.schema.items() if not n.startswith(RESERVED)}
            hold(law, actual == schema.to_polars(), f"{split.id} gives {actual}, not {schema}")


async def batches_are_no_larger_than_asked(tested: SourceUnderTest) -> None:
    law, source = "batches_are_no_larger_than_asked", tested.make()
    capabilities = source.capabilities()
    may_be_empty = capabilities.replay is Replay.NONE and not capabilities.bounded
    for split in await every_split(source):
        for rows_max in _ROWS_MAX:
            reader = await source.open(split, None)
            if isinstance(reader, ChunkReader):
                await reader.aclose()
                continue
            await reader.aclose()
            for piece in await read_split(source, split, None, rows_max):
                rows = piece.frame.height + len(piece.bad)
                least = 0 if may_be_empty else 1
                hold(law, least <= rows <= rows_max, f"{rows} rows when {rows_max} were asked for")


async def rows_do_not_depend_on_batches(tested: SourceUnderTest) -> None:
    law, source = "rows_do_not_depend_on_batches", tested.make()
    if law in NOT_REPLAYED[source.capabilities().replay]:
        return
    whole = await read_source(source)
    await source.aclose()
    async with aclosing(tested.make()) as other:
        bad = await _bad_rows(other, 10_000)
    hold(law, whole.height > 0, "there is no row: give the suite a source with rows")
    for rows_max in _ROWS_MAX:
        async with aclosing(tested.make()) as other:
            actual = await read_source(other, rows_max)
        equal(law, actual, whole, f"read by {rows_max}", ordered=_exact(source))
        async with aclosing(tested.make()) as other:
            told = await _bad_rows(other, rows_max)
        hold(law, told == bad, f"read by {rows_max}, its bad rows are {told}, not {bad}")


async def an_end_stays(tested: SourceUnderTest) -> None:
    law, source = "an_end_stays", tested.make()
    for split in await every_split(source):
        reader = await source.open(split, None)
        try:
            while True:
                await next_piece(reader, 10_000)
        except EndOfSplit:
            pass
        for _ in range(2):
            try:
                await next_piece(reader, 10)
            except EndOfSplit:
                continue
            hold(law, False, f"{split.id} gives rows after its end")
        end = Position(through_json(law, reader.position().to_json()))
        await reader.aclose()
        rows_after = sum(piece.frame.height for piece in await read_split(source, split, end))
        if source.capabilities().replay is not Replay.NONE:
            hold(law, rows_after == 0, f"{split.id} gives {rows_after} rows when opened at its end")


async def positions_resume(tested: SourceUnderTest) -> None:
    law, source = "positions_resume", tested.make()
    if law in NOT_REPLAYED[source.capabilities().replay]:
        return
    nothing = await _nothing(source)
    for split in await every_split(source):
        pieces = await read_split(source, split, None, 3)
        step = max(1, len(pieces) // _POSITIONS_MAX)
        for at in range(0, len(pieces), step):
            if not pieces[at].may_cut:
                continue
            position = Position(through_json(law, pieces[at].position.to_json()))
            stored_split = Split.from_json(through_json(law, split.to_json()))
            await source.aclose()
            async with aclosing(tested.make()) as other:
                later_pieces = await read_split(other, stored_split, position)
            actual = _together([nothing, *(piece.frame for piece in later_pieces)])
            expected = _together([nothing, *(piece.frame for piece in pieces[at + 1 :])])
            message = f"{split.id} opened at {position.to_json()}"
            equal(law, actual, expected, message, ordered=_exact(source))


async def a_split_ends_where_it_may_be_cut(tested: SourceUnderTest) -> None:
    law, source = "a_split_ends_where_it_may_be_cut", tested.make()
    for split in await every_split(source):
        for rows_max in _ROWS_MAX:
            pieces = await read_split(source, split, None, rows_max)
            message = f"{split.id} ends inside a transaction: its last batch says may_cut=False"
            hold(law, not pieces or pieces[-1].may_cut, message)


async def readers_know_nothing_of_each_other(tested: SourceUnderTest) -> None:
    """A queue gives a message to one of its readers, so there the law has nothing to check."""
    law, source = "readers_know_nothing_of_each_other", tested.make()
    if law in NOT_REPLAYED[source.capabilities().replay]:
        return
    for split in await every_split(source):
        async with (
            aclosing(await source.open(split, None)) as first,
            aclosing(await source.open(split, None)) as second,
        ):
            try:
                while True:
                    one, two = [await next_piece(reader, 5) for reader in (first, second)]
                    equal(law, two.frame, one.frame, f"two readers of {split.id}")
            except EndOfSplit:
                pass


async def a_description_pickles(tested: SourceUnderTest) -> None:
    law, source = "a_description_pickles", tested.make()
    await source.schema()
    whole = await read_source(source)
    await source.aclose()
    other: SourceConnector = pickle.loads(pickle.dumps(source))
    ordered = _exact(source)
    if source.capabilities().replay is not Replay.NONE:
        equal(law, await read_source(other), whole, "read after a pickle", ordered=ordered)
    await other.aclose()


async def a_projection_is_a_select(tested: SourceUnderTest) -> None:
    law, source = "a_projection_is_a_select", tested.make()
    if not isinstance(source, SupportsProjection):
        return
    names = (await source.schema()).names
    whole = await read_source(source)
    along = [name for name in whole.columns if name.startswith(RESERVED)]
    for chosen in {names[:1], names[::-1], names[1::2] or names}:
        fewer = source.with_columns(chosen)
        assert isinstance(fewer, SourceConnector)
        names_after = (await fewer.schema()).names
        hold(law, names_after == chosen, f"asked for {chosen}, its schema says {names_after}")
        equal(law, await read_source(fewer), whole.select(*chosen, *along), f"columns {chosen}")
    equal(law, await read_source(source), whole, "the description it was copied from")


async def a_filter_is_a_filter(tested: SourceUnderTest) -> None:
    law, source = "a_filter_is_a_filter", tested.make()
    if not isinstance(source, SupportsFilter):
        return
    schema, whole = await source.schema(), await read_source(source)
    pushed_conditions = []
    for text in tested.conditions or list(_conditions(whole)):
        typed = check(text, schema)
        pushed = None if typed.can_fail else source.with_filter(typed)
        if pushed is None:
            continue
        pushed_conditions.append((text, typed))
        assert isinstance(pushed, SourceConnector)
        expected = whole.filter(typed.lower().value)
        equal(law, await read_source(pushed), expected, text, ordered=False)
    hold(law, bool(pushed_conditions), "it takes no condition: give the suite some that it does")
    (one, first), (two, second) = pushed_conditions[0], pushed_conditions[-1]
    both = source.with_filter(first)
    both = both.with_filter(second) if isinstance(both, SupportsFilter) else None
    if isinstance(both, SourceConnector):
        expected = whole.filter(first.lower().value & second.lower().value)
        equal(law, await read_source(both), expected, f"{one}, then {two}", ordered=False)
    equal(
        law, await read_source(source), whole, "the description it was copied from", ordered=False
    )


def _conditions(frame: pl.DataFrame) -> Iterable[str]:
    """Some conditions over each column, of values that it has."""
    for name, dtype in frame.schema.items():
        column = '"' + name.replace('"', '""') + '"'
        yield f"{column} IS NOT NULL"
        values = frame[name].drop_nulls()
        if not values.len():
            continue
        value = values[values.len() // 2]
        if dtype.is_integer():
            yield from (
                f"{column} > {value}",
                f"{column} IN ({value}, 0)",
                f"NOT {column} = {value}",
            )
        elif dtype == pl.String and "'" not in value:
            yield from (f"{column} = '{value}'", f"{column} <> '{value}'", f"{column} >= '{value}'")
        elif dtype == pl.Boolean:
            yield column


def _exact(source: SourceConnector) -> bool:
    return source.capabilities().replay is Replay.EXACT


async def chunks_are_promised(tested: SourceUnderTest) -> None:
    law, source = "chunks_are_promised", tested.make()
    await source.schema()
    promised = source.capabilities().chunks
    for split in await every_split(source):
        reader = await source.open(split, None)
        gives_chunks = isinstance(reader, ChunkReader)
        await reader.aclose()
        message = f"capabilities().chunks is {promised}, and the reader of {split.id} gives "
        hold(law, gives_chunks is promised, message + ("chunks" if gives_chunks else "batches"))


async def splits_are_found_again(tested: SourceUnderTest) -> None:
    """What `discover` finds does not depend on what was asked before: a run that resumes asks another
    description, and knows only the splits that its checkpoint has."""
    law, source = "splits_are_found_again", tested.make()
    interval_s = source.discovery_interval_s() if isinstance(source, SupportsDiscovery) else None
    if not isinstance(source, SupportsDiscovery) or interval_s is None:
        return
    hold(law, interval_s > 0, f"`discovery_interval_s` is {interval_s}")
    listed = tuple(await source.splits())
    every = await every_split(source)
    ids = [split.id for split in every]
    hold(law, len(set(ids)) == len(ids), f"an id comes twice: {ids}")
    for count in range(len(listed), len(every) + 1):
        known = frozenset(ids[:count])
        answers = []
        for asked in (source, source, tested.make()):
            assert isinstance(asked, SupportsDiscovery)
            found = await asked.discover(KnownSplits(listed, known, known))
            fresh = [split for split in found or () if split.id not in known]
            answers.append({s.id: through_json(law, s.to_json()) for s in fresh})
        hold(law, answers[0] == answers[1], f"a second look finds {answers[1]}, not {answers[0]}")
        hold(law, answers[0] == answers[2], f"a new description finds {answers[2]}")
        if count < len(every):
            hold(law, ids[count] in answers[0], f"{ids[count]} is not told while it is not known")


SOURCE_LAWS: Laws[SourceUnderTest] = {
    law.__name__: law
    for law in (
        splits_are_stable,
        splits_are_found_again,
        batches_have_the_schema,
        batches_are_no_larger_than_asked,
        rows_do_not_depend_on_batches,
        an_end_stays,
        positions_resume,
        a_split_ends_where_it_may_be_cut,
        readers_know_nothing_of_each_other,
        a_description_pickles,
        a_projection_is_a_select,
        a_filter_is_a_filter,
        chunks_are_promised,
    )
}
"""The laws by name. Each is an async function of a `SourceUnderTest` that raises ContractBroken."""
_OF_READERS = frozenset({"readers_know_nothing_of_each_other"})
NOT_REPLAYED: Mapping[Replay, frozenset[str]] = {
    Replay.EXACT: frozenset(),
    Replay.BY_KEY: frozenset(),
    Replay.REDELIVERED: _OF_READERS,
    Replay.NONE: _OF_READERS | {"rows_do_not_depend_on_batches", "positions_resume"},
}
"""By what reading again gives, the laws that it does not promise, and that are not checked."""
