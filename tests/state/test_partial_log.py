"""The log of partials: whatever is appended and however it is cut, merged it is one group_by."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataflare.state import partials
from dataflare.state.partials import PartialLog, own_rows, owner_of

ROW = st.tuples(
    st.none() | st.integers(0, 30), st.none() | st.sampled_from(["x", "y"]), st.integers(-9, 9)
)
BATCHES = st.lists(st.lists(ROW, min_size=1, max_size=25), min_size=1, max_size=25)
KEYS = ("k", "j")
BOUNDED = settings(derandomize=True, deadline=None, max_examples=25)


def frame_of(rows: list[tuple[Any, ...]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema={"k": pl.Int64, "j": pl.String, "v": pl.Int64}, orient="row")


def partial(frame: pl.DataFrame, keys: tuple[str, ...]) -> pl.DataFrame:
    made = [
        pl.len().cast(pl.Int64).alias("n"),
        pl.col("v").first().alias("first"),
        pl.col("v").last().alias("last"),
        pl.col("v").implode().alias("all") if not keys else pl.col("v").alias("all"),
    ]
    return frame.group_by(keys).agg(made) if keys else frame.select(made)


def merged(frame: pl.DataFrame, keys: tuple[str, ...]) -> pl.DataFrame:
    made = [
        pl.col("n").sum(),
        pl.col("first").first(),
        pl.col("last").last(),
        pl.col("all").explode().implode() if not keys else pl.col("all").explode(),
    ]
    return frame.group_by(keys).agg(made) if keys else frame.select(made)


def log_of(keys: tuple[str, ...]) -> PartialLog:
    return PartialLog(keys, lambda frame: merged(frame, keys))


def drained(log: PartialLog) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = []
    while (share := log.take()) is not None:
        rows.extend(share[1].rows())
    assert not log.frames()
    return sorted(rows, key=repr)


def wanted(batches: list[list[tuple[Any, ...]]], keys: tuple[str, ...]) -> list[tuple[Any, ...]]:
    whole = frame_of([row for batch in batches for row in batch])
    return sorted(partial(whole, keys).rows(), key=repr)


@pytest.fixture(
    params=[(200_000, 8), (20, 2), (1, 1)], ids=["small", "split early", "always split"]
)
def _sizes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partials, "SMALL_ROWS", request.param[0])
    monkeypatch.setattr(partials, "LOG_PARTIALS", request.param[1])


@pytest.mark.usefixtures("_sizes")
@pytest.mark.parametrize("keys", [KEYS, ("k",), ()])
def test_partials_merged_are_one_group_by(keys: tuple[str, ...]):
    @given(BATCHES)
    @BOUNDED
    def law(batches: list[list[tuple[Any, ...]]]) -> None:
        log = log_of(keys)
        for batch in batches:
            log.append(partial(frame_of(batch), keys))
        assert drained(log) == wanted(batches, keys)

    law()


@pytest.mark.usefixtures("_sizes")
@pytest.mark.parametrize(("before", "after"), [(1, 3), (3, 1), (2, 5)])
def test_restored_at_another_number_of_subtasks_nothing_is_lost_or_doubled(before: int, after: int):
    @given(BATCHES, st.integers(0, 25), st.integers(0, 3))
    @BOUNDED
    def law(batches: list[list[tuple[Any, ...]]], cut: int, taken: int) -> None:
        logs = [log_of(KEYS) for _ in range(before)]
        handed: list[tuple[Any, ...]] = []

        def feed(parts: list[list[tuple[Any, ...]]], logs: list[PartialLog]) -> None:
            for batch in parts:
                for number, log in enumerate(logs):
                    mine = own_rows(frame_of(batch), KEYS, number, len(logs))
                    log.append(partial(mine, KEYS))

        feed(batches[:cut], logs)
        finished = cut >= len(batches)
        for log in logs if finished else ():
            for _ in range(taken):
                share = log.take()
                handed.extend(share[1].rows() if share else [])
        snapshots = [log.frames() for log in logs]
        restored = [log_of(KEYS) for _ in range(after)]
        for number, log in enumerate(restored):
            for frames in snapshots:
                for frame in frames.values():
                    log.append(own_rows(frame, KEYS, number, after))
        feed(batches[cut:], restored)
        rows = [row for log in restored for row in drained(log)] + handed
        assert sorted(rows, key=repr) == wanted(batches, KEYS)

    law()


@pytest.mark.usefixtures("_sizes")
def test_a_name_always_means_the_same_rows():
    log, seen = log_of(KEYS), {}
    for start in range(60):
        log.append(partial(frame_of([(n % 50, "x", n) for n in range(start, start + 20)]), KEYS))
        for name, frame in log.frames().items() if start % 7 == 0 else ():
            assert seen.setdefault(name, frame).equals(frame)
    while log.take() is not None:
        for name, frame in log.frames().items():
            assert seen.setdefault(name, frame).equals(frame)


def test_a_large_state_is_split_and_handed_out_in_shares(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(partials, "SMALL_ROWS", 100)
    log = log_of(("k",))
    rows = [(n, "x", n) for n in range(2000)]
    for start in range(0, 2000, 50):
        log.append(partial(frame_of(rows[start : start + 50]), ("k",)))
    shares = []
    while (share := log.take()) is not None:
        shares.append(share[1])
    assert len(shares) == partials.BUCKETS
    assert max(share.height for share in shares) < 250
    assert all(share["k"].is_sorted() for share in shares)
    assert sorted(pl.concat(shares)["k"]) == [n for n, _, _ in rows]


def test_nothing_appended_nothing_comes():
    log = log_of(KEYS)
    log.append(partial(frame_of([]), KEYS))
    assert (log.frames(), log.take(), log.num_bytes()) == ({}, None, 0)


def test_memory_is_counted_and_let_go():
    log = log_of(KEYS)
    log.append(partial(frame_of([(1, "x", 1)] * 100), KEYS))
    assert log.num_bytes() > 0
    log.take()
    assert log.num_bytes() == 0


@pytest.mark.parametrize("subtasks", [1, 2, 3, 7, 128])
def test_each_key_group_has_one_owner_and_shares_are_even(subtasks: int):
    groups = pl.DataFrame({"g": pl.int_range(128, dtype=pl.UInt8, eager=True)})
    owners = groups.select(owner_of(pl.col("g"), subtasks).alias("o"))["o"]
    assert owners.is_sorted()
    sizes = owners.value_counts()["count"].to_list()
    assert len(sizes) == subtasks
    assert max(sizes) - min(sizes) <= 1


def test_every_row_belongs_to_exactly_one_subtask():
    frame = pl.DataFrame({"k": [None, *range(500)]})
    parts = [own_rows(frame, ("k",), number, 3) for number in range(3)]
    assert sum(part.height for part in parts) == frame.height
    assert sorted(pl.concat(parts)["k"].drop_nulls()) == list(range(500))
