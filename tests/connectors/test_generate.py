"""Generated rows are a function of seed, column and row number, and come when they are due."""

from __future__ import annotations

import asyncio
import functools
import pickle
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from pydantic import ValidationError

from dataflare.connectors.generate import GenerateSource
from dataflare.errors import ConfigError
from dataflare.model.batch import SharedDataBatch
from dataflare.model.progress import Position, Split
from dataflare.model.types import Schema, from_polars
from dataflare.sdk.context import ConnectorContext
from dataflare.sdk.source import EndOfSplit, Replay, SplitReader

START = datetime(2024, 1, 1, tzinfo=UTC)
COLUMNS: dict[str, Any] = {
    "id": {"sequence": 5},
    "user": {"int": [1, 1000]},
    "amount": {"float": [0, 100], "nulls": 0.2},
    "status": {"choice": ["paid", "open", None]},
    "vip": {"bool": 0.25},
    "at": {"time": {"start": "2024-01-01T00:00:00Z", "step": "1ms", "jitter": "5s"}},
}


def source(columns: dict[str, Any] | None = None, **options: Any) -> GenerateSource:
    config = GenerateSource.Config.model_validate({"columns": columns or COLUMNS, **options})
    return GenerateSource(config, ConnectorContext("events"))


async def drain(reader: SplitReader, sizes: list[int]) -> list[pl.DataFrame]:
    """All rows of a bounded reader, asked for in turn by `sizes`."""
    frames = []
    while True:
        try:
            batch = await reader.read_batch(sizes[len(frames) % len(sizes)])
        except EndOfSplit:
            return frames
        assert 1 <= batch.num_rows <= sizes[len(frames) % len(sizes)]
        frames.append(batch.frame)


async def all_rows(generated: GenerateSource, sizes: list[int] | None = None) -> pl.DataFrame:
    frames = []
    for split in await generated.splits():
        frames += await drain(await generated.open(split, None), sizes or [100_000])
    return pl.concat(frames)


def rows_of(generated: GenerateSource, sizes: list[int] | None = None) -> pl.DataFrame:
    return asyncio.run(all_rows(generated, sizes))


@functools.cache
def thousand_rows() -> pl.DataFrame:
    return rows_of(source(rows=1000))


# -- values


def test_the_values_are_pinned():
    """They may never change: saved workflows and their results depend on them."""
    assert rows_of(source(rows=3, seed=42)).rows() == [
        (
            5,
            159,
            20.990305818495624,
            "open",
            True,
            datetime(2023, 12, 31, 23, 59, 59, 893877, tzinfo=UTC),
        ),
        (
            6,
            325,
            30.803533460750444,
            "open",
            False,
            datetime(2023, 12, 31, 23, 59, 59, 645286, tzinfo=UTC),
        ),
        (
            7,
            706,
            49.58779629407106,
            "open",
            False,
            datetime(2023, 12, 31, 23, 59, 58, 28053, tzinfo=UTC),
        ),
    ]


def test_each_kind_keeps_its_range_and_its_spread():
    rows = rows_of(source(rows=20_000))
    assert rows["id"].to_list() == list(range(5, 20_005))
    assert (rows["user"].min(), rows["user"].max()) == (1, 1000)
    assert 490 < float(rows["user"].mean()) < 510  # type: ignore[arg-type]
    amount = rows["amount"].drop_nulls()
    assert 0 <= float(amount.min()) < float(amount.max()) < 100  # type: ignore[arg-type]
    assert 3800 < rows["amount"].null_count() < 4200
    counts = dict(rows["status"].value_counts().rows())
    assert set(counts) == {"paid", "open", None}
    assert all(6300 < count < 7000 for count in counts.values())
    assert 4800 < int(rows["vip"].sum()) < 5200
    late = (pl.lit(START) + pl.duration(milliseconds=pl.int_range(pl.len()))) - pl.col("at")
    lag = rows.select(late.alias("lag"))["lag"]
    assert timedelta(0) <= lag.min() < lag.max() < timedelta(seconds=5)  # type: ignore[operator]


