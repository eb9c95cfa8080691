"""`aggregate`, `deduplicate` and `limit`: steps that remember."""

from __future__ import annotations

from typing import Any

import duckdb
import polars as pl
import pytest
from flows import failure, flow, inline, ordered, picture, refused, result_of, rows_of
from hypothesis import given, settings
from hypothesis import strategies as st

SALES = [
    {"shop": "a", "n": 1, "price": 2.5},
    {"shop": "b", "n": 2, "price": None},
    {"shop": None, "n": 3, "price": 1.0},
    {"shop": "a", "n": None, "price": 4.0},
    {"shop": None, "n": 5, "price": 1.5},
]
NONE = inline([], schema="{shop: string, n: int64, price: float64}")


def totals(config: str, s: Any = SALES, **more: str) -> list[dict[str, Any]]:
    return ordered(
        result_of(f"step: {{type: aggregate, inputs: [s], config: {{{config}}}}}", s=s, **more)
    )


def test_measures_by_group_null_is_a_group():
    made = totals('group_by: [shop], measures: {rows: "count(*)", n: "sum(n)", mean: "avg(price)"}')
    assert made == [
        {"shop": "a", "rows": 2, "n": 1, "mean": 3.25},
        {"shop": "b", "rows": 1, "n": 2, "mean": None},
        {"shop": None, "rows": 2, "n": 8, "mean": 1.25},
    ]


def test_without_groups_one_row_comes_out():
    assert totals('measures: {rows: "count(*)", n: "max(n)"}') == [{"rows": 5, "n": 5}]
    assert totals('measures: {rows: "count(*)"}') == [{"rows": 5}]


def test_no_rows_make_one_row_or_no_groups():
    assert totals('measures: {rows: "count(*)", n: "sum(n)"}', s=NONE) == [{"rows": 0, "n": None}]
    assert totals('group_by: [shop], measures: {rows: "count(*)"}', s=NONE) == []


def test_groups_may_be_expressions_with_or_without_names():
    assert totals('group_by: ["n % 2"], measures: {rows: "count(*)"}')[0] == {"n % 2": 0, "rows": 1}
    assert totals('group_by: {odd: "n % 2 = 1"}, measures: {rows: "count(*)"}') == [
        {"odd": False, "rows": 1},
        {"odd": None, "rows": 1},
        {"odd": True, "rows": 3},
    ]


def test_groups_alone_are_the_distinct_values():
    assert totals("group_by: [shop], measures: {}") == [
        {"shop": "a"},
        {"shop": "b"},
        {"shop": None},
    ]


def test_a_measure_may_be_an_expression_over_several():
    made = totals("group_by: [shop], measures: {x: sum(n) * 10 + count(*), n: count(n)}")
    assert [row["x"] for row in made] == [12, 21, 82]


def test_a_measure_that_fails_fails_its_group():
    error = failure(
        "step: {type: aggregate, inputs: [s], config: {group_by: [k], measures: {t: sum(n)}}}",
        s=[{"k": 1, "n": 2**62}, {"k": 1, "n": 2**62}, {"k": 2, "n": 1}],
    )
    assert error.step == "step"
    skipped = result_of(
        "step: {type: aggregate, inputs: [s], config: {group_by: [k], measures: {t: sum(n)}}, "
        "error_handling: {on_error: skip}}",
        s=[{"k": 1, "n": 2**62}, {"k": 1, "n": 2**62}, {"k": 2, "n": 1}],
    )
    assert skipped == [{"k": 2, "t": 1}]


ROW = st.fixed_dictionaries(
    {
        "k": st.none() | st.sampled_from(["x", "y", "", "é"]),
        "j": st.none() | st.integers(-2, 2),
        "v": st.none() | st.integers(-(10**6), 10**6),
        "w": st.none() | st.sampled_from([0.0, -0.0, 1.5, -2.25, float("inf")]),
    }
)
MEASURES = {
    "rows": "count(*)",
    "some": "count(v)",
    "total": "sum(v)",
    "least": "min(w)",
    "most": "max(v)",
    "kinds": "count(DISTINCT w)",
    "when": "sum(v) FILTER (WHERE j > 0)",
}


