"""Every field of JSON lines that is not among the columns is found, with any text around it."""

from __future__ import annotations

import json
from typing import Any

import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dataflare.formats.ndjson_read import NdjsonPlan, sniff
from dataflare.formats.ndjson_watch import new_fields, watched, with_learned
from dataflare.formats.text_types import TextColumn
from dataflare.model.types import parse_type

KNOWN = b'{"a": 1, "b": "x", "c": {"d": 1, "e": [{"f": 1}]}, "g": [{"h": "x"}]}'
COLUMNS = tuple(sniff([KNOWN]))
PLAN = NdjsonPlan(COLUMNS, tuple(column.name for column in COLUMNS))

# Texts that look like the characters around keys.
tricky = st.text(st.sampled_from('":\\ ,{}n\tulé!'), max_size=6)
leaf = st.none() | st.integers(-9, 9)


@st.composite
def objects(draw: Any, fields: dict[str, Any]) -> dict[str, Any]:
    names = draw(st.lists(st.sampled_from([*fields, "new", 'n"ew', "n:", " "]), unique=True))
    return {name: draw(fields.get(name, leaf | tricky)) for name in draw(st.permutations(names))}


inner = objects({"f": leaf})
rows = objects(
    {
        "a": leaf,
        "b": st.none() | tricky,
        "c": st.none()
        | objects({"d": leaf, "e": st.none() | st.lists(st.none() | inner, max_size=3)}),
        "g": st.none() | st.lists(objects({"h": st.none() | tricky}), max_size=3),
    }
)
spaces = st.sampled_from([(",", ":"), (", ", ": "), (" , ", " : "), (",\t", "\t:  ")])


def unknown(value: Any, example: Any, path: str = "") -> set[str]:
    """A simple model: the paths with a value that are not in the example."""
    if isinstance(value, list):
        return set().union(*(unknown(item, example, path) for item in value))
    if not isinstance(value, dict):
        return set()
    paths: set[str] = set()
    for name, item in value.items():
        inside = example[0] if isinstance(example, list) else example
        if name not in inside:
            paths |= {path + name} if item is not None else set()
        else:
            paths |= unknown(item, inside[name], f"{path}{name}.")
    return paths


@settings(max_examples=300, deadline=None)
@given(st.lists(rows, min_size=1, max_size=5), spaces, st.booleans())
@example([{"a": 1, "b": '":'}, {"a": None, "new": 1}], (",", ":"), True)
@example([{"a": None, "b": "n"}, {"a": 1, "new": None}], (", ", ": "), True)
def test_every_field_with_a_value_is_found(given_rows: list[Any], marks: Any, ascii_: bool):
    lines = [json.dumps(row, separators=marks, ensure_ascii=ascii_) for row in given_rows]
    data = "\n".join(lines).encode()
    expected = [unknown(row, json.loads(KNOWN)) for row in given_rows]
    try:
        frame, fields = watched(PLAN, data)
    except pl.exceptions.ComputeError:
        # Such a chunk is read line by line: Polars does not keep the values of the text column.
        fields = new_fields(PLAN.columns, data)
    else:
        assert frame.collect().height == len(given_rows)
    assert (fields is None) == (not any(expected))
    if fields is not None:
        assert list(fields.rows) == [i for i, paths in enumerate(expected) if paths]
        for path, numbers in fields.fields.items():
            assert list(numbers) == [i for i, paths in enumerate(expected) if path in paths]
        assert set(fields.fields) == set().union(*expected)


def test_rows_without_new_fields_are_not_looked_at_one_by_one(monkeypatch: pytest.MonkeyPatch):
    def slow(*_: Any) -> None:
        raise AssertionError("a false alarm")

    monkeypatch.setattr("dataflare.formats.ndjson_watch.new_fields", slow)
    ordinary = [
        {"a": 1, "b": "10:30, http://x", "c": {"d": 1, "e": []}, "g": [{"h": "x"}, {"h": None}]},
        {"a": None, "b": '{"a": 1, "z": null}'},
        {"c": {"e": [{"f": 2}]}},
        {},
    ]
    for marks in ((",", ":"), (", ", ": ")):
        lines = "\n".join(json.dumps(row, separators=marks) for row in ordinary)
        assert watched(PLAN, lines.encode())[1] is None


def test_the_columns_hold_the_new_fields_as_a_sample_would():
    data = b'{"a": 1, "at": "2024-05-01T10:00:00Z"}\n{"c": {"d": 1, "x": 2}, "n": null}\n{"zip": "02116"}'
    fields = new_fields(COLUMNS, data)
    assert fields is not None
    columns = with_learned(COLUMNS, fields.columns([fields.sample]))
    types = {column.name: str(column.type) for column in columns}
    assert types["at"] == "timestamp[us, UTC]"
    assert types["zip"] == "string"
    assert types["c"] == "struct<d: int64, e: list<struct<f: int64>>, x: int64>"
    assert "n" not in types
    plan = NdjsonPlan(tuple(columns), ("c", "zip"))
    assert plan.scan(data).collect().rows() == [
        (None, None),
        ({"d": 1, "e": None, "x": 2}, None),
        (None, "02116"),
    ]


def test_samples_of_several_chunks_make_one_type():
    chunks = [b'{"v": []}', b'{"v": [1]}', b'{"v": [2.5]}', b'{"w": 1}']
    fields = [new_fields(COLUMNS, chunk) for chunk in chunks]
    assert all(each is not None for each in fields)
    learned = fields[0].columns([each.sample for each in fields])
    columns = with_learned((), learned)
    assert {column.name: str(column.type) for column in columns} == {
        "v": "list<float64>",
        "w": "int64",
    }


def test_the_type_that_the_user_gave_stays():
    columns = (TextColumn("c", COLUMNS[2].type, declared=True),)
    fields = new_fields(columns, b'{"c": {"x": 1}}')
    assert fields is not None
    assert list(fields.fields) == ["c.x"]
    assert fields.columns([fields.sample]) == {}


def test_what_the_parser_has_beyond_the_plan_does_not_count():
    """The output may have fewer columns than the plan."""
    plan = NdjsonPlan(COLUMNS, ("a",))
    frame, fields = watched(plan, KNOWN)
    assert fields is None
    assert frame.collect().equals(pl.DataFrame({"a": [1]}))


@pytest.mark.parametrize(
    ("line", "fields"),
    [
        (b'{"a": 1, "new": 5, "new": null}', {"new"}),
        (b'{"a": 1, "new": null, "new": 5}', set()),
        (b'{"c": {"d": 1, "more": {"x": 1}, "more": null}}', {"c.more"}),
        (b'{"c": {"d": 1}, "c": {"other": 1}}', set()),
    ],
)
def test_the_first_of_equal_keys_counts(line: bytes, fields: set[str]):
    found = new_fields(COLUMNS, line)
    assert (set(found.fields) if found else set()) == fields
    rows, quick = watched(PLAN, line)
    assert rows.collect().height == 1
    assert (set(quick.fields) if quick else set()) == fields


def test_learned_columns_have_one_order_however_they_are_stored():
    sampled = [TextColumn("id", parse_type("int64"))]
    learned = {
        name: TextColumn(name, parse_type("string")).to_json() for name in ("late", "o", "later")
    }
    names = [column.name for column in with_learned(sampled, learned)]
    assert names == ["id", "late", "later", "o"]
    stored = dict(sorted(learned.items()))
    assert [column.name for column in with_learned(sampled, stored)] == names
