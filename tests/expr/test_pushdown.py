"""What is spelled as SQL for a source answers there as it does here."""

from __future__ import annotations

import sqlite3
from typing import Any

import polars as pl
import pytest
from generate import expressions, frames
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import COLUMNS, SCHEMA, connection, frame, same

from dataflare.expr import Typed, check
from dataflare.model.types import Schema

PLAIN = ("i64", "j64", "s", "r", "f", "g")
TEMPLATES = (
    "{0} > 0 AND {1} <= 7", "{0} IN (1, -1, 7)", "NOT ({0} = {1})", "{2} = 'a'", "{2} <> {3}", "{2} < 'b'",
    "{2} IS NULL OR {0} IS NOT NULL", "{0} IS DISTINCT FROM {1}", "{0} BETWEEN -7 AND {1}", "{4} > 0.5e0",
    "{2} IN ('a', 'ABC', 'it''s')", "{0} NOT IN (1, NULL)", "{4} >= {5}", "{2} NOT IN ('a')", "{4} = {5}",
)  # fmt: skip


def ours(typed: Typed, data: pl.DataFrame) -> list[Any]:
    return data.with_columns(x=typed.lower().value)["x"].to_list()


@settings(settings.get_profile("expr"), max_examples=100)
@given(
    st.sampled_from(TEMPLATES),
    st.permutations(PLAIN[:2]),
    st.permutations(PLAIN[2:4]),
    frames(", ".join(PLAIN)),
)
def test_sqlite_answers_the_same(
    template: str, ints: list[str], texts: list[str], data: pl.DataFrame
) -> None:
    typed = check(template.format(*ints, *texts, "f", "g"), SCHEMA)
    sql = typed.to_sql("sqlite")
    assert sql is not None
    database = sqlite3.connect(":memory:")
    database.execute(
        "CREATE TABLE rows (n INTEGER, i64 INTEGER, j64 INTEGER, s TEXT, r TEXT, f REAL, g REAL)"
    )
    kept = data.filter(
        ~pl.any_horizontal(pl.col("f").is_nan(), pl.col("g").is_nan()).fill_null(False)
    )
    rows = [(n, *row) for n, row in enumerate(kept.select(PLAIN).rows())]
    database.executemany("INSERT INTO rows VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
    found = database.execute(f"SELECT {sql.text} FROM rows ORDER BY n", sql.params).fetchall()
    assert [None if x is None else bool(x) for (x,) in found] == ours(typed, kept)


@settings(settings.get_profile("expr"), max_examples=150)
@given(
    st.sampled_from(["bool", "int", "double"])
    .flatmap(expressions)
    .flatmap(lambda text: st.tuples(st.just(text), frames(text)))
)
def test_duckdb_answers_the_same(drawn: tuple[str, pl.DataFrame]) -> None:
    text, data = drawn
    typed = check(text, SCHEMA)
    sql = typed.to_sql("duckdb")
    if sql is None:
        return
    database = connection()
    database.register("rows", data.to_arrow())
    found = pl.from_arrow(
        database.sql(f"SELECT {sql.text} AS x FROM rows", params=list(sql.params)).to_arrow_table()
    )
    assert isinstance(found, pl.DataFrame)
    assert all(map(same, found["x"].to_list(), ours(typed, data)))


@pytest.mark.parametrize(
    ("text", "duckdb", "sqlite", "postgres"),
    [
        ("i64 > 5", '("i64" > 5)', '("i64" > 5)', '("i64" > 5)'),
        ("s >= 'a'", '("s" >= ?)', '("s" >= ?)', '("s" COLLATE "C" >= CAST(? AS text))'),
        ("p", '"p"', None, '"p"'),
        (
            "ts < '2024-01-01'",
            '("ts" < CAST(? AS TIMESTAMP))',
            None,
            '("ts" < CAST(? AS timestamp))',
        ),
        (
            "tz < '2024-01-01'",
            '("tz" < CAST(? AS TIMESTAMPTZ))',
            None,
            '("tz" < CAST(? AS timestamptz))',
        ),
        ("s LIKE 'a%'", '("s" LIKE ?)', None, "(\"s\" LIKE CAST(? AS text) ESCAPE '')"),
        ("i64 + 1 > 5", None, None, None),
        ("upper(s) = 'A'", None, None, None),
        ("now() > '2024-01-01'", None, None, None),
        ("CAST(s AS int64) = 1", None, None, None),
    ],
)
def test_what_is_pushed_down_and_what_is_not(
    text: str, duckdb: str | None, sqlite: str | None, postgres: str | None
) -> None:
    typed = check(text, SCHEMA)
    for dialect, expected in (("duckdb", duckdb), ("sqlite", sqlite), ("postgres", postgres)):
        sql = typed.to_sql(dialect)  # type: ignore[arg-type]
        assert (None if sql is None else sql.text) == expected


def test_a_name_is_quoted_and_one_with_a_question_mark_stays_here() -> None:
    schema = Schema.of({'a"b': "int64", "who?": "int64"})
    quoted = check('"a""b" = 1', schema).to_sql("sqlite")
    assert quoted is not None
    assert quoted.text == '("a""b" = 1)'
    assert check('"who?" = 1', schema).to_sql("sqlite") is None


def test_conjuncts_are_pushed_down_one_by_one() -> None:
    typed = check("i64 > 5 AND (upper(s) = 'A' AND f < 1e0)", SCHEMA)
    parts = typed.conjuncts()
    assert [part.columns for part in parts] == [{"i64"}, {"s"}, {"f"}]
    assert [part.to_sql("sqlite") is not None for part in parts] == [True, False, True]
    data = frame([dict.fromkeys(COLUMNS) | {"i64": 6, "s": "a", "f": 0.5}])
    assert [ours(part, data) for part in parts] == [[True], [True], [True]]
