"""A few rows with a key go with the statement that merges them; they are there as if COPY had sent them."""

from __future__ import annotations

import math

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from postgres_kit import batch, run

from dataflare.connectors.postgres import few
from dataflare.errors import DataError
from dataflare.model.batch import KIND_COLUMN, RowKind, SharedDataBatch
from dataflare.model.types import Schema

SCHEMA = Schema.of({"id": "int64", "v": "string"})
_TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=6)
_ROWS = st.lists(
    st.tuples(
        st.integers(0, 5),
        st.none() | _TEXT | st.sampled_from(["'", "\\'", "');--", "NULL"]),
        st.sampled_from(
            [RowKind.INSERT, RowKind.UPDATE_BEFORE, RowKind.UPDATE_AFTER, RowKind.DELETE]
        ),
    ),
    min_size=1,
    max_size=12,
)


@pytest.fixture
def statements(monkeypatch):
    """Whether rows went with the merge, for each time that they might have."""
    made = []

    def noted(*arguments):
        made.append(few.few_rows(*arguments))
        return made[-1]

    monkeypatch.setattr("dataflare.connectors.postgres.store.few_rows", noted)
    return made


async def table(database, mode, frames, *, copied):
    """The rows of a table after an epoch with each of these frames."""
    database.execute("drop table if exists t", "drop table if exists _dataflare_epochs")
    step = await database.step(SCHEMA, is_changelog=True, mode=mode, key=["id"]).start()
    with pytest.MonkeyPatch.context() as patch:
        if copied:
            patch.setattr(few, "_ROWS_MAX", 0)
        for number, frame in enumerate(frames, 1):
            await step.epoch(number, SharedDataBatch(frame))
    await step.close()
    return database.rows("select id, v from t order by id")


@pytest.mark.parametrize("mode", ["mirror", "upsert"])
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(epochs=st.lists(_ROWS, min_size=1, max_size=3))
def test_they_are_there_as_if_they_were_copied(database, statements, mode, epochs):
    frames = [
        pl.DataFrame(
            {"id": [row[0] for row in rows], "v": [row[1] for row in rows]},
            schema={"id": pl.Int64, "v": pl.String},
        ).with_columns(pl.Series(KIND_COLUMN, [row[2].value for row in rows], dtype=pl.UInt8))
        for rows in epochs
    ]
    statements.clear()
    at_once = run(table(database, mode, frames, copied=False))
    is_row = mode == "mirror" or any(row[2].value in (0, 2) for rows in epochs for row in rows)
    assert any(statements) is is_row
    assert at_once == run(table(database, mode, frames, copied=True))


def test_a_float_keeps_its_sign_and_its_last_digit(database, statements):
    values = [-0.0, 0.1 + 0.2, 5e-324, math.inf, -math.inf, math.nan, None]

    async def go():
        schema = Schema.of({"id": "int64", "v": "float64"})
        step = await database.step(schema, mode="upsert", key=["id"]).start()
        await step.epoch(
            1, batch([{"id": n, "v": v} for n, v in enumerate(values)], id=pl.Int64, v=pl.Float64)
        )
        await step.close()

    run(go())
    assert any(statements)
    stored = [value for (value,) in database.rows("select v from t order by id")]
    assert list(map(repr, stored)) == list(map(repr, values))


def test_the_row_that_the_server_refuses_is_named(database, statements):
    database.execute("create table t (id bigint primary key, v text check (v <> 'bad'))")

    async def go():
        step = await database.step(SCHEMA, mode="upsert", key=["id"]).start()
        rows = [{"id": n, "v": "bad" if n == 7 else "good"} for n in range(20)]
        with pytest.raises(DataError) as caught:
            await step.prepare(1, batch(rows))
        assert any(statements)
        assert caught.value.notes[0] == "the row: id = '7'"
        await step.close()

    run(go())
    assert database.rows("select * from t") == []


def test_rows_that_come_later_in_an_epoch_follow_them(database, statements):
    async def go():
        step = await database.step(SCHEMA, mode="upsert", key=["id"]).start()
        await step.writer.write_batch(batch([{"id": 1, "v": "first"}]))
        await step.settle()
        rows = [{"id": n, "v": "second"} for n in range(1_500)]
        await step.epoch(1, batch(rows))
        await step.close()

    run(go())
    assert any(statements)
    assert database.rows("select count(*), min(v) from t") == [(1_500, "second")]


_DAYS = {
    "0001-12-31 BC": (-719_163, False),
    "0001-01-01": (-719_162, True),
    "9999-12-31": (2_932_896, True),
    "10000-01-01": (2_932_897, False),
}


@pytest.mark.parametrize("day", _DAYS)
def test_times_beyond_pythons_calendar_are_copied(database, statements, day):
    number, is_at_once = _DAYS[day]

    async def go():
        schema = Schema.of({"id": "int64", "v": "date"})
        step = await database.step(schema, mode="upsert", key=["id"]).start()
        date = pl.Series([number], dtype=pl.Int32).cast(pl.Date)
        await step.epoch(1, SharedDataBatch(pl.DataFrame({"id": [1], "v": date})))
        await step.close()

    run(go())
    assert any(statements) is is_at_once
    assert database.rows("select v::text from t") == [(day,)]
