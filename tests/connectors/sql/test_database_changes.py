"""Upsert and mirror against a dictionary, for any changes in any batches and epochs."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from databases import Step, batch, rows, run
from hypothesis import given, settings
from hypothesis import strategies as st

from dataflare.model.batch import KIND_COLUMN, RowKind
from dataflare.model.types import Schema
from dataflare.sdk.sql.fold import fold

SCHEMA = Schema.of({"k": "int64", "g": "string", "v": "int64"})
KEYS = st.tuples(st.integers(0, 3), st.sampled_from(["a", "b"]))
OF_ROWS = [kind for kind in RowKind if kind is not RowKind.TRUNCATE]
EVENTS = st.lists(
    st.tuples(st.sampled_from(OF_ROWS), KEYS, st.none() | st.integers(0, 9)), max_size=25
)


def event_rows(events: list[Any]) -> tuple[list[dict[str, Any]], list[int]]:
    made = [{"k": key[0], "g": key[1], "v": value} for _, key, value in events]
    return made, [kind.value for kind, _, _ in events]


def applied(state: dict[Any, Any], events: list[Any], *, deletes: bool) -> dict[Any, Any]:
    """The plain meaning: one row after another."""
    state = dict(state)
    for kind, key, value in events:
        if kind in (RowKind.INSERT, RowKind.UPDATE_AFTER):
            state[key] = value
        elif deletes:
            state.pop(key, None)
    return state


@pytest.mark.parametrize("mode", ["upsert", "mirror"])
@settings(max_examples=12, deadline=None)
@given(epochs=st.lists(st.lists(EVENTS, max_size=3), min_size=1, max_size=3), lose=st.booleans())
def test_the_table_is_what_row_by_row_gives(kind, mode, epochs, lose):
    async def go(folder: Path) -> dict[Any, Any]:
        step = await Step(
            kind, folder, SCHEMA, mode=mode, key=["k", "g"], is_changelog=True
        ).start()
        for number, batches in enumerate(epochs, start=1):
            frames = [
                batch(*event_rows(events), k=pl.Int64, g=pl.String, v=pl.Int64)
                for events in batches
            ]
            made = await step.prepare(number, *frames)
            if lose:
                step.die()
            await step.commit(number, [made])
        await step.epoch(len(epochs) + 1, final=True)
        await step.close()
        return {(k, g): v for k, g, v in rows(kind, folder / "data.db", "select k, g, v from t")}

    with tempfile.TemporaryDirectory() as folder:
        found = run(go(Path(folder)))
    wanted: dict[Any, Any] = {}
    for batches in epochs:
        for events in batches:
            wanted = applied(wanted, events, deletes=mode == "mirror")
    assert found == wanted


@settings(max_examples=60, deadline=None)
@given(events=EVENTS)
def test_a_fold_is_the_last_event_of_each_key(events):
    made, kinds = event_rows(events)
    frame = pl.DataFrame(made, schema=SCHEMA.to_polars()).with_columns(
        pl.Series(KIND_COLUMN, kinds, dtype=pl.UInt8)
    )
    changes = fold(frame, ["k", "g"], deletes=True)
    state = applied({key: "old" for _, key, _ in events}, events, deletes=True)
    assert {(k, g): v for k, g, v in changes.upserts.rows()} == state
    assert {row[:2] for row in changes.deletes.rows()} == {key for _, key, _ in events} - set(state)


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.tuples(st.integers(0, 2), st.none() | st.integers(0, 4)), max_size=12),
    cuts=st.sets(st.integers(0, 12)),
)
def test_only_newer_rows_are_applied_whatever_the_batches(values, cuts):
    wanted: dict[int, Any] = {}
    for place, (key, sequence) in enumerate(values):
        stored = wanted.get(key)
        if stored is None or stored[0] is None or (sequence is not None and sequence > stored[0]):
            wanted[key] = (sequence, place)
    edges = sorted({0, len(values), *(cut for cut in cuts if cut < len(values))})
    found: dict[int, Any] = {}
    schema = {"k": pl.Int64, "s": pl.Int64, "p": pl.Int64}
    for start, end in itertools.pairwise(edges):
        rows_ = [(k, s, start + i) for i, (k, s) in enumerate(values[start:end])]
        frame = pl.DataFrame(rows_, schema=schema, orient="row")
        for key, sequence, place in fold(frame, ["k"], deletes=False, sequence="s").upserts.rows():
            stored = found.get(key)
            if (
                stored is None
                or stored[0] is None
                or (sequence is not None and sequence > stored[0])
            ):
                found[key] = (sequence, place)
    assert {k: v[0] for k, v in found.items()} == {k: v[0] for k, v in wanted.items()}


def test_a_row_that_is_not_newer_changes_nothing(kind, tmp_path):
    async def go():
        step = await Step(
            kind, tmp_path, SCHEMA, mode="mirror", key=["k", "g"], sequence="v", is_changelog=True
        ).start()
        first = [
            {"k": 1, "g": "a", "v": 5},
            {"k": 2, "g": "a", "v": 5},
            {"k": 3, "g": "a", "v": None},
        ]
        await step.epoch(1, batch(first))
        later = [
            {"k": 1, "g": "a", "v": 4}, {"k": 2, "g": "a", "v": 4}, {"k": 3, "g": "a", "v": 1},
            {"k": 4, "g": "a", "v": 7}, {"k": 4, "g": "a", "v": 6},
        ]  # fmt: skip
        await step.epoch(2, batch(later, kinds=[2, 3, 2, 0, 2]))
        await step.epoch(3, batch([{"k": 1, "g": "a", "v": 5}], kinds=[3]))
        await step.close()
        found = rows(kind, tmp_path / "data.db", "select k, v from t order by k")
        assert found == [(2, 5), (3, 1), (4, 7)]

    run(go())


def test_an_update_that_changes_the_key_moves_the_row(kind, tmp_path):
    async def go():
        step = await Step(
            kind, tmp_path, SCHEMA, mode="mirror", key=["k", "g"], is_changelog=True
        ).start()
        old, new = {"k": 1, "g": "a", "v": 1}, {"k": 9, "g": "a", "v": 1}
        await step.epoch(1, batch([old], kinds=[0]))
        await step.epoch(2, batch([old, new], kinds=[1, 2]), final=True)
        await step.close()
        assert rows(kind, tmp_path / "data.db", "select k from t") == [(9,)]

    run(go())
