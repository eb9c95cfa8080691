"""Approximate aggregates are as near as they say, in any split of the rows; `top` is the head of a sort."""

from __future__ import annotations

import random
from typing import Any

import polars as pl
import pytest
from test_merge import finished, merged, reduce, through_ipc

from dataflare.errors import ExpressionError
from dataflare.expr import check_measures
from dataflare.model.types import Schema

SCHEMA = Schema.of({"k": "int64", "x": "float64", "s": "string", "n": "int64"})


def frame(xs: list[Any], keys: int = 1) -> pl.DataFrame:
    rows = {"k": [n % keys for n in range(len(xs))], "x": xs, "s": [f"s{x}" for x in xs]}
    return pl.DataFrame({**rows, "n": range(len(xs))}, schema=SCHEMA.to_polars(), strict=False)


def measured(data: pl.DataFrame, measures: dict[str, str], parts: int = 7) -> list[dict[str, Any]]:
    """The measures by key, from that many partials, merged in two steps."""
    made = check_measures(measures, SCHEMA)
    size = -(-data.height // parts) or 1
    partials = [reduce(made, part, ["k"]) for part in data.iter_slices(size)]
    early = merged(made, [through_ipc(each) for each in partials[:3]], ["k"])
    state = merged(made, [early, *partials[3:]], ["k"])
    assert dict(state.select(made.state.names).schema) == dict(made.state.to_polars())
    return finished(made, state, ["k"])


@pytest.mark.parametrize("distinct", [0, 1, 2, 10, 100, 1_000, 10_000, 60_000])
@pytest.mark.parametrize("column", ["n", "s", "x"])
def test_distinct_values_are_counted_to_some_per_cent(distinct: int, column: str) -> None:
    chance = random.Random(distinct)
    xs = [float(n) for n in range(distinct)] + [
        float(chance.randrange(max(distinct, 1))) for _ in range(distinct)
    ]
    data = frame(xs or [0.0]).with_columns(n=pl.col("x").cast(pl.Int64))
    if not distinct:
        data = data.with_columns(
            pl.lit(None).cast(pl.Float64).alias("x"),
            s=pl.lit(None, pl.String),
            n=pl.lit(None, pl.Int64),
        )
    ((row),) = measured(
        data, {"a": f"approx_count_distinct({column})", "e": f"count_distinct({column})"}
    )
    assert row["e"] == distinct
    assert row["a"] == pytest.approx(distinct, rel=0.05)
    if distinct <= 100:
        assert abs(row["a"] - distinct) <= 2


@pytest.mark.parametrize("fraction", [0, 0.01, 0.5, 0.9, 0.999, 1])
def test_quantiles_are_near(fraction: float) -> None:
    chance = random.Random(7)
    xs: list[Any] = [chance.gauss(0, 100) for _ in range(4_000)] + [
        chance.expovariate(1e-6) for _ in range(1000)
    ]
    xs += [0.0] * 50 + [None] * 20 + [1e-300, 1e300, -1e300]
    chance.shuffle(xs)
    data = frame(xs, keys=3)
    for row in measured(data, {"q": f"approx_quantile(x, {fraction})"}):
        values = sorted(
            x for k, x in zip(data["k"], xs, strict=True) if k == row["k"] and x is not None
        )
        exact = values[int((len(values) - 1) * fraction)]
        assert row["q"] == pytest.approx(exact, rel=0.0101, abs=1e-299)


def test_special_values_have_their_places() -> None:
    xs = [float("nan"), float("inf"), float("-inf"), 0.0, 5.0]
    texts = {f"q{n}": f"approx_quantile(x, {n / 4})" for n in range(5)}
    (row,) = measured(frame(xs), texts)
    assert [row[f"q{n}"] for n in range(3)] == [float("-inf"), 0.0, pytest.approx(5, rel=0.01)]
    assert (row["q3"], str(row["q4"])) == (float("inf"), "nan")
    assert measured(frame([None, None]), texts)[0]["q2"] is None


@pytest.mark.parametrize("count", [1, 3, 100])
def test_the_top_is_the_head_of_a_sort(count: int) -> None:
    chance = random.Random(count)
    xs = [None if chance.random() < 0.1 else float(chance.randrange(10_000)) for _ in range(500)]
    data = frame(xs, keys=2)
    rows = measured(data, {"best": f"top(x, {count})", "names": f"top(s, x, {count})"})
    for row in rows:
        own = sorted(
            (x for k, x in zip(data["k"], xs, strict=True) if k == row["k"] and x is not None),
            reverse=True,
        )
        assert row["best"] == own[:count]
        assert row["names"] == [f"s{x}" for x in own[:count]]


@pytest.mark.parametrize(
    "text",
    [
        "top(x, 0)",
        "top(x, n)",
        "top(x)",
        "approx_quantile(x, 2)",
        "approx_quantile(s, 0.5)",
        "count_distinct()",
    ],
)
def test_wrong_calls_are_refused(text: str) -> None:
    with pytest.raises(ExpressionError):
        check_measures({"m": text}, SCHEMA)


def test_other_names_of_measures() -> None:
    (row,) = measured(frame([1.0, 2.0, None]), {"v": "var(x)", "a": "any(s)", "l": "array_agg(n)"})
    assert (row["v"], row["a"], row["l"]) == (0.5, "s1.0", [0, 1, 2])
