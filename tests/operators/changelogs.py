"""Random changelogs, what is left of them, and what DuckDB says of that."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import duckdb
import polars as pl

from dataflare.model.batch import KIND_COLUMN, RowKind
from dataflare.model.types import Schema

Change = tuple[RowKind, tuple[Any, ...]]
Draw = Callable[[random.Random], tuple[Any, ...]]


def history(rng: random.Random, length: int, draw: Draw, *, key: int | None = None) -> list[Change]:
    """A valid changelog: what is deleted or updated is there. key: the place of a column that is unique."""
    there: list[tuple[Any, ...]] = []
    changes: list[Change] = []
    while len(changes) < length:
        row, what = draw(rng), rng.random()
        if what < 0.5 or not there:
            if key is None or all(other[key] != row[key] for other in there):
                there.append(row)
                changes.append((RowKind.INSERT, row))
            continue
        place = rng.randrange(len(there))
        before = there[place]
        if what < 0.75:
            if key is not None:
                row = (*row[:key], before[key], *row[key + 1 :])
            there[place] = row
            changes += [(RowKind.UPDATE_BEFORE, before), (RowKind.UPDATE_AFTER, row)]
        else:
            there.pop(place)
            changes.append((RowKind.DELETE, before))
    return changes


def left_of(changes: Iterable[Change]) -> list[tuple[Any, ...]]:
    """The rows that are there at the end."""
    there: Counter[tuple[Any, ...]] = Counter()
    for kind, row in changes:
        there[row] += -1 if kind in (RowKind.DELETE, RowKind.UPDATE_BEFORE) else 1
    assert all(count >= 0 for count in there.values())
    return [row for row, count in there.items() for _ in range(count)]


def frame_of(schema: Mapping[str, str], rows: Sequence[tuple[Any, ...]]) -> pl.DataFrame:
    return pl.DataFrame(list(rows), schema=Schema.of(schema).to_polars(), orient="row")


def changelog_of(schema: Mapping[str, str], changes: Sequence[Change]) -> pl.DataFrame:
    rows = frame_of(schema, [row for _, row in changes])
    kinds = pl.Series(KIND_COLUMN, [kind.value for kind, _ in changes], dtype=pl.UInt8)
    return rows.with_columns(kinds)


def cut(rng: random.Random, frame: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """Batches of random sizes that keep the halves of updates together."""
    start = 0
    while start < frame.height:
        stop = min(frame.height, start + rng.choice((1, 2, 5, 20)))
        if KIND_COLUMN in frame.columns and stop < frame.height:
            stop += int(frame[KIND_COLUMN][stop - 1] == RowKind.UPDATE_BEFORE)
        yield frame.slice(start, stop - start)
        start = stop


def applied(frames: Iterable[pl.DataFrame]) -> list[tuple[Any, ...]]:
    """The rows that are there after some changes, of any rows in any order."""
    there: Counter[str] = Counter()
    rows: dict[str, tuple[Any, ...]] = {}
    for frame in frames:
        kinds = frame[KIND_COLUMN].to_list() if KIND_COLUMN in frame.columns else [0] * frame.height
        for kind, row in zip(kinds, frame.drop(KIND_COLUMN, strict=False).rows(), strict=True):
            rows[repr(row)] = row
            there[repr(row)] += -1 if kind in (RowKind.DELETE, RowKind.UPDATE_BEFORE) else 1
    assert min(there.values(), default=0) >= 0, "something was taken back that was not there"
    return listed(rows[text] for text, count in there.items() for _ in range(count))


def listed(rows: Iterable[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    return sorted(rows, key=repr)


def asked(query: str, **tables: pl.DataFrame) -> list[tuple[Any, ...]]:
    """What DuckDB answers over these tables."""
    for name, frame in tables.items():
        _database().register(name, frame.to_arrow())
    return listed(_database().sql(query).pl().rows())


@cache
def _database() -> duckdb.DuckDBPyConnection:
    return duckdb.connect(config={"threads": 1})
