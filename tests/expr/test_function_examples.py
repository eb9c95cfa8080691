"""Each function's documented examples are true, and say what `dataflare functions` shows."""

from __future__ import annotations

from decimal import Decimal

import polars as pl
import pytest

from dataflare.errors import ExpressionError
from dataflare.expr import check, check_measures, function
from dataflare.expr.registry import functions
from dataflare.model.types import Schema

EXAMPLES = [(row.name, text, value) for row in functions() for text, value in row.examples]


@pytest.mark.parametrize(("name", "text", "value"), EXAMPLES, ids=[text for _, text, _ in EXAMPLES])
def test_an_example_gives_the_value_beside_it(name: str, text: str, value: object) -> None:
    typed = check(text, Schema(()))
    lowered = typed.lower()
    found = pl.DataFrame({"row": [1, 2]}).with_columns(x=lowered.value)["x"]
    assert found.dtype == typed.type.to_polars()
    got = found.to_list()
    assert got[0] == got[1]
    assert got[0] == value or (isinstance(got[0], Decimal) and str(got[0]) == value)


def test_there_are_more_than_a_hundred_functions_and_each_is_described() -> None:
    rows = functions()
    called = [row for row in rows if row.group != "operator"]
    assert len(called) > 100
    for row in rows:
        assert row.summary.endswith(".")
        assert row.signature
        assert row.group
        assert set(row.pushdown) == {"duckdb", "sqlite", "postgres"}
        assert set(row.pushdown.values()) <= {"exact", "guarded", "never"}


def test_each_function_shows_an_example_unless_it_needs_rows() -> None:
    bare = [
        r.name for r in functions() if not r.examples and r.group != "aggregate" and not r.needs
    ]
    assert bare == []


def test_a_function_is_found_by_its_alias_in_any_case() -> None:
    assert function("LEN").name == "length"
    assert function("substring").name == "substr"


def test_an_unknown_function_names_the_nearest() -> None:
    with pytest.raises(ExpressionError) as caught:
        function("uper")
    assert caught.value.code == "E0202"
    assert caught.value.help == "did you mean 'upper'?"


@pytest.mark.parametrize(
    "row", [r for r in functions() if r.group == "aggregate"], ids=lambda r: r.name
)
def test_each_aggregate_can_be_used_in_a_measure(row: object) -> None:
    arguments = {
        "count_if": "p", "bool_and": "p", "bool_or": "p", "string_agg": "s", "quantile": "x, 0.5",
        "quantile_cont": "x, 0.5", "arg_max": "x, s", "arg_min": "x, s",
        "approx_quantile": "x, 0.5", "top": "x, 2",
    }  # fmt: skip
    name = row.name  # type: ignore[attr-defined]
    schema = Schema.of({"x": "int64", "s": "string", "p": "bool"})
    made = check_measures({"m": f"{name}({arguments.get(name, 'x')})"}, schema)
    rows = pl.DataFrame({"x": [1, 2, None], "s": ["a", "b", None], "p": [True, None, True]})[
        [1, 2, 0]
    ]
    derived = rows.with_columns(**{n: t.lower().value for n, t in made.inputs})
    merged = derived.select(made.partial()).select(made.merge())
    assert dict(merged.schema) == dict(made.state.to_polars())
    out = merged.select(made.finish()["m"].value.alias("m"))
    assert dict(out.schema) == dict(made.output.to_polars())
    assert out["m"].null_count() == 0


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("CAST(2.5 AS int32)", 3),
        ("CAST(-2.5 AS int32)", -3),
        ("CAST(2.55 AS decimal(5, 1))", Decimal("2.6")),
        ("CAST(-2.55 AS decimal(5, 1))", Decimal("-2.6")),
        ("round(2.55, 1)", Decimal("2.6")),
        ("round(-25, -1)", -30),
    ],
)
def test_decimals_and_tens_are_rounded_half_away_from_zero(text: str, value: object) -> None:
    made = check(text, Schema(())).lower().value
    assert pl.DataFrame({"row": [1, 2]}).select(x=made)["x"].to_list()[0] == value


@pytest.mark.parametrize("text", ["current_date", "CURRENT_DATE", "current_timestamp"])
def test_the_clock_is_asked_without_parentheses_too(text: str) -> None:
    assert check(text, Schema(())).type == check(f"{text}()", Schema(())).type
