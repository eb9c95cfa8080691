"""Partials of any split of the rows, merged in any grouping, give what one pass over all gives."""

from __future__ import annotations

import decimal
import io
import itertools
from functools import partial
from typing import Any

import duckdb
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import same

from dataflare.expr import Aggregation, check_measures
from dataflare.model.types import Schema

SCHEMA = Schema.of(
    {"k": "int64", "i": "int64", "n": "int32", "f": "float64", "c": "decimal(10, 2)", "b": "decimal(38, 2)", "s": "string", "p": "bool"}
)  # fmt: skip
MEASURES = {
    "rows": "count(*)", "n_i": "count(i)", "n_s": "count(DISTINCT s)", "yes": "count_if(p)",
    "sum_n": "sum(n)", "sum_f": "sum(f)", "sum_c": "sum(c)", "avg_n": "avg(n)", "avg_f": "avg(f)", "avg_c": "avg(c)",
    "avg_b": "avg(b)", "min_i": "min(i)", "max_i": "max(i)", "min_f": "min(f)", "max_f": "max(f)", "max_s": "max(s)",
    "min_p": "min(p)", "first_s": "first(s)", "last_s": "last(s)", "any_s": "any_value(s)",
    "dev": "stddev(n)", "dev_pop": "stddev_pop(n)", "var": "var_samp(n)", "var_pop": "var_pop(n)", "med": "median(n)",
    "q_disc": "quantile(i, 0.25)", "q_cont": "quantile_cont(n, 0.9)", "all_p": "bool_and(p)", "one_p": "bool_or(p)",
    "joined": "string_agg(s, '-')", "gathered": "list(s)", "best": "arg_max(s, i)", "least": "arg_min(s, f)",
    "sum_different": "sum(DISTINCT n)", "sum_different_f": "sum(DISTINCT f)", "sum_different_b": "sum(DISTINCT c)",
    "avg_different": "avg(DISTINCT n)", "avg_different_b": "avg(DISTINCT b)", "most": "mode(s)", "most_n": "mode(p)",
    "joined_by": "string_agg(s, '-' ORDER BY n DESC, i, f, s)", "joined_different": "string_agg(DISTINCT s, ',' ORDER BY s DESC)",
    "gathered_by": "list(n ORDER BY n NULLS FIRST)", "gathered_different": "list(DISTINCT s ORDER BY s)",
    "best_some": "arg_max(s, i) FILTER (WHERE p)", "joined_some": "string_agg(s ORDER BY s) FILTER (WHERE p)",
    "some": "sum(n) FILTER (WHERE p)", "many": "count(*) FILTER (WHERE n > 0)", "ratio": "sum(n) / count(*) + 1",
    "mixed": "CASE WHEN count(*) > 2 THEN max(s) ELSE 'few' END",
}  # fmt: skip
_BY_ORDER = ("any_s", "first_s", "last_s", "most", "most_n")
"""What goes by the order of the rows, which DuckDB does not promise."""
ROWS = st.fixed_dictionaries(
    {
        "k": st.none() | st.integers(0, 2),
        "i": st.none() | st.integers(-(2**62), 2**62),
        "n": st.none() | st.integers(-(2**31), 2**31 - 1),
        "f": st.none() | st.sampled_from([0.5, -1.5, 1e3, float("nan"), 2.0]),
        "c": st.none() | st.decimals(-1000, 1000, places=2),
        "b": st.none() | st.decimals(-(10**30), 10**30, places=2),
        "s": st.none() | st.sampled_from(["a", "b", "é", ""]),
        "p": st.none() | st.booleans(),
    }
)