def test_columns_of_one_kind_differ_and_so_do_seeds():
    two = {"a": {"int": [0, 2**40]}, "b": {"int": [0, 2**40]}}
    rows = rows_of(source(two, rows=100))
    assert not (rows["a"] == rows["b"]).any()
    assert not (rows["a"] == rows_of(source(two, rows=100, seed=1))["a"]).any()
    assert rows_of(source(two, rows=100, seed=-(2**70))).equals(
        rows_of(source(two, rows=100, seed=-(2**70)))
    )


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 700), min_size=1, max_size=4),
    columns=st.lists(st.sampled_from(list(COLUMNS)), min_size=1, unique=True),
    cut=st.integers(0, 999),
)
def test_no_batch_size_projection_or_replay_changes_a_value(sizes, columns, cut):
    whole = thousand_rows()

    async def read() -> pl.DataFrame:
        narrow = source(rows=1000).with_columns(columns)
        (split,) = await narrow.splits()
        reader = await narrow.open(split, Position({"row": cut}))
        assert reader.position() == Position({"row": cut})
        frames = await drain(reader, sizes)
        assert reader.position() == Position({"row": 1000})
        return pl.concat(frames)

    assert_frame_equal(asyncio.run(read()), whole.select(columns).slice(cut))


def test_splits_are_blocks_that_make_the_whole(monkeypatch):
    monkeypatch.setattr("dataflare.connectors.generate.source._BLOCK_ROWS", 300)
    split_up = source(rows=1000)
    splits = asyncio.run(split_up.splits())
    assert [(s.data["start"], s.data["end"]) for s in splits] == [
        (0, 300),
        (300, 600),
        (600, 900),
        (900, 1000),
    ]
    assert [s.id for s in splits] == sorted(s.id for s in splits)
    in_blocks = rows_of(split_up)
    monkeypatch.undo()
    assert_frame_equal(in_blocks, rows_of(source(rows=1000)))


def test_a_huge_bounded_source_has_not_too_many_splits():
    splits = asyncio.run(source(rows=10**12).splits())
    assert len(splits) <= 4096
    assert splits[-1].data["end"] == 10**12


def test_without_an_end_eight_splits_interleave_to_the_same_rows():
    async def read() -> pl.DataFrame:
        endless = source()
        assert not endless.capabilities().bounded
        splits = await endless.splits()
        assert len(splits) == 8
        frames = []
        for split in splits:
            reader = await endless.open(split, None)
            first, second = await reader.read_batch(3), await reader.read_batch(2)
            assert reader.position().value["row"] == split.data["start"] + 40
            frames += [first.frame, second.frame]
        return pl.concat(frames).sort("id")

    assert_frame_equal(asyncio.run(read()), rows_of(source(rows=40)))


def test_big_batches_made_on_a_thread_are_the_same():
    rows = rows_of(source(rows=100_000), [100_000])
    assert_frame_equal(rows, rows_of(source(rows=100_000), [7_000]))


def test_a_position_is_the_last_returned_row_while_a_read_is_pending():
    async def read() -> None:
        big = source(rows=500_000)
        reader = await big.open((await big.splits())[0], None)
        pending = asyncio.ensure_future(reader.read_batch(100_000))
        await asyncio.sleep(0)
        if not pending.done():
            assert reader.position() == Position({"row": 0})
        await pending
        assert reader.position() == Position({"row": 100_000})

    asyncio.run(read())


def test_the_whole_range_of_int64_works():
    ends = {"x": {"int": [-(2**63), 2**63 - 1]}, "top": {"int": [2**63 - 1, 2**63 - 1]}}
    rows = rows_of(source(ends, rows=1000))
    assert rows["x"].n_unique() == 1000
    assert (rows["x"] < 0).sum() > 400
    assert set(rows["top"]) == {2**63 - 1}


def test_no_rows_are_an_end_at_once():
    async def read() -> None:
        empty = source(rows=0)
        (split,) = await empty.splits()
        with pytest.raises(EndOfSplit):
            await (await empty.open(split, None)).read_batch(10)

    asyncio.run(read())


# -- types


@pytest.mark.parametrize(
    ("values", "type_"),
    [
        (["a", "b"], "string"),
        ([1, None], "int64"),
        ([1, 2.5], "float64"),
        ([True, False], "bool"),
        ([START, None], "timestamp[us, UTC]"),
    ],
)
def test_a_choice_has_the_type_of_its_values(values, type_):
    chosen = source({"c": {"choice": values}}, rows=50)
    schema = asyncio.run(chosen.schema())
    assert str(schema["c"]) == type_
    rows = rows_of(chosen)
    assert from_polars(rows["c"].dtype) == schema["c"]
    assert set(rows["c"]) == set(values)


