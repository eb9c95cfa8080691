"""`lookup`: columns of a table, found by key."""

from __future__ import annotations

import duckdb
import pytest
from flows import failure, flow, inline, ordered, picture, refused, result_of, rows_of
from hypothesis import given, settings
from hypothesis import strategies as st

ORDERS = [{"id": 1, "cust": 7}, {"id": 2, "cust": 9}, {"id": 3, "cust": None}, {"id": 4, "cust": 8}]
CUSTOMERS = [
    {"cust": 7, "name": "Ann", "rank": 1},
    {"cust": 8, "name": "Bob", "rank": None},
    {"cust": None, "name": "none", "rank": 0},
]
TWICE = [*CUSTOMERS, {"cust": 7, "name": "Anna", "rank": 2}]


def found(config: str, table: list[dict[str, object]] = CUSTOMERS) -> list[tuple[object, ...]]:
    made = result_of(
        f"step: {{type: lookup, inputs: [s], config: {{source: t, {config}}}}}", s=ORDERS, t=table
    )
    return [tuple(row.values()) for row in made]


def test_columns_are_added_and_a_null_key_matches_nothing():
    assert found("mapping: {key: cust}") == [
        (1, 7, "Ann", 1),
        (2, 9, None, None),
        (3, None, None, None),
        (4, 8, "Bob", None),
    ]


def test_rows_without_a_match_may_leave():
    assert found("mapping: {key: cust, fields: [name]}, on_miss: drop") == [
        (1, 7, "Ann"),
        (4, 8, "Bob"),
    ]


def test_fields_may_be_renamed_and_may_replace_a_column():
    assert found("mapping: {key: cust, fields: {who: name, id: rank}}") == [
        (7, "Ann", 1),
        (9, None, None),
        (None, None, None),
        (8, "Bob", None),
    ]


@pytest.mark.parametrize("many", ["first", "all"])
def test_a_field_may_replace_the_key(many: str):
    assert found(f"mapping: {{key: cust, fields: {{cust: name}}}}, on_many: {many}")[0] == (
        1,
        "Ann",
    )


def test_the_first_or_all_of_several_rows():
    assert found("mapping: {key: cust, fields: [name]}, on_many: first", TWICE)[0] == (1, 7, "Ann")
    assert found("mapping: {key: cust, fields: [name]}, on_many: all", TWICE) == [
        (1, 7, "Ann"),
        (1, 7, "Anna"),
        (2, 9, None),
        (3, None, None),
        (4, 8, "Bob"),
    ]


def test_on_miss_may_be_written_as_null():
    assert found("mapping: {key: cust, fields: [name]}, on_miss: null")[1] == (2, 9, None)


def test_several_rows_for_a_key_fail_the_row():
    error = failure(
        "step: {type: lookup, inputs: [s], config: {source: t, mapping: {key: cust}}}",
        s=ORDERS,
        t=TWICE,
    )
    assert error.code == "E0543"
    assert found("mapping: {key: cust, fields: [name]}, on_many: fail", TWICE[1:])[3][2] == "Bob"


@pytest.mark.parametrize("many", ["fail", "all"])
def test_a_miss_fails_the_run_where_the_step_says_so(many: str):
    error = failure(
        "step: {type: lookup, inputs: [s], error_handling: {on_error: skip}, config: "
        f"{{source: t, mapping: {{key: cust}}, on_miss: fail, on_many: {many}}}}}",
        s=ORDERS,
        t=CUSTOMERS,
    )
    assert error.code == "E0542"


def test_a_row_that_failed_before_stays_one_row():
    made = result_of(
        "bad: {type: map, inputs: [s], config: {derive: {x: 1 % (id - 1)}}, "
        "error_handling: {on_error: skip}}\n"
        "step: {type: lookup, inputs: [bad], config: "
        "{source: t, mapping: {key: cust, fields: [name]}, on_many: all, on_miss: drop}}",
        s=ORDERS,
        t=TWICE,
    )
    assert [row["id"] for row in made] == [4]


def test_keys_of_several_columns():
    made = result_of(
        "step: {type: lookup, inputs: [s], config: {source: t, "
        "mapping: {key: [a, b], remote_key: [x, y]}}}",
        s=[{"a": 1, "b": "p"}, {"a": 1, "b": "q"}, {"a": None, "b": "p"}, {"a": 2, "b": "p"}],
        t=[
            {"x": 1, "y": "q", "z": 10},
            {"x": 2, "y": "p", "z": 20},
            {"x": None, "y": "p", "z": 30},
        ],
    )
    assert [row["z"] for row in made] == [None, 10, None, 20]


def test_integers_of_other_widths_match():
    made = result_of(
        "step: {type: lookup, inputs: [s], config: {source: t, mapping: {key: k}, on_many: all}}",
        s=inline([{"k": 1}, {"k": 300}], schema="{k: int64}"),
        t=inline([{"k": 1, "v": "one"}, {"k": 44, "v": "not 300"}], schema="{k: uint8, v: string}"),
    )
    assert made == [{"k": 1, "v": "one"}, {"k": 300, "v": None}]