@given(st.lists(ROW, min_size=1, max_size=40), st.sampled_from([["k"], ["j", "k"], ["w"], []]))
@settings(derandomize=True, deadline=None, max_examples=20)
def test_an_aggregate_is_what_a_database_says(rows: list[dict[str, Any]], keys: list[str]):
    measures = ", ".join(f'{name}: "{text}"' for name, text in MEASURES.items())
    step = f"step: {{type: aggregate, inputs: [s], config: {{group_by: {keys}, measures: {{{measures}}}}}}}"
    contract = "{k: string, j: int64, v: int64, w: float64}"
    made = rows_of(
        flow(
            step.replace("'", ""),
            s=inline(rows, schema=contract),
            settings="{parallelism: 3, batch: {initial: 3, min: 3, max: 3}}",
        )
    )
    frame = pl.DataFrame(  # noqa: F841  read by name
        rows, schema={"k": pl.String, "j": pl.Int64, "v": pl.Int64, "w": pl.Float64}
    )
    columns = ", ".join([*keys, *(f"{text} AS {name}" for name, text in MEASURES.items())])
    by = f"GROUP BY {', '.join(keys)}" if keys else ""
    wanted = duckdb.sql(f"SELECT {columns} FROM frame {by}").fetchall()

    def plain(values: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(0.0 if value == 0 else value for value in values)

    assert ordered([plain(tuple(row.values())) for row in made]) == ordered(
        [plain(row) for row in wanted]
    )


def test_the_first_row_of_each_key_stays():
    made = result_of("step: {type: deduplicate, inputs: [s], config: {key: shop}}", s=SALES)
    assert ordered(made) == ordered(SALES[:3])


def test_keys_of_several_columns_and_equal_floats():
    made = result_of(
        "step: {type: deduplicate, inputs: [s], config: {key: [a, b]}}",
        s=[{"a": 0.0, "b": 1}, {"a": -0.0, "b": 1}, {"a": 0.0, "b": None}, {"a": 0.0, "b": None}],
    )
    assert [(row["a"], row["b"]) for row in ordered(made)] == [(0.0, 1), (0.0, None)]


def test_deduplication_holds_over_batches_and_subtasks():
    rows = [{"k": (n * 7) % 23 if n % 5 else None, "n": n} for n in range(300)]
    made = result_of(
        "step: {type: deduplicate, inputs: [s], config: {key: k}}",
        s=rows,
        settings="{parallelism: 3, batch: {initial: 10, min: 10, max: 10}}",
    )
    firsts: dict[Any, dict[str, Any]] = {}
    for row in rows:
        firsts.setdefault(row["k"], row)
    assert ordered(made) == ordered(list(firsts.values()))


@pytest.mark.parametrize(("rows", "left"), [(0, 0), (3, 3), (99, 5)])
def test_a_limit_lets_the_first_rows_pass(rows: int, left: int):
    made = result_of(
        f"step: {{type: limit, inputs: [s], config: {{rows: {rows}}}}}",
        s=SALES,
        settings="{parallelism: 2, batch: {initial: 2, min: 2, max: 2}}",
    )
    assert made == SALES[:left]


def test_what_a_limit_or_a_deduplication_does_not_read_stays_away():
    made = result_of(
        "few: {type: limit, inputs: [s], config: {rows: 4}}\n"
        "once: {type: deduplicate, inputs: [few], config: {key: shop}}\n"
        "step: {type: map, inputs: [once], config: {select: [n]}}",
        s=SALES,
    )
    assert ordered(made) == [{"n": 1}, {"n": 2}, {"n": 3}]


@pytest.mark.parametrize(
    ("step", "code", "token"),
    [
        ("type: aggregate, inputs: [s], config: {measures: {x: sum(m)}}", "E0203", "m)"),
        ("type: aggregate, inputs: [s], config: {group_by: [shp], measures: {}}", "E0203", "shp"),
        ("type: aggregate, inputs: [s], config: {measures: {}}", "E0405", "aggregate"),
        ("type: aggregate, inputs: [s], config: {}", "E0404", "config"),
        ("type: aggregate, inputs: [s], config: {measures: {x: n + 1}}", "E02", "n"),
        (
            "type: aggregate, inputs: [s], config: {group_by: [n], measures: {n: count(*)}}",
            "E0311",
            "n: count",
        ),
        ("type: aggregate, inputs: [s], config: {group_by: [n, n], measures: {}}", "E0311", "n]"),
        (
            "type: aggregate, inputs: [s], config: {measures: {__dataflare_x: sum(n)}}",
            "E0310",
            "__dataflare_x",
        ),
        ("type: deduplicate, inputs: [s], config: {key: [shp]}", "E0203", "shp"),
        ("type: deduplicate, inputs: [s], config: {key: []}", "E0405", "deduplicate"),
        ("type: deduplicate, inputs: [s], config: {key: [n, n]}", "E0311", "n]"),
        ("type: deduplicate, inputs: [s], config: {key: n, within: 1h}", "E0331", "s]"),
        ("type: limit, inputs: [s], config: {rows: -1}", "E0405", "-1"),
    ],
)
def test_errors_point_to_the_very_word(step: str, code: str, token: str):
    header, _, line, carets, *_ = picture(f"step: {{{step}}}", s=SALES)
    assert header.startswith(f"error[{code}"), header
    assert line[carets.index("^") :].startswith(token)


ENDLESS = "{type: generate, config: {columns: {n: {sequence: 0}}}}"


def test_an_aggregate_of_an_endless_input_has_no_final_result():
    block = refused(
        "step: {type: aggregate, inputs: [s], config: {measures: {n: count(*)}, emit: final}}",
        s=ENDLESS,
    )
    assert block.startswith("error[E0316]")


def test_an_endless_source_elsewhere_does_not_matter():
    workflow = flow(
        "step: {type: aggregate, inputs: [s], config: {measures: {n: count(*)}}}",
        s=SALES,
        endless=ENDLESS,
        outputs={"out": "step", "other": "endless"},
    )
    from dataflare.planner import plan

    assert plan(workflow).graph.nodes["step"].schema.names == ("n",)