def test_the_schema_says_what_the_rows_have():
    schema = asyncio.run(source().schema())
    assert schema.to_json() == {
        "id": "int64",
        "user": "int64",
        "amount": "float64",
        "status": "string",
        "vip": "bool",
        "at": "timestamp[us, UTC]",
    }
    assert Schema.from_polars(rows_of(source(rows=1)).schema) == schema


def test_a_contract_gives_the_types():
    made = source(rows=10)
    made.contract = Schema.of({"user": "int16", "id": "string", "at": "timestamp[ms]"})
    rows = rows_of(made)
    assert Schema.from_polars(rows.schema) == asyncio.run(made.schema())
    assert rows["id"][0] == "5"
    assert rows["user"].dtype == pl.Int16


@pytest.mark.parametrize(
    ("contract", "said"),
    [({"user": "int8"}, "does not fit the type int8"), ({"usr": "int64"}, "names 'usr'")],
)
def test_a_contract_that_cannot_hold_is_refused(contract, said):
    made = source(rows=10)
    made.contract = Schema.of(contract)
    with pytest.raises(ConfigError, match=said):
        asyncio.run(made.schema())


@pytest.mark.parametrize(
    "column",
    [
        {},
        {"nulls": 0.5},
        {"int": [1, 2], "float": [0, 1]},
        {"sequence": None},
        {"int": [2, 1]},
        {"int": [0, 2**63]},
        {"sequence": 2**63},
        {"float": [1, 1]},
        {"float": [0, float("inf")]},
        {"float": [float("nan"), 1]},
        {"choice": []},
        {"choice": ["a", 1]},
        {"choice": [None]},
        {"bool": 1.5},
        {"nulls": 2, "sequence": 0},
        {"time": {"step": "1s"}},
        {"time": {"start": "yesterday"}},
        {"time": {"start": "now", "jitter": 5}},
        {"words": 3},
    ],
)
def test_a_column_that_makes_no_sense_is_refused(column):
    with pytest.raises(ValidationError):
        source({"c": column})


@pytest.mark.parametrize(
    "options",
    [
        {"columns": {}},
        {"columns": {"__dataflare_a": {"sequence": 0}}},
        {"rows": -1},
        {"rate": 5},
        {"x": 1},
    ],
)
def test_options_that_make_no_sense_are_refused(options):
    with pytest.raises(ValidationError):
        GenerateSource.Config.model_validate({"columns": COLUMNS, **options})


def test_the_description_pickles_and_replays_exactly():
    made = source(rows=10, rate="5/s")
    again = pickle.loads(pickle.dumps(made))
    assert again.config == made.config
    assert made.capabilities().replay is Replay.EXACT
    assert made.capabilities().bounded


# -- rate


class Clock:
    """Time that passes only in `sleep`, and as much more as the test says."""

    def __init__(self) -> None:
        self.now, self.slept, self.late = 1000.0, 0, 0.0

    async def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.slept += 1
        self.now += seconds + self.late


def paced(clock: Clock, rate: str, columns: dict[str, Any] | None = None, **options: Any):
    made = source(columns or {"id": {"sequence": 0}}, rate=rate, **options)
    made.clock = lambda: clock.now  # type: ignore[method-assign]
    made.wall = lambda: clock.now + 1_700_000_000  # type: ignore[method-assign]
    made.sleep = clock.sleep  # type: ignore[method-assign]
    return made


async def opened(made: GenerateSource, row: int | None = None) -> Any:
    (split,) = await made.splits()
    return await made.open(split, None if row is None else Position({"row": row}))


def test_rows_come_when_they_are_due():
    async def read() -> None:
        clock = Clock()
        reader = await opened(paced(clock, "1000/s"))
        reader.hold_s = 0.0
        assert (await reader.read_batch(100)).num_rows == 1
        assert clock.now == 1000.0
        clock.now += 0.0105
        assert (await reader.read_batch(100)).num_rows == 10
        assert clock.slept == 0
        assert (await reader.read_batch(100)).num_rows == 1
        assert clock.now == pytest.approx(1000.011)
        assert clock.slept == 1

    asyncio.run(read())


def test_rows_that_are_due_are_held_together_for_a_moment():
    async def read() -> None:
        clock = Clock()
        reader = await opened(paced(clock, "10000/s"))
        reader.hold_s = 0.01
        sizes = [(await reader.read_batch(100_000)).num_rows for _ in range(5)]
        assert sizes[0] == 1
        assert all(99 <= size <= 101 for size in sizes[1:])
        assert clock.now == pytest.approx(1000.04)

    asyncio.run(read())


