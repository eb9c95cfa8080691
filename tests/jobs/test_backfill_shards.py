"""How a backfill is cut: each value is in exactly one shard."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataflare.errors import WorkflowError
from dataflare.jobs.backfill.shards import bound, shards_of, text

TIMES = st.datetimes(datetime(1990, 1, 1), datetime(2040, 1, 1)).map(
    lambda t: t.replace(tzinfo=UTC)
)
UNITS = ["day", "week", "month", "year", "36h", "90d"]


@given(
    TIMES, st.timedeltas(timedelta(hours=1), timedelta(days=900)), st.sampled_from(UNITS), st.data()
)
def test_each_time_is_in_exactly_one_shard(
    begin: datetime, length: timedelta, unit: str, data: st.DataObject
) -> None:
    end = begin + length
    shards = shards_of(text(begin), text(end), unit)
    assert bound(shards[0].begin or "") == begin
    assert bound(shards[-1].end or "") == end
    assert all(a.end == b.begin for a, b in pairwise(shards))
    share = data.draw(st.floats(0, 1, exclude_max=True))
    moment = min(begin + length * share, end - timedelta(microseconds=1))
    holding = [
        shard
        for shard in shards
        if bound(shard.begin or "") <= moment < bound(shard.end or "")  # type: ignore[operator]
    ]
    assert len(holding) == 1
    assert len({shard.name for shard in shards}) == len(shards)


@given(st.integers(-10_000, 10_000), st.integers(1, 500), st.integers(1, 60))
def test_each_number_is_in_exactly_one_shard(begin: int, length: int, step: int) -> None:
    shards = shards_of(str(begin), str(begin + length), str(step))
    numbers = [n for shard in shards for n in range(int(shard.begin or ""), int(shard.end or ""))]
    assert numbers == list(range(begin, begin + length))


@pytest.mark.parametrize(
    ("unit", "bounds"),
    [
        ("day", ["2024-02-27T06:00:00Z", "2024-02-28", "2024-02-29", "2024-03-01", "2024-03-01T06:00:00Z"]),
        ("week", ["2024-02-27T06:00:00Z", "2024-03-01T06:00:00Z"]),
        ("month", ["2024-02-27T06:00:00Z", "2024-03-01", "2024-03-01T06:00:00Z"]),
        ("2024-02-28,2024-03-01", ["2024-02-27T06:00:00Z", "2024-02-28", "2024-03-01", "2024-03-01T06:00:00Z"]),
    ],
)  # fmt: skip
def test_units_begin_where_the_calendar_does(unit: str, bounds: list[str]) -> None:
    shards = shards_of("2024-02-27T06:00:00Z", "2024-03-01T06:00:00Z", unit)
    assert [*(shard.begin for shard in shards), shards[-1].end] == bounds


def test_a_condition_is_in_the_words_of_its_column() -> None:
    (day,) = shards_of("2024-01-01", "2024-01-02", "day")
    assert (
        day.condition("at", "date") == "\"at\" >= DATE '2024-01-01' AND \"at\" < DATE '2024-01-02'"
    )
    assert day.condition('a"t', "timestamp with zone").startswith(
        '"a""t" >= TIMESTAMPTZ \'2024-01-01 00:00:00+00\''
    )
    (numbers,) = shards_of("-5", "5", "10")
    assert numbers.condition("n", "integer") == '"n" >= (-5) AND "n" < 5'
    _, second = shards_of(None, None, "hash:2")
    assert second.condition("n", "integer") == "xxhash(coalesce(CAST(\"n\" AS string), '')) % 2 = 1"


@pytest.mark.parametrize(
    ("begin", "end", "by", "message"),
    [
        ("2024-01-02", "2024-01-01", "day", "0 shards"),
        ("2024-01-01", None, "day", "--from and --to are missing"),
        ("1", "2024-01-01", "10", "does not go with"),
        ("2024-01-01", "2024-01-02", "10", "is for numbers"),
        ("2024-01-01", "2024-01-02", "fortnight", "'fortnight' is not known"),
        ("soon", "2024-01-02", "day", "neither a number, a date nor a time"),
        ("1", "9", "5,3", "not in order"),
        ("2024-01-01", "2034-01-01", "1s", "shards; there may be"),
        (None, None, "hash:0", "0 shards"),
        ("2024-01-02", "2024-01-01", "hash:4", "not in order"),
        ("1", "2024-01-01", "hash:4", "of different kinds"),
        ("soon", None, "hash:4", "neither a number, a date nor a time"),
        ("20240101", "20240103", "day", "day does not go with --from 20240101"),
    ],
)
def test_what_cannot_be_cut_is_refused(
    begin: str | None, end: str | None, by: str, message: str
) -> None:
    with pytest.raises(WorkflowError, match=message) as raised:
        shards_of(begin, end, by)
    assert raised.value.code == "E0131"


def test_a_hash_keeps_each_bound_also_where_it_has_only_one() -> None:
    bucket = "xxhash(coalesce(CAST(\"n\" AS string), '')) % 2 = 0"
    first, _ = shards_of("5", None, "hash:2")
    assert first.condition("n", "integer") == f'"n" >= 5 AND {bucket}'
    assert (first.has_bounds, first.span) == (True, "from 5")
    first, _ = shards_of(None, "9", "hash:2")
    assert first.condition("n", "integer") == f'"n" < 9 AND {bucket}'
    assert first.span == "before 9"
    first, _ = shards_of("5", "9", "hash:2")
    assert first.condition("n", "integer") == f'"n" >= 5 AND "n" < 9 AND {bucket}'


def test_eight_digits_are_a_number() -> None:
    (shard,) = shards_of("19990000", "20240101", "10000000")
    assert shard.condition("n", "integer") == '"n" >= 19990000 AND "n" < 20240101'
    with pytest.raises(WorkflowError, match="'19990000' is of another one") as raised:
        shard.condition("at", "date")
    assert "a date has hyphens" in str(raised.value.help)
