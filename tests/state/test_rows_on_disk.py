"""Tables that are asked by key: the same rows in memory and on disk, through merges, crashes and rescales."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from dataflare.model.batch import KIND_COLUMN, RowKind
from dataflare.model.event_time import TIME_COLUMN
from dataflare.model.types import Schema
from dataflare.operators.join_shape import RIGHT, join_shape
from dataflare.operators.versions import Versions
from dataflare.state import hash_pages, pieces, row_run, row_runs
from dataflare.state.pieces import own_rows
from dataflare.state.tables import Tables
from dataflare.state.weighted import HASH, WEIGHT, WeightedRows, cancelled
from dataflare.testing.processors import InMemory

KEYS = {
    "an integer": (["k"], {"k": pl.Int64()}),
    "text and a decimal": (["k", "d"], {"k": pl.String(), "d": pl.Decimal(9, 2)}),
}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_runs, "RESTORED_ROWS", 20)
    monkeypatch.setattr(row_runs, "MERGED_RUNS", 3)
    monkeypatch.setattr(pieces, "SMALL_ROWS", 4)
    monkeypatch.setattr(hash_pages, "PAGE", 4)
    monkeypatch.setattr(hash_pages, "ASKED_MAX", 7)
    monkeypatch.setattr(row_run, "ASKED_MAX", 7)
    monkeypatch.setattr(row_run, "_SLICE_ROWS", 5)
    monkeypatch.setattr(row_run, "_READ_BYTES_MAX", 60)


def key_of(rng: random.Random, kind: str) -> dict[str, Any]:
    number = rng.choice((None, 1, 2, 3, *range(4, 40)))
    if kind == "an integer":
        return {"k": number}
    return {"k": None if number is None else f"key {number % 7}", "d": number}


class Subtasks:
    """The tables of a step, by key groups."""

    def __init__(self, keys: list[str], ttl_us: int | None, folder: Path) -> None:
        self.keys, self.ttl_us, self.folder, self.storage = keys, ttl_us, folder, InMemory()
        self.open(1, [])

    def open(self, subtasks: int, shares: list[Any]) -> None:
        self.tables = [
            Tables(n, subtasks, storage=self.storage, shares=shares, folder=self.folder)
            for n in range(subtasks)
        ]
        self.rows = [
            WeightedRows(t.rows("changes", self.keys), ttl_us=self.ttl_us) for t in self.tables
        ]

    def each(self, frame: pl.DataFrame) -> list[tuple[WeightedRows, pl.DataFrame]]:
        parts = [own_rows(frame, self.keys, n, len(self.rows)) for n in range(len(self.rows))]
        return [(rows, rows.hashed(part)) for rows, part in zip(self.rows, parts, strict=True)]

    def move(self, rng: random.Random) -> None:
        """Memory is short, or a crash and another parallelism."""
        action = rng.random()
        if action < 0.5:
            for tables in self.tables:
                tables.keep_within(10)
        elif action < 0.7:
            shares = [tables.store(tables.freeze()) for tables in self.tables]
            for tables in self.tables:
                tables.close()
            self.open(rng.randint(1, 3), shares)


@pytest.mark.parametrize("kind", KEYS)
@pytest.mark.parametrize("seed", range(2))
def test_weighted_rows_are_the_sum_of_their_changes(kind: str, seed: int, tmp_path: Path) -> None:
    rng = random.Random(f"{kind} {seed}")
    keys, types = KEYS[kind]
    schema = {**types, "v": pl.Int64(), WEIGHT: pl.Int64()}
    here: Counter[Any] = Counter()
    state = Subtasks(keys, None, tmp_path)
    for _ in range(24):
        delta = []
        for _ in range(rng.randrange(1, 9)):
            if here and rng.random() < 0.4:
                row = rng.choice([*here])
                here[row] -= 1
                here += Counter()
                delta.append((*row, -1))
            else:
                values = (*key_of(rng, kind).values(), rng.randrange(3))
                here[
                    pl.DataFrame([values], schema={**types, "v": pl.Int64()}, orient="row").row(0)
                ] += 1
                delta.append((*values, 1))
        frame = pl.DataFrame(delta, schema=schema, orient="row")
        for rows, part in state.each(frame):
            rows.add(part)
        asked = pl.DataFrame([key_of(rng, kind) for _ in range(5)], schema=types).unique()
        found: Counter[Any] = Counter()
        for rows, part in state.each(asked):
            had = rows.having(part[HASH].unique(maintain_order=True))
            if had is not None:
                had = had.join(part, on=keys, how="semi", nulls_equal=True)
                for *row, weight in cancelled(had).drop(HASH).rows():
                    found[tuple(row)] += weight
        wanted = {tuple(row) for row in asked.rows()}
        assert {r: n for r, n in found.items() if n} == {
            row: n for row, n in here.items() if row[: len(keys)] in wanted
        }
        state.move(rng)
    parts = [part for rows in state.rows for part in rows.parts()]
    total: Counter[Any] = Counter()
    for part in parts:
        for *row, weight in part.drop(HASH).rows():
            total[tuple(row)] += weight
    assert {row: n for row, n in total.items() if n} == dict(here)
    drained = [part.drop(HASH).rows() for rows in state.rows for part in rows.drain()]
    assert sum(map(len, drained)) == sum(part.height for part in parts)
    assert not any(t.freeze().runs["changes"][0] for t in state.tables)


def test_rows_on_disk_are_forgotten_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_runs, "MERGED_RUNS", 9)
    state = Subtasks(["k"], 100, tmp_path)
    for now in (0, 50, 90):
        frame = pl.DataFrame({"k": [1, 2, 3], "v": [now] * 3}).with_columns(pl.lit(1).alias(WEIGHT))
        for rows, part in state.each(frame.with_columns(pl.col(WEIGHT).cast(pl.Int64))):
            rows.add(part, now)
        state.tables[0].keep_within(10)
    (rows,) = state.rows
    hashes = state.each(pl.DataFrame({"k": [2]}))[0][1][HASH]
    for now, kept in ((90, [0, 50, 90]), (120, [50, 90]), (160, [90]), (200, [])):
        found = rows.having(hashes, now)
        assert (found["v"].sort().to_list() if found is not None else []) == kept
    rows.forget(130)
    assert rows.rows == 6
    rows.forget(300)
    assert (rows.rows, state.tables[0].num_bytes()) == (0, 0)


@pytest.mark.parametrize("seed", range(2))
def test_the_latest_version_is_found_on_disk_and_in_memory(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    left, right = Schema.of({"k": "int64"}), Schema.of({"id": "int32", "v": "string"})
    shape = join_shape("t", "inner", {"k": "id"}, left, right, None)
    storage = InMemory()

    def opened(shares: list[Any]) -> tuple[Tables, Versions]:
        tables = Tables(storage=storage, shares=shares, folder=tmp_path)
        return tables, Versions(tables.rows("versions", ("id",)), shape, None)

    tables, versions = opened([])
    latest: dict[int, tuple[str, bool]] = {}
    for time in range(40):
        rows = []
        for key in rng.sample(range(25), rng.randrange(1, 6)):
            is_there = rng.random() < 0.8
            latest[key] = (f"{key} at {time}", is_there)
            kind = RowKind.INSERT if is_there else RowKind.DELETE
            rows.append((key, latest[key][0], time, int(kind)))
        types = {
            "id": pl.Int32(),
            "v": pl.String(),
            TIME_COLUMN: pl.Int64(),
            KIND_COLUMN: pl.UInt8(),
        }
        versions.add(pl.DataFrame(rows, schema=types, orient="row"), time)
        asked = pl.DataFrame({"k": rng.sample(range(30), 9)}, schema={"k": pl.Int32()})
        asked = asked.rename({"k": shape.key_names[0]}).cast(
            pl.DataFrame(schema=types).select(shape.key_columns(RIGHT)).schema
        )
        found = versions.latest(asked)
        given = (
            {}
            if found is None
            else dict(found.filter(pl.col(KIND_COLUMN) == 0).select("id", "v").rows())
        )
        wanted = set(asked.to_series().to_list())
        assert given == {k: v for k, (v, there) in latest.items() if there and k in wanted}
        action = rng.random()
        if action < 0.3:
            tables.keep_within(10)
            assert tables.num_bytes() < 8_000
        elif action < 0.4:
            share = tables.store(tables.freeze())
            tables.close()
            tables, versions = opened([share])
    there = [row for frame in versions.all() for row in frame.select("id", "v").rows()]
    assert sorted(there) == sorted((k, v) for k, (v, is_there) in latest.items() if is_there)
