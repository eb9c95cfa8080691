"""All forms and kinds of `join` whose inputs name their columns alike: each side has its own values, as two nested
loops over what is there say, after deletes and after updates that move a row to another key."""

from __future__ import annotations

from random import Random
from typing import Any

import polars as pl
import pytest
from changelogs import applied, listed
from timed_runs import Play, Row, split_of

from dataflare.model.batch import CHANGES, INSERTS, KIND_COLUMN, RowKind
from dataflare.model.event_time import TIME_COLUMN, WATERMARK_COLUMN
from dataflare.model.types import Schema
from dataflare.operators.join_interval import IntervalJoin
from dataflare.operators.join_pairs import Pairing, Reach
from dataflare.operators.join_shape import JoinShape, join_shape
from dataflare.operators.join_temporal import TemporalJoin
from dataflare.operators.join_updating import UpdatingJoin
from dataflare.state.tables import Tables

KINDS = ("inner", "left", "right", "full", "semi", "anti")
OWN = {"k": pl.Int64, "note": pl.Int64, "id": pl.Int64}
OTHER = {"id": pl.Int64, "note": pl.Int64, "k": pl.Int64}
"""Also the keys have names of columns of the other side that are none there."""

FORMS = [
    *(
        (form, kind, on)
        for form in ("updating", "interval")
        for kind in KINDS
        for on in ("k", "id")
    ),
    *(("temporal", kind, on) for kind in ("inner", "left") for on in ("k", "id")),
]
Changes = list[tuple[Row, RowKind]]


def shape_of(kind: Any, on: str) -> JoinShape:
    return join_shape(
        "tested", kind, {"k": on}, Schema.from_polars(OWN), Schema.from_polars(OTHER), "_r"
    )


def operator_of(form: str, shape: JoinShape) -> Any:
    if form == "interval":
        return IntervalJoin("tested", Pairing(shape, Reach(9, 9), True), ("k",))
    if form == "temporal":
        return TemporalJoin("tested", shape, ("k",), None, True, changes=True, accepts=CHANGES)
    return UpdatingJoin("tested", shape, ("k",), (INSERTS, CHANGES))


def rows_of(random: Random, columns: Any, start: int, step: int) -> list[Row]:
    """Rows with times that no other row has."""
    times = range(start, start + 12 * step, step)
    return [
        {"at": at, **{name: random.randint(0, 3) for name in columns}, "note": at} for at in times
    ]


def changes_of(random: Random, rows: list[Row], on: str) -> Changes:
    """Inserts of rows, of which some move to another key, as the engine gives them to a step, and some are
    deleted. No key changes twice at one time."""
    changes: Changes = []
    for row in rows:
        changes.append((row, RowKind.INSERT))
        end = row["at"] + random.choice((9, 27, 45))
        if random.random() < 0.7:
            changes.append(({**row, "at": end}, RowKind.DELETE))
            row = {**row, on: row[on] + 1, "at": end}
            changes.append((row, RowKind.INSERT))
        if random.random() < 0.5:
            changes.append(({**row, "at": end + 1}, RowKind.DELETE))
    return sorted(changes, key=lambda change: change[0]["at"])


def there_at(changes: Changes, at: int, key: int, on: str) -> list[Row]:
    """The row that the last change of a key left there."""
    of_key = [each for each in changes if each[0][on] == key and each[0]["at"] <= at]
    return [row for row, kind in of_key[-1:] if kind == RowKind.INSERT]


def expected(shape: JoinShape, left: list[Row], right: list[Row], pairs: Any) -> list[Any]:
    """What comes out, by two nested loops. pairs: whether two rows are one."""
    on = shape.right_keys[0]
    others = [name for name in OTHER if name != on]
    found = [(own, other) for own in left for other in right if pairs(own, other)]
    own_rows = [tuple(own[name] for name in OWN) for own in left]
    matched = [any(own is each for own, _ in found) for each in left]
    if shape.kind in ("semi", "anti"):
        wanted = shape.kind == "semi"
        return [
            row for row, is_matched in zip(own_rows, matched, strict=True) if is_matched == wanted
        ]
    rows = [(*(o[n] for n in OWN), *(other[n] for n in others)) for o, other in found]
    if shape.keeps_left:
        rows += [
            (*row, *(None for _ in others))
            for row, is_matched in zip(own_rows, matched, strict=True)
            if not is_matched
        ]
    if shape.kind in ("right", "full"):
        rows += [
            (*(row[on] if name == "k" else None for name in OWN), *(row[n] for n in others))
            for row in right
            if not any(row is other for _, other in found)
        ]
    return rows


def with_kinds(port: int, changes: Changes) -> Any:
    split = split_of(port, [row for row, _ in changes], OTHER if port else OWN, 10**6)
    kinds = pl.Series(KIND_COLUMN, [kind.value for _, kind in changes], dtype=pl.UInt8)
    split.rows = split.rows.with_columns(kinds)
    return split


@pytest.mark.parametrize(("form", "kind", "on"), FORMS)
def test_columns_of_one_name_are_those_of_their_own_side(form: str, kind: str, on: str) -> None:
    shape = shape_of(kind, on)
    for seed in range(6):
        random = Random(seed)
        left, right = rows_of(random, OWN, 1, 10), rows_of(random, OTHER, 0, 8)
        changes = changes_of(random, right, on)
        own = split_of(0, left, OWN, 10**6)
        if form == "updating":
            made = updated(operator_of(form, shape), own, with_kinds(1, changes))
            assert made == listed(
                expected(shape, left, standing(changes), lambda o, r: o["k"] == r[on])
            )
            continue
        other = with_kinds(1, changes) if form == "temporal" else split_of(1, right, OTHER, 10**6)
        made = Play(operator_of(form, shape), [own, other], random, 10**6).run().rows()
        if form == "interval":
            wanted = expected(
                shape, left, right, lambda o, r: o["k"] == r[on] and abs(o["at"] - r["at"]) <= 9
            )
        else:
            wanted = []
            for row in left:
                version = there_at(changes, row["at"], row["k"], on)
                wanted += expected(shape, [row], version, lambda *_: True)
        assert made == listed(wanted), seed


def standing(changes: Changes) -> list[Row]:
    """The rows that are there after all changes."""
    rows: list[Row] = []
    for change, kind in changes:
        row = {name: change[name] for name in OTHER}
        if kind == RowKind.INSERT:
            rows.append(row)
        else:
            rows.remove(row)
    return rows


def updated(operator: Any, *splits: Any) -> list[Any]:
    """What is there after all results of batches of both sides in turn."""
    live = operator.open(Tables())
    frames = []
    for start in range(0, max(split.rows.height for split in splits), 3):
        for port, split in enumerate(splits):
            batch = split.rows.slice(start, 3).drop(TIME_COLUMN, WATERMARK_COLUMN)
            if batch.height:
                frames += live.process(port, batch)
    return applied(frames)
