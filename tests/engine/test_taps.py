"""A look takes as many rows as it may, and never waits."""

from __future__ import annotations

import random

import polars as pl

from dataflare.engine.taps import Tap, Taps
from dataflare.expr import check_condition
from dataflare.model.types import INT64, Schema

SCHEMA = Schema.of([("n", INT64)])


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def frame(first: int, rows: int) -> pl.DataFrame:
    return pl.DataFrame({"n": range(first, first + rows)})


def taken(tap: Tap) -> list[int]:
    tap.end()
    return [n for found in tap.rows(0.01) if found is not None for n in found["n"]]


def test_the_rate_is_kept_over_any_batches() -> None:
    rng = random.Random(5)
    for per_s in (0.5, 1.0, 10.0, 1000.0):
        clock = Clock()
        tap, seconds, first = Tap([1], per_s, now=clock), 20.0, 0
        got: list[int] = []
        while clock.now < seconds:
            rows = rng.choice([1, 5, 100])
            tap.take(frame(first, rows))
            first += rows
            clock.now += rng.uniform(0.01, 0.5)
            while not tap._found.empty():
                got += tap._found.get_nowait()["n"].to_list()
        assert len(got) <= per_s * clock.now + max(1.0, per_s)
        assert len(got) >= min(first / 10, per_s * seconds / 4)
        assert got == sorted(set(got))


def test_only_rows_for_which_the_condition_is_true() -> None:
    tap = Tap([1], 100, check_condition("n % 7 = 0", SCHEMA))
    tap.take(frame(0, 50))
    assert taken(tap) == list(range(0, 50, 7))


def test_a_look_that_is_not_read_drops_rows_and_still_ends() -> None:
    clock = Clock()
    tap = Tap([1], 10, now=clock)
    for n in range(1000):
        clock.now += 1
        tap.take(frame(n, 1))
    assert 0 < len(taken(tap)) < 1000


def test_each_look_gets_its_edges_until_it_is_removed() -> None:
    taps, one, both = Taps(), Tap([1], 100), Tap([1, 2], 100)
    assert not taps
    taps.add(one)
    taps.add(both)
    taps.take(1, frame(0, 1))
    taps.take(2, frame(1, 1))
    taps.remove(one)
    taps.take(1, frame(2, 1))
    taps.take(3, frame(3, 1))
    taps.end()
    assert (taken(one), taken(both), bool(taps)) == ([0], [0, 1, 2], False)


def test_many_batches_a_second_are_looked_at_a_few_times() -> None:
    """What is shown of a batch costs about as much as the batch."""
    clock, shown = Clock(), list[int]()

    def shows(rows: pl.DataFrame) -> pl.DataFrame:
        shown.append(rows.height)
        return rows

    tap = Tap([1], 100, hide=shows, now=clock)
    for n in range(1000):
        clock.now += 0.001
        tap.take(frame(n * 200, 200))
    assert len(shown) <= 12
    assert 150 < sum(shown) <= 200


def test_a_look_that_fails_is_ended_and_the_others_go_on() -> None:
    def fails(rows: pl.DataFrame) -> pl.DataFrame:
        raise OverflowError("too much")

    taps, broken, other = Taps(), Tap([1, 2], 100, hide=fails), Tap([1], 100)
    taps.add(broken)
    taps.add(other)
    taps.take(1, frame(0, 1))
    taps.take(1, frame(1, 1))
    assert list(broken.rows(0.01)) == []
    assert isinstance(broken.error, OverflowError)
    taps.take(2, frame(2, 1))
    assert (taken(other), other.error) == ([0, 1], None)