def frame(rows: list[dict[str, Any]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=SCHEMA.to_polars(), orient="row")


def reduce(made: Aggregation, data: pl.DataFrame, keys: list[str]) -> pl.DataFrame:
    derived = data.with_columns(**{name: each.lower().value for name, each in made.inputs})
    if not keys:
        return derived.select(made.partial())
    return derived.group_by(keys, maintain_order=True).agg(made.partial())


def merged(made: Aggregation, parts: list[pl.DataFrame], keys: list[str]) -> pl.DataFrame:
    stacked = pl.concat(parts)
    if not keys:
        return stacked.select(made.merge())
    return stacked.group_by(keys, maintain_order=True).agg(made.merge())


def finished(made: Aggregation, state: pl.DataFrame, keys: list[str]) -> list[dict[str, Any]]:
    final = made.finish()
    out = state.select([*keys, *(low.value.alias(name) for name, low in final.items())])
    assert dict(out.select(made.output.names).schema) == dict(made.output.to_polars())
    return out.sort(keys, nulls_last=True).to_dicts() if keys else out.to_dicts()


def through_ipc(state: pl.DataFrame) -> pl.DataFrame:
    target = io.BytesIO()
    state.write_ipc(target)
    target.seek(0)
    return pl.read_ipc(target)


@pytest.mark.parametrize("keys", [[], ["k"]], ids=["global", "by key"])
def test_merged_partials_equal_the_whole(keys: list[str]) -> None:
    made = check_measures(MEASURES, SCHEMA)

    @settings(settings.get_profile("expr"), max_examples=60)
    @given(st.lists(ROWS, max_size=20), st.lists(st.integers(0, 20), max_size=3))
    def law(rows: list[dict[str, Any]], cuts: list[int]) -> None:
        data = frame(rows)
        edges = [0, *sorted(min(cut, len(rows)) for cut in cuts), len(rows)]
        parts = [reduce(made, data[a:b], keys) for a, b in itertools.pairwise(edges)]
        for part in parts:
            assert dict(part.select(made.state.names).schema) == dict(made.state.to_polars())
        early = merged(made, [through_ipc(part) for part in parts[:2]], keys)
        assert dict(early.select(made.state.names).schema) == dict(made.state.to_polars())
        state = merged(made, [early, *parts[2:]], keys)
        whole = finished(made, merged(made, [reduce(made, data, keys)], keys), keys)
        assert all(map(partial(same, nearly=True), finished(made, state, keys), whole))

    law()


def test_the_mean_of_large_decimals_that_cancel_is_exact() -> None:
    made = check_measures({"mean": "avg(b)"}, SCHEMA)
    rows: list[dict[str, Any]] = [dict.fromkeys(SCHEMA.names) for _ in range(2)]
    rows[0]["b"] = decimal.Decimal("1000000000000000000000000000000.00")
    rows[1]["b"] = decimal.Decimal("-999999999999999999999998999961.62")
    assert finished(made, reduce(made, frame(rows), []), []) == [{"mean": 500019.19}]


def test_measures_mean_what_duckdb_means() -> None:
    made = check_measures(MEASURES, SCHEMA)
    database = duckdb.connect()
    picked = {name: text for name, text in MEASURES.items() if name not in _BY_ORDER}

    @settings(settings.get_profile("expr"), max_examples=60)
    @given(st.lists(ROWS, min_size=1, max_size=12))
    def law(rows: list[dict[str, Any]]) -> None:
        data = frame(rows)
        ours = finished(made, reduce(made, data, []), [])[0]
        database.register("rows", data.to_arrow())
        columns = ", ".join(f"{text} AS {name}" for name, text in picked.items())
        found = pl.from_arrow(database.sql(f"SELECT {columns} FROM rows").to_arrow_table())
        assert isinstance(found, pl.DataFrame)
        theirs = found.to_dicts()[0]
        assert {
            n: (ours[n], theirs[n]) for n in picked if not same(ours[n], theirs[n], nearly=True)
        } == {}

    law()


def test_a_sum_that_does_not_fit_is_an_error_of_the_group() -> None:
    made = check_measures({"total": "sum(i)", "wide": "sum(b)"}, SCHEMA)
    big = 2**62
    data = frame(
        [
            {"k": 1, "i": big, "b": 10**35 * 9},
            {"k": 1, "i": big, "b": 10**35 * 9},
            {"k": 2, "i": big - 1},
        ]
    )
    state = reduce(made, data, ["k"]).sort("k")
    total = made.finish()["total"]
    assert total.error is not None
    assert state.select(e=total.error)["e"].to_list() == [1, None]
    wide = made.finish()["wide"]
    assert wide.error is not None
    assert state.select(e=wide.error)["e"].to_list() == [1, None]


def test_equal_aggregates_share_their_state() -> None:
    made = check_measures({"a": "sum(n)", "b": "sum(n) / count(*)", "c": "count(*)"}, SCHEMA)
    assert len(made.state) == 2
    assert len(made.inputs) == 1


def test_nan_spread_is_an_error_and_not_a_number() -> None:
    made = check_measures({"dev": "stddev(f)"}, SCHEMA)
    state = reduce(made, frame([{"f": float("inf")}, {"f": 1.0}]), [])
    error = made.finish()["dev"].error
    assert error is not None
    assert state.select(e=error)["e"].to_list() == [1]


def test_of_the_most_frequent_values_the_one_that_came_first_is_taken() -> None:
    made = check_measures({"most": "mode(s)"}, SCHEMA)
    for texts, most in (
        (["b", "a", "a", "b"], "b"),
        (["x", None, None, "y", "y"], "y"),
        ([None], None),
    ):
        data = frame([{"s": text} for text in texts])
        parts = [reduce(made, data[:2], []), reduce(made, data[2:], [])]
        assert finished(made, merged(made, parts, []), []) == [{"most": most}]
