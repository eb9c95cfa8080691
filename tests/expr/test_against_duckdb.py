"""The meaning is DuckDB's: drawn expressions over drawn rows give the same, errors included."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest
from generate import LEAVES, expressions, frames
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import ERROR, SCHEMA, differences, frame, our_values

from dataflare.expr import check

KINDS = tuple(LEAVES)


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_each_row_gives_what_duckdb_gives(kind: str, depth: int) -> None:
    @settings(settings.get_profile("expr"), max_examples=90 if depth == 1 else 60)
    @given(expressions(kind, depth).flatmap(lambda text: st.tuples(st.just(text), frames(text))))
    def law(drawn: tuple[str, pl.DataFrame]) -> None:
        text, rows = drawn
        assert differences(text, rows, lenient=depth > 1) == []

    law()


@pytest.mark.parametrize(
    ("text", "values"),
    [
        # what is not evaluated cannot fail
        ("CASE WHEN i64 = 0 THEN 0 ELSE 10 // i64 END", [0, 5, None, 10]),
        ("i64 <> 0 AND 10 // i64 > 5", [False, False, None, True]),
        ("i64 = 0 OR 10 // i64 > 5", [True, False, None, True]),
        ("COALESCE(j64, 10 // i64)", [7, 7, None, 10]),
        ("if(i64 = 0, NULL, 10 // i64)", [None, 5, None, 10]),
        ("CASE i64 WHEN 0 THEN 0 WHEN 2 THEN CAST('x' AS int) ELSE 1 END", [0, ERROR, 1, 1]),
        # what is evaluated can
        ("10 // i64", [ERROR, 5, None, 10]),
        ("10 // i64 > 5 AND i64 <> 0", [ERROR, False, None, True]),
        ("COALESCE(10 // i64, 0)", [ERROR, 5, 0, 10]),
        ("i64 % 0", [ERROR, ERROR, None, ERROR]),
        ("TRY_CAST(10 // i64 AS int8)", [ERROR, 5, None, 10]),
    ],
)
def test_an_error_counts_only_where_it_is_evaluated(text: str, values: list[object]) -> None:
    data = frame([{"i64": 0, "j64": 7}, {"i64": 2, "j64": 7}, {"i64": None}, {"i64": 1}])
    assert our_values(text, data) == values


@pytest.mark.parametrize(
    "text",
    [
        "i64 + 9223372036854775807", "i64 * 4611686018427387904", "-j64", "abs(i8)", "i8 * j8",
        "CAST(f AS int8)", "sqrt(f)", "ln(g)", "dec * 99999999999999999999999999999.5", "repeat(s, i64)",
        "substr(s, i64, j64)", "left(s, i64)", "split_part(s, ',', i64)", "lpad(s, 5, '')", "chr(65)",
        "decode(unhex(s))", "from_base64(s)", "json_extract(s, '$.a')", "json_extract_string(s, '$[0]')",
        "json_keys(s)", "json_exists(s, '$.a')", "make_date(i64, j64, i64)", "make_timestamp(i64)", "year(make_timestamp(i64))",
        "make_timestamp(i64) + INTERVAL '1 month'", "date_trunc('month', make_timestamp(i64))",
        "strftime(make_timestamp(i64), '%Y')", "CAST(make_timestamp(i64) AS string)", "d + i64", "last_day(d + i64)",
        "CAST(make_timestamp(i64) AS date)", "make_timestamp(i64) AT TIME ZONE 'Europe/Paris'",
        "hour(CAST(make_timestamp(i64) AS timestamp[us, Europe/Paris]))", "CAST(make_timestamp(i64) AS timestamp[ns])",
        "epoch_ns(make_timestamp(i64))", "time_bucket(INTERVAL '1 month', make_timestamp(i64))",
        "strptime(s, '%Y-%m-%d')", "CAST(s AS timestamp)", "CAST(s AS timestamptz)", "CAST(s AS time)", "CAST(s AS decimal(5, 2))",
        "regexp_extract(s, '(a)(b)?', 2)", "[1, 2][i64]", "[1, 2, 3][i64:j64]", "list_sum([i64, j64])",
        "make_timestamp(i64) - make_timestamp(j64)", "INTERVAL (i64) HOUR", "to_timestamp(f)", "to_timestamp(i64)",
        "date_diff('second', make_timestamp(i64), make_timestamp(j64))", "round(i64, -18)", "round(dek, -3)",
    ],
)  # fmt: skip
def test_no_row_raises_whatever_is_in_it(text: str) -> None:
    low, high = -(2**63), 2**63 - 1
    texts = [
        "",
        "é",
        "{",
        '{"a": 1}',
        "999999999-99-99",
        "2024-02-30",
        "\x00",
        "=" * 100,
        "12345678901234567890",
    ]
    rows = [
        {"i64": a, "j64": b, "i8": -128, "j8": -128, "f": f, "g": f, "s": texts[n % len(texts)]}
        for n, (a, b) in enumerate(
            (a, b) for a in (low, -1, 0, 1, 7, 10**15, high, None) for b in (low, 0, 2, high)
        )
        for f in (float("nan"), float("inf"), -1e308, 1e18)
    ]
    from oracle import SCHEMA

    from dataflare.expr import check

    typed = check(text, SCHEMA)
    lowered = typed.lower()
    outputs = [lowered.value.alias("x")] + (
        [] if lowered.error is None else [lowered.error.alias("e")]
    )
    data = frame([row | {"d": None, "dek": None, "dec": None} for row in rows])
    found = data.with_columns(d=pl.lit(19_000, dtype=pl.Int32).cast(pl.Date)).with_columns(outputs)
    assert found["x"].dtype == typed.type.to_polars()
    assert found.height == len(rows)


@pytest.mark.parametrize("engine", ["in-memory", "streaming"])
@pytest.mark.parametrize(
    "text",
    ["5 > week(d)", "-2 < year(d)", "3 = year(d)", "3 <> year(d)", "7 IN (year(d), i64)", "5 BETWEEN year(d) AND 9",
     "7 IS DISTINCT FROM year(d)", "nullif(7, year(d))", "CASE 7 WHEN year(d) THEN 1 END", "'x' < upper(s)",
     "TRY_CAST((-2.50 / 1) AS SMALLINT) BETWEEN week(d) AND -1", "1.5 >= round(dec, 1)", "true = (i8 > 3)"],
)  # fmt: skip
def test_a_batch_whose_column_is_null_keeps_its_rows(text: str, engine: Any) -> None:
    """Polars compares a literal with such an expression to a single row."""
    data = frame([{}, {}, {}])
    lowered = check(text, SCHEMA).lower()
    assert data.lazy().select(lowered.value.alias("x")).collect(engine=engine).height == 3
    assert data.lazy().with_columns(lowered.value.alias("x")).collect(engine=engine).height == 3


@pytest.mark.parametrize("text", ["replace('xab', 'ab', r)", "(replace('', 'ab', r) BETWEEN 'a' AND 'b')", "replace(s, 'a', r)",
                                  "replace(s, 'a', NULL)", "replace(s, '', r)", "replace(s, 'a', '')"])  # fmt: skip
def test_the_new_text_of_replace_may_be_null(text: str) -> None:
    data = frame([{"s": "a,a", "r": ""}, {"s": "aa", "r": "bb"}, {"s": "b", "r": None}, {"r": "x"}])
    assert differences(text, data) == []


@pytest.mark.parametrize("engine", ["in-memory", "streaming"])
@pytest.mark.parametrize("height", [1, 2, 900])
def test_a_quotient_is_rounded_once(height: int, engine: Any) -> None:
    """3 / 10 is 0.3 to the last digit, in a batch of any size. The oracle's `same` would not see it."""
    wholes = list(range(3, 3 + height))
    data = frame([{"f": float(n), "i64": n} for n in wholes])
    for text, exact in {
        "f / 10": [n / 10 for n in wholes],
        "i64 / 100": [n / 100 for n in wholes],
        "f / i64": [1.0 for _ in wholes],
        "1 / f": [1 / n for n in wholes],
        "f // 10.0e0": [n / 10 for n in wholes],
        "round(f / 7, 1)": [round(n / 7, 1) for n in wholes],
        "epoch(make_timestamp(i64 * 1001))": [n * 1001 / 1e6 for n in wholes],
    }.items():
        made = data.lazy().select(x=check(text, SCHEMA).lower().value).collect(engine=engine)
        assert made["x"].to_list() == exact, text