def test_a_full_batch_is_not_held():
    async def read() -> None:
        clock = Clock()
        reader = await opened(paced(clock, "1000/s"))
        reader.hold_s = 10.0
        await reader.read_batch(1)
        assert (await reader.read_batch(20)).num_rows == 20
        assert clock.now == pytest.approx(1000.020)
        clock.now += 5
        assert (await reader.read_batch(20)).num_rows == 20
        assert clock.slept == 1

    asyncio.run(read())


def test_the_last_row_is_not_held():
    async def read() -> None:
        clock = Clock()
        reader = await opened(paced(clock, "10/s", rows=3))
        reader.hold_s = 60.0
        assert [(await reader.read_batch(100)).num_rows for _ in range(2)] == [1, 2]
        assert clock.now == pytest.approx(1000.2)
        with pytest.raises(EndOfSplit):
            await reader.read_batch(100)

    asyncio.run(read())


def test_the_rate_does_not_drift_when_every_sleep_is_late():
    async def read() -> None:
        clock = Clock()
        clock.late = 0.0007
        reader = await opened(paced(clock, "1000/s"))
        rows = 0
        while rows < 5000:
            rows += (await reader.read_batch(1000)).num_rows
        assert clock.now - 1000.0 == pytest.approx(rows / 1000, abs=0.01)

    asyncio.run(read())


@given(rate=st.integers(1, 10**6), count=st.integers(1, 50), rows_max=st.integers(1, 500))
@settings(max_examples=50, deadline=None)
def test_a_row_never_comes_before_it_is_due(rate, count, rows_max):
    async def read() -> None:
        clock = Clock()
        reader = await opened(paced(clock, f"{rate}/s"))
        for _ in range(count):
            batch = await reader.read_batch(rows_max)
            assert batch.frame["id"][-1] / rate <= clock.now - 1000.0 + 1e-6

    asyncio.run(read())


def test_after_a_resume_the_rate_counts_from_there():
    async def read() -> None:
        clock = Clock()
        made = paced(clock, "100/s", rows=10_000)
        reader = await opened(made, row=5000)
        assert (await reader.read_batch(100)).frame["id"].to_list() == [5000]
        clock.now += 0.025
        assert (await reader.read_batch(100)).frame["id"].to_list() == [5001, 5002]

    asyncio.run(read())


def test_a_rate_changes_no_value():
    async def read() -> pl.DataFrame:
        clock = Clock()
        made = paced(clock, "100000/s", COLUMNS, rows=1000)
        return await all_rows(made, [300])

    assert_frame_equal(asyncio.run(read()), rows_of(source(rows=1000)))


def test_a_rate_that_came_later_reads_the_splits_of_the_checkpoint():
    async def read() -> None:
        old = await source().splits()
        clock = Clock()
        made = paced(clock, "800/s")
        reader: Any = await made.open(old[3], None)
        reader.hold_s = 0.0
        await reader.read_batch(10)
        clock.now += 0.0205
        assert (await reader.read_batch(10)).frame["id"].to_list() == [11, 19]

    asyncio.run(read())


NOW = {"at": {"time": {"start": "now"}}, "back": {"time": {"start": "now", "jitter": "2s"}}}


def test_now_is_when_the_row_was_due():
    async def read() -> SharedDataBatch:
        clock = Clock()
        reader = await opened(paced(clock, "100/s", NOW))
        await reader.read_batch(1)
        clock.now += 0.0355
        found: SharedDataBatch = await reader.read_batch(100)
        return found

    rows = asyncio.run(read()).frame
    begin = datetime.fromtimestamp(1_700_001_000, UTC)
    assert rows["at"].to_list() == [begin + timedelta(milliseconds=10 * n) for n in (1, 2, 3)]
    lag = (rows["at"] - rows["back"]).dt.total_microseconds()
    assert lag.is_between(0, 2_000_000, closed="left").all()
    assert lag.n_unique() == 3


def test_without_a_rate_now_is_when_the_row_is_read():
    async def read() -> pl.DataFrame:
        made = source(NOW, rows=4)
        made.wall = lambda: 1_700_000_000.5  # type: ignore[method-assign]
        return (await (await made.open((await made.splits())[0], None)).read_batch(4)).frame

    moment = datetime.fromtimestamp(1_700_000_000.5, UTC)
    assert asyncio.run(read())["at"].to_list() == [moment] * 4


def test_the_split_of_a_checkpoint_is_plain_data():
    (split,) = asyncio.run(source(rows=5, rate="1/s").splits())
    assert Split.from_json(split.to_json()) == split
