"""`join` of changelogs that has changed: what it keeps, and for how long, goes on where no result could be wrong."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import polars as pl
import pytest
from changed_steps import changed
from changelogs import applied

from dataflare.jobs.changes import StepChange
from dataflare.model.batch import CHANGES, INSERTS, KIND_COLUMN
from dataflare.model.types import Schema
from dataflare.operators import join_updating
from dataflare.state.tables import Tables, TableShare
from dataflare.testing.build import processor_of
from dataflare.testing.processors import InMemory

LEFT, RIGHT = {"k": "int64", "a": "int64"}, {"id": "int64", "b": "int64"}
HOUR = 3_600_000_000


class Clock:
    now = 1_000 * HOUR

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    clock = Clock()
    monkeypatch.setattr(join_updating, "now_us", clock)
    return clock


def operator_of(left: dict[str, str] = LEFT, kinds: Any = (CHANGES, CHANGES), **more: Any) -> Any:
    schemas = Schema.of(left), Schema.of(RIGHT)
    config = {"on": {"k": "id"}, **more}
    return processor_of("join", config, *schemas, kinds=kinds).operator


class Half:
    """A join that stops after some rows, and goes on as another one."""

    def __init__(self, operator: Any) -> None:
        self.operator, self.results = operator, []
        self.storage = InMemory()
        self._open([])

    def _open(self, shares: list[TableShare]) -> None:
        self.tables = Tables(storage=self.storage, shares=shares)
        self.live = self.operator.open(self.tables)

    def rows(self, port: int, kind: int | None, *rows: tuple[Any, ...]) -> list[Any]:
        schema = self.operator.shape.schema_of(port).to_polars()
        frame = pl.DataFrame(rows, schema=schema, orient="row")
        if kind is not None:
            frame = frame.with_columns(pl.lit(kind, pl.UInt8).alias(KIND_COLUMN))
        found = list(self.live.process(port, frame))
        self.results += found
        return sorted(applied(found))

    def go_on(self, operator: Any) -> StepChange:
        layouts = [each.layout([]) for each in (self.operator, operator)]
        share = self.tables.store(self.tables.freeze())
        change, moved = changed((self.operator, layouts[0]), (operator, layouts[1]), [share])
        if change.outcome != "impossible":
            self.operator = operator
            self._open(moved)
        return change


@pytest.mark.parametrize(
    ("before", "after", "found", "word"),
    [
        ("2h", "2h", [2, 3], ""),
        ("2h", "5h", [2, 3], "older than 2h are forgotten already"),
        ("5h", "2h", [2, 3], "older than 2h are forgotten"),
        ("5h", "5h", [1, 2, 3], ""),
        (None, "2h", [1, 2, 3], "are forgotten 2h from now on"),
    ],
)
def test_another_time_to_live(
    clock: Clock, before: str | None, after: str, found: list[int], word: str
) -> None:
    half = Half(operator_of(ttl=before))
    for number in (1, 2):
        half.rows(0, 0, (7, number))
        clock.now += 3 * HOUR // 2
    change = half.go_on(operator_of(ttl=after))
    assert change.outcome == ("migrated" if word else "kept")
    assert word in change.detail
    half.rows(0, 0, (7, 3))
    assert half.rows(1, 0, (7, 10)) == [(7, n, 10) for n in found]
    clock.now += 9 * HOUR
    assert half.rows(1, 0, (7, 11)) == []


def test_rows_that_are_forgotten_cannot_be_kept_for_ever(clock: Clock) -> None:
    half = Half(operator_of(ttl="1h"))
    half.rows(0, 0, (7, 1))
    change = half.go_on(operator_of())
    assert (change.outcome, "kept for ever now" in change.detail) == ("impossible", True)


def test_a_delete_of_a_forgotten_row_takes_no_other_row_back(clock: Clock) -> None:
    half = Half(operator_of(ttl="1h"))
    half.rows(0, 0, (7, 1))
    half.rows(1, 0, (7, 10))
    clock.now += 2 * HOUR
    half.go_on(operator_of(ttl="3h"))
    half.rows(0, 3, (7, 1))
    half.rows(1, 0, (7, 11))
    half.rows(0, 0, (7, 2))
    assert (7, 2, 11) in applied(half.results)
    assert (7, 1, 11) not in applied(half.results)


def test_a_new_column_is_null_in_rows_that_stay_and_refused_for_rows_that_may_go(
    clock: Clock,
) -> None:
    wider = {**LEFT, "x": "int64"}
    half = Half(operator_of(kinds=(INSERTS, CHANGES), ttl="1h"))
    half.rows(0, None, (7, 1))
    assert half.go_on(operator_of(wider, kinds=(INSERTS, CHANGES), ttl="1h")).outcome == "migrated"
    half.rows(0, None, (7, 2, 5))
    assert half.rows(1, 0, (7, 10)) == [(7, 1, None, 10), (7, 2, 5, 10)]
    half = Half(operator_of())
    half.rows(0, 0, (7, 1))
    change = half.go_on(operator_of(wider))
    assert change.outcome == "impossible"
    assert "column 'x' is new in rows that it keeps" in change.detail