def test_an_empty_table_matches_nothing():
    made = result_of(
        "step: {type: lookup, inputs: [s], config: {source: t, mapping: {key: cust}}}",
        s=ORDERS,
        t=inline([{"cust": None, "name": "x"}], schema="{cust: int64, name: string}"),
    )
    assert [row["name"] for row in made] == [None] * 4


def test_a_table_may_be_described_in_the_step():
    made = result_of(
        "step: {type: lookup, inputs: [s], config: {source: {type: inline, rows: [{k: 7, v: yes}]}, "
        "mapping: {key: cust, remote_key: k, fields: [v]}}}",
        s=ORDERS,
    )
    assert [row["v"] for row in made] == ["yes", None, None, None]


KEYS = st.none() | st.integers(-3, 3) | st.integers(10**12, 10**12 + 2)


@given(
    st.lists(KEYS, min_size=1, max_size=12),
    st.lists(KEYS, min_size=1, max_size=12),
    st.sampled_from(["first", "all"]),
    st.sampled_from(["null", "drop"]),
)
@settings(derandomize=True, deadline=None, max_examples=20)
def test_a_lookup_is_a_left_join(keys, table_keys, many, miss):
    rows = [{"i": i, "k": k} for i, k in enumerate(keys)]
    table = [{"k": k, "v": i} for i, k in enumerate(table_keys)]
    made = rows_of(
        flow(
            "step: {type: lookup, inputs: [s], config: {source: t, mapping: {key: k}, "
            f"on_many: {many}, on_miss: {miss}}}}}",
            s=inline(rows, schema="{i: int64, k: int64}"),
            t=inline(table, schema="{k: int64, v: int64}"),
        )
    )
    with duckdb.connect() as database:
        database.execute("CREATE TABLE s (i BIGINT, k BIGINT); CREATE TABLE t (k BIGINT, v BIGINT)")
        database.executemany("INSERT INTO s VALUES (?, ?)", [list(row.values()) for row in rows])
        database.executemany("INSERT INTO t VALUES (?, ?)", [list(row.values()) for row in table])
        side = "t" if many == "all" else "(SELECT k, min(v) AS v FROM t GROUP BY k) t"
        kind = "LEFT" if miss == "null" else "INNER"
        wanted = database.execute(
            f"SELECT i, s.k, v FROM s {kind} JOIN {side} ON s.k = t.k"
        ).fetchall()
    assert ordered([tuple(row.values()) for row in made]) == ordered(wanted)


@pytest.mark.parametrize(
    ("config", "code", "token"),
    [
        ("{source: tt, mapping: {key: cust}}", "E0108", "tt"),
        ("{source: 5, mapping: {key: cust}}", "E0409", "5"),
        ("{source: {type: nosuch}, mapping: {key: cust}}", "E0401", "nosuch"),
        ("{source: t, mapping: {key: cus}}", "E0203", "cus}"),
        ("{source: t, mapping: {key: cust, remote_key: id}}", "E0203", "id}"),
        ("{source: t, mapping: {key: cust, fields: [nam]}}", "E0203", "nam]"),
        ("{source: t, mapping: {key: cust, fields: {x: nam}}}", "E0203", "nam}"),
        (
            "{source: t, mapping: {key: cust, fields: {__dataflare_x: name}}}",
            "E0310",
            "__dataflare_x",
        ),
        ("{source: t, mapping: {key: cust, fields: [name, name]}}", "E0311", "name]"),
        ("{source: t, mapping: {key: cust, remote_key: name}}", "E0204", "cust,"),
        ("{source: t, mapping: {key: [id, cust], remote_key: cust}}", "E0407", "cust}"),
        ("{source: t, mapping: {key: cust}, cache: {size: 5}}", "E0406", "lookup"),
        ("{source: t, mapping: {key: cust}, on_miss: dorp}", "E0405", "dorp"),
    ],
)
def test_errors_point_to_the_very_word(config: str, code: str, token: str):
    used = "" if "source: t," in config else "\nalso: {type: map, inputs: [t]}"
    header, _, line, carets, *_ = picture(
        f"step: {{type: lookup, inputs: [s], config: {config}}}{used}",
        s=ORDERS,
        t=CUSTOMERS,
        outputs={"out": "step", **({"more": "also"} if used else {})},
    )
    assert header.startswith(f"error[{code}]"), header
    assert line[carets.index("^") :].startswith(token)


def test_columns_of_both_sides_must_be_named():
    block = refused(
        "step: {type: lookup, inputs: [s], config: {source: t, mapping: {key: cust}}}",
        s=ORDERS,
        t=[{"cust": 1, "id": 5}],
    )
    assert block.startswith("error[E0311]: step 'step' would replace the column 'id' by that of t")
    assert "name the columns to add" in block


def test_a_table_without_end_is_refused():
    block = refused(
        "step: {type: lookup, inputs: [s], config: {source: t, mapping: {key: cust}}}",
        s=ORDERS,
        t="{type: generate, config: {columns: {cust: {sequence: 0}}}}",
    )
    assert block.startswith("error[E0317]: step 'step' looks up in 't', which has no end")
