"""`join` of inputs that end: the rows are those of DuckDB, whatever the cuts, the crashes and the memory."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any
from unittest import mock

import duckdb
import polars as pl
import pytest
from flows import inline, ordered, picture, refused, result_of
from hypothesis import given, settings
from hypothesis import strategies as st

from dataflare.model.types import Schema
from dataflare.operators import join_parts, join_rows
from dataflare.testing import check_processor
from dataflare.testing.build import ProcessorUnderTest, processor_of
from dataflare.testing.processors import Run, Subtask, joined

pytestmark = pytest.mark.rotates(2)

KINDS = ("inner", "left", "right", "full", "semi", "anti")

LEFT = {"k": "int32", "s": "string", "a": "int64"}
RIGHT = {"s": "string", "id": "int64", "b": "float64"}


def join_of(kind: str, left: dict[str, str] = LEFT, right: dict[str, str] = RIGHT) -> Any:
    config = {"kind": kind, "on": {"k": "id", "s": "s"}}
    return processor_of("join", config, Schema.of(left), Schema.of(right))


def frame(schema: dict[str, str], rows: list[tuple[Any, ...]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=Schema.of(schema).to_polars(), orient="row")


def duckdb_join(kind: str, left: pl.DataFrame, right: pl.DataFrame) -> pl.DataFrame:
    """The same join as SQL says it."""
    on = "l.k = r.id AND l.s = r.s"
    if kind in ("semi", "anti"):
        query = f"SELECT l.* FROM l WHERE {'NOT ' * (kind == 'anti')}EXISTS (SELECT 1 FROM r WHERE {on})"
    else:
        query = (
            "SELECT coalesce(l.k, r.id)::BIGINT AS k, coalesce(l.s, r.s) AS s, l.a, r.b "
            f"FROM l {kind} JOIN r ON {on}"
        )
    with duckdb.connect() as connection:
        connection.register("l", left.to_arrow())
        connection.register("r", right.to_arrow())
        return connection.sql(query).pl()


def ran(step: ProcessorUnderTest, *frames: pl.DataFrame, size: int = 7) -> pl.DataFrame:
    run = Run(step.operator, frames)
    live = Subtask("", run)
    out = [rows for batch in run.batches(size) for rows in live.process(*batch)]
    return joined([*out, *live.results()])


def listed(rows: pl.DataFrame) -> list[Any]:
    return sorted(rows.rows(), key=repr)


keys = st.one_of(st.none(), st.integers(0, 4))
texts = st.one_of(st.none(), st.sampled_from(["x", "y"]))
left_rows = st.lists(st.tuples(keys, texts, st.integers(0, 9)), max_size=30)
right_rows = st.lists(st.tuples(texts, keys, st.floats(0, 9)), max_size=30)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25, deadline=None)
@given(left=left_rows, right=right_rows, small=st.booleans())
def test_a_join_gives_the_rows_of_duckdb(kind, left, right, small):
    frames = frame(LEFT, left), frame(RIGHT, right)
    with (
        mock.patch.object(join_parts, "PART_BYTES", 100 if small else 2**20),
        mock.patch.object(join_rows, "CHUNK_ROWS", 3 if small else 10**6),
    ):
        actual = ran(join_of(kind), *frames)
    wanted = duckdb_join(kind, *frames)
    assert listed(actual) == listed(wanted)


@pytest.mark.parametrize("small", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_join_keeps_the_laws_of_steps_with_state(kind, small):
    left = frame(LEFT, [(i % 7 or None, "xy"[i % 2], i) for i in range(60)])
    right = frame(RIGHT, [("xyz"[i % 3], i % 9 or None, i / 2) for i in range(40)])
    with (
        mock.patch.object(join_parts, "PART_BYTES", 200 if small else 2**20),
        mock.patch.object(join_rows, "CHUNK_ROWS", 20 if small else 10**6),
    ):
        asyncio.run(check_processor(join_of(kind), left, right))


BIG = 2**63

KEYS = {
    "integers of other widths": (("int32", [1, 2, -1]), ("int64", [1, 2**40, -1]), [1, -1]),
    "signed and not": (("int64", [-1, 5]), ("uint64", [2**64 - 1, 5, BIG]), [5]),
    "unsigned": (("uint32", [7, 8]), ("uint64", [7, 2**64 - 1]), [7]),
    "floats": (
        ("float32", [0.5, -0.0, float("nan")]),
        ("float64", [0.5, 0.0, float("nan"), 0.1]),
        [0.5, -0.0, float("nan")],
    ),
    "decimals": (
        ("decimal(38, 0)", [Decimal(10) ** 37, Decimal(2)]),
        ("decimal(12, 4)", [Decimal("2.0000"), Decimal("2.5")]),
        [Decimal(2)],
    ),
    "times": (("timestamp[ms]", [1_000, 2_000]), ("timestamp[us]", [1_000_000, 2_000_001]), None),
    "texts": (("string", ["a", "1"]), ("json", ["a", "2"]), ["a"]),
    "bytes": (("binary", [b"a"]), ("binary", [b"a", b""]), [b"a"]),
    "only NULL": (("null", [None]), ("float64", [1.0]), []),
    "booleans": (("bool", [True, None]), ("bool", [True, False, None]), [True]),
}


@pytest.mark.parametrize("name", KEYS)
@pytest.mark.parametrize("subtasks", [1, 5])
def test_keys_of_two_types_meet_where_their_values_are_equal(name, subtasks):
    (own, own_values), (other, other_values), wanted = KEYS[name]
    schemas = Schema.of({"k": own}), Schema.of({"id": other})
    step = processor_of("join", {"on": {"k": "id"}}, *schemas)
    frames = [
        pl.DataFrame({schema.names[0]: values}, schema=schema.to_polars(), strict=False)
        for schema, values in zip(schemas, (own_values, other_values), strict=True)
    ]
    run, out = Run(step.operator, frames), []
    for subtask in range(subtasks):
        live = Subtask("", run, at=(subtask, subtasks))
        for port, rows in enumerate(frames):
            live.process(port, rows)
        out += live.results()
    values = joined(out)["k"] if out else []
    expected = frames[0]["k"][:1].to_list() if wanted is None else wanted
    assert sorted(map(repr, values)) == sorted(map(repr, expected))


@pytest.mark.parametrize("kind", ["right", "full"])
def test_the_keys_of_both_sides_are_in_one_column_that_holds_both(kind):
    rows = result_of(
        f"step: {{type: join, inputs: [l, r], config: {{kind: {kind}, on: {{k: id}}}}}}",
        l=inline([{"k": 1}], schema="{k: int32}"),
        r=inline([{"id": 2**64 - 1}, {"id": 1}], schema="{id: uint64}"),
    )
    assert ordered(rows) == [{"k": 1}, {"k": 2**64 - 1}]


@pytest.mark.parametrize(
    ("own", "other"),
    [
        ("int64", "float64"),
        ("int64", "decimal(9, 2)"),
        ("string", "int64"),
        ("date", "timestamp[us]"),
        ("timestamp[us]", "timestamp[us, UTC]"),
        ("list<int64>", "list<int64>"),
    ],
)
def test_keys_that_cannot_be_equal_are_refused(own, other):
    shown = picture(
        "step: {type: join, inputs: [l, r], config: {on: {k: id}}}",
        l=inline([], schema=f"{{k: '{own}'}}"),
        r=inline([], schema=f"{{id: '{other}'}}"),
    )
    assert shown[0].startswith("error[E0312]")
    assert own in shown[0]
    assert other in shown[0]


A_AND_B = {"l": [{"k": 1, "a": 1}], "r": [{"k": 1, "a": 2}]}


def test_a_name_on_both_sides_needs_a_suffix():
    assert refused("step: {type: join, inputs: [l, r], config: {on: [k]}}", **A_AND_B).startswith(
        "error[E0311]: both inputs of step 'step' have a column 'a'"
    )
    step = "step: {type: join, inputs: [l, r], config: {on: [k], suffix: _r}}"
    assert result_of(step, **A_AND_B) == [{"k": 1, "a": 1, "a_r": 2}]
    more = {"l": [{"k": 1, "a": 1, "a_r": 0}], "r": A_AND_B["r"]}
    assert "also with the suffix '_r'" in refused(step, **more)
    semi = "step: {type: join, inputs: [l, r], config: {kind: semi, on: [k]}}"
    assert result_of(semi, **A_AND_B) == [{"k": 1, "a": 1}]


def test_a_step_may_be_joined_with_itself():
    step = "step: {type: join, inputs: [l, l], config: {on: {k: parent}, suffix: _child}}"
    rows = result_of(step, l=[{"k": 1, "parent": None}, {"k": 2, "parent": 1}])
    assert rows == [{"k": 1, "parent": None, "k_child": 2}]


def test_a_join_has_two_inputs_and_known_columns():
    row = [{"k": 1}]
    one = refused("step: {type: join, inputs: [l], config: {on: [k]}}", l=row)
    assert one.startswith("error[E0318]: step 'step' (join) takes two inputs, and has 1")
    unknown = picture("step: {type: join, inputs: [l, r], config: {on: {k: x}}}", l=row, r=row)
    assert unknown[0] == "error[E0203]: unknown column 'x' in step 'step'"
    none = refused("step: {type: join, inputs: [l, r], config: {on: []}}", l=row, r=row)
    assert none.startswith("error[E0405]")


def test_inputs_without_an_end_are_refused():
    block = refused(
        "step: {type: join, inputs: [l, r], config: {on: [k]}}",
        l=[{"k": 1}],
        r="{type: generate, config: {columns: {k: {sequence: 0}}}}",
    )
    assert block.startswith(
        "error[E0316]: step 'step' would keep all rows of 'r' for ever: it has no end"
    )
