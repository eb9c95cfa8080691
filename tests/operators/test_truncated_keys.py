"""A TRUNCATE in front of a step that keeps the rows of each key: what was given goes, and nothing is remembered of it."""

from __future__ import annotations

import random
from typing import Any

import polars as pl
import pytest

from dataflare.model.batch import KIND_COLUMN, RowKind, truncation
from dataflare.operators.deduplicate_changes import DeduplicateChanges
from dataflare.operators.left_by_key import LeftByKey
from dataflare.state.tables import Tables

INSERT, DELETE = RowKind.INSERT, RowKind.DELETE
COLUMNS = {"id": pl.Int64(), "v": pl.String(), KIND_COLUMN: pl.UInt8()}
OPERATORS = {
    "left": LeftByKey("s", ("id",), True, None, "out"),
    "first": DeduplicateChanges("s", ("id",), False, None),
}


def changes(*rows: tuple[RowKind, int, str]) -> pl.DataFrame:
    given = [(id_, v, kind.value) for kind, id_, v in rows]
    return pl.DataFrame(given, schema=COLUMNS, orient="row")


def applied(copy: dict[int, str], frames: Any) -> None:
    """What a mirror by the key makes of it."""
    for frame in frames:
        for id_, v, kind in frame.select("id", "v", KIND_COLUMN).rows():
            if kind in (DELETE, RowKind.UPDATE_BEFORE):
                copy.pop(id_, None)
            else:
                copy[id_] = v


@pytest.mark.parametrize("name", OPERATORS)
def test_what_is_left_of_random_changes_with_truncations(name: str) -> None:
    for seed in range(60):
        rng, live, copy = random.Random(seed), OPERATORS[name].open(Tables()), dict[int, str]()
        there: list[tuple[int, str]] = []
        for _ in range(12):
            if rng.random() < 0.25:
                there.clear()
                applied(copy, live.process(0, truncation(COLUMNS)))
                assert copy == {}
                continue
            rows = []
            for _ in range(rng.randint(1, 6)):
                if there and rng.random() < 0.4:
                    rows.append((DELETE, *there.pop(rng.randrange(len(there)))))
                else:
                    there.append((rng.randrange(4), rng.choice("abc")))
                    rows.append((INSERT, *there[-1]))
            applied(copy, live.process(0, changes(*rows)))
            assert copy.keys() == {id_ for id_, _ in there}
            assert all((id_, v) in there for id_, v in copy.items())


def test_a_delete_of_a_row_that_never_came_is_forgotten() -> None:
    """Else the next row like it would not be given."""
    live = OPERATORS["left"].open(Tables())
    list(live.process(0, changes((DELETE, 1, "a"))))
    assert not list(live.process(0, truncation(COLUMNS)))
    [given] = live.process(0, changes((INSERT, 1, "a")))
    assert given.select("id", "v", KIND_COLUMN).rows() == [(1, "a", INSERT)]
    assert list(live.end(0)) == []
    assert not live.warnings()
