"""Long chains and deep nesting are values, or refused with the bound, soon and without a crash."""

from __future__ import annotations

import pickle
import time
from datetime import UTC, datetime
from typing import Any

import polars as pl
import pytest

from dataflare.errors import ExpressionError
from dataflare.expr import check
from dataflare.model import types as t
from dataflare.model.text import SourceText, Variable
from dataflare.model.types import Schema

SCHEMA = Schema.of(
    {"i": "int64", "f": "float64", "s": "string", "p": "bool", "at": "timestamp[us, UTC]"}
)
DATA = pl.DataFrame(
    {"i": [1, None, 9_999], "f": [1.5, None, -1.0], "s": ["ab", None, ""], "p": [True, None, False],
     "at": [datetime(2024, 5, 31, 10, 20, tzinfo=UTC), None, datetime(1969, 12, 31, tzinfo=UTC)]},
    schema=SCHEMA.to_polars(),
)  # fmt: skip
SECONDS = 4.0
"""Of the processor, on a slow and busy machine; each of these takes a tenth of it, or never ended before."""


def values(text: Any) -> list[Any]:
    began = time.process_time()
    typed = check(text, SCHEMA)
    assert pickle.loads(pickle.dumps(typed)).node.flat() == typed.node.flat()
    lowered = typed.lower()
    typed.to_sql("sqlite")
    typed.conjuncts()
    error = pl.lit(None, pl.UInt8) if lowered.error is None else lowered.error
    columns = [lowered.value.alias("x"), error.alias("e")]
    out = DATA.lazy().with_columns(columns).collect()
    assert time.process_time() - began < SECONDS
    return ["ERROR" if e is not None else x for x, e in out.select("x", "e").iter_rows()]


def refused(text: str) -> ExpressionError:
    began = time.process_time()
    with pytest.raises(ExpressionError) as caught:
        check(text, SCHEMA)
    assert time.process_time() - began < SECONDS
    return caught.value


@pytest.mark.parametrize(
    ("text", "result"),
    [
        (" OR ".join(f"i = {n}" for n in range(3_000)), [True, None, False]),
        (" AND ".join(f"i <> {n}" for n in range(1, 3_000)), [False, None, True]),
        ("i" + " + 1" * 900, [901, None, 10_899]),
        ("i" + " + 9223372036854775807" * 500, ["ERROR", None, "ERROR"]),
        ("f" + " - 0.5e0" * 900, [-448.5, None, -451.0]),
        ("length(s" + " || s" * 900 + ")", [1802, None, 0]),
        ("CASE " + " ".join(f"WHEN i = {n} THEN {n}" for n in range(1, 2_000)) + " ELSE 0 END", [1, 0, 0]),
        ("CASE i " + " ".join(f"WHEN {n} THEN {n}" for n in range(3_000)) + " END", [1, None, None]),
        ("CASE " + " ".join(f"WHEN i // {n} = 1 THEN {n}" for n in range(900)) + " END", ["ERROR", None, "ERROR"]),
        (f"i IN ({', '.join(map(str, range(12_000)))})", [True, None, True]),
        (f"CAST(i AS decimal(9, 1)) IN ({', '.join(f'{n}.0' for n in range(4_000))})", [True, None, False]),
        (f"i IN (i + 1, {', '.join(map(str, range(3_000)))})", [True, None, False]),
        (f"coalesce({', '.join(['i // 2'] * 2_000)})", [0, None, 4_999]),
        (f"greatest({', '.join(['f'] * 1_000)})", [1.5, None, -1.0]),
    ],
    ids=lambda each: str(each)[:24],
)  # fmt: skip
def test_a_long_chain_is_a_value(text: str, result: list[Any]) -> None:
    assert values(text) == result


@pytest.mark.parametrize(
    ("opening", "closing", "result"),
    [
        ("(", ")", [1, None, 9_999]),
        ("abs(", ")", [1, None, 9_999]),
        ("nullif(", ", 7)", [1, None, 9_999]),
        ("coalesce(", ", 0)", [1, 0, 9_999]),
        ("if(p, ", ", 0)", [1, 0, 0]),
        ("CASE WHEN p THEN ", " END", [1, None, None]),
        ("CASE ", " WHEN 1 THEN 2 WHEN 2 THEN 1 END", [1, None, None]),
        ("CAST(CAST(", " AS string) AS int64)", [1, None, 9_999]),
        ("length(substr('abc', 1, ", "))", [1, None, 3]),
        ("- ", "", [1, None, 9_999]),
        ("greatest(", ", 0.5e0)", [1.0, 0.5, 9_999.0]),
    ],
)  # fmt: skip
def test_deep_nesting_is_a_value(opening: str, closing: str, result: list[Any]) -> None:
    depth = 60
    assert values(opening * depth + "i" + closing * depth) == result
    error = refused(opening * 1_000 + "i" + closing * 1_000)
    assert error.code == "E0209"
    assert "200" in error.message


@pytest.mark.parametrize(
    ("text", "bound"),
    [
        ("i" + " + 1" * 10_000, "1,000"),
        ("s" + " || s" * 10_000, "1,000"),
        ("i" + " IS NULL" * 5_000, "1,000"),
        (f"i IN ({', '.join(map(str, range(100_000)))})", "100,000"),
        ("[" * 1_000 + "i" + "]" * 1_000, "200"),
        ("NOT " * 1_000 + "p", "200"),
        (" OR ".join(f"i = {n}" for n in range(10_000)), "100,000"),
        ("CASE " + " ".join(f"WHEN i = {n} THEN {n}" for n in range(10_000)) + " END", "100,000"),
    ],
    ids=lambda each: str(each)[:24],
)
def test_what_is_larger_is_refused_with_the_bound(text: str, bound: str) -> None:
    error = refused(text)
    assert error.code == "E0209"
    assert bound in error.message
    assert error.help is not None


def test_many_variables_take_no_longer() -> None:
    names = [f"__{n:04d}__" for n in range(1_000)]
    template = " OR ".join(f"i = {name}" for name in names)
    variables = tuple(
        Variable(name, f"${{param:p{n}}}", n, t.INT64, False) for n, name in enumerate(names)
    )
    assert values(SourceText(template, template=template, variables=variables)) == [True, None, False]  # fmt: skip


def test_a_staged_expression_leaves_no_column_behind() -> None:
    lowered = check("i" + " + 1" * 900, SCHEMA).lower()
    assert DATA.with_columns(lowered.value.alias("x")).columns == [*DATA.columns, "x"]
    assert DATA[:0].select(lowered.value.alias("x")).schema == {"x": pl.Int64}


def test_a_staged_expression_without_columns_is_a_scalar() -> None:
    lowered = check("1" + " + 1" * 900, SCHEMA).lower()
    assert DATA.select(lowered.value.alias("x"))["x"].to_list() == [901]


@pytest.mark.parametrize(
    "function",
    ["time_bucket(INTERVAL '1 month', {})", "time_bucket(INTERVAL '15 minutes', {})", "date_trunc('decade', {})",
     "last_day({})", "CAST(substr(CAST({} AS string), 1, 19) AS timestamptz)", "({} + INTERVAL '1 month')"],
)  # fmt: skip
def test_a_function_that_reads_its_argument_often_may_be_nested(function: str) -> None:
    """As one tree, three such functions take all memory."""
    text = "at"
    for _ in range(4):
        text = function.format(text)
    assert len(str(check(text, SCHEMA).lower().value)) < 10_000
    assert len(values(text)) == 3
