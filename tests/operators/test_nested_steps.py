"""`flatten` and `explode`: structs into columns, lists into rows."""

from __future__ import annotations

import pytest
from flows import picture, refused, result_of

PEOPLE = [
    {"id": 1, "who": {"name": "Ann", "home": {"city": "Bonn", "zip": 53111}}, "tags": ["a", "b"]},
    {"id": 2, "who": {"name": "Bob", "home": None}, "tags": []},
    {"id": 3, "who": None, "tags": None},
]


def flattened(config: str, **more: object) -> object:
    return result_of(f"step: {{type: flatten, inputs: [s], config: {config}}}", s=PEOPLE, **more)


def test_structs_become_columns_at_their_place():
    assert flattened("{}") == [
        {
            "id": 1,
            "who_name": "Ann",
            "who_home_city": "Bonn",
            "who_home_zip": 53111,
            "tags": ["a", "b"],
        },
        {"id": 2, "who_name": "Bob", "who_home_city": None, "who_home_zip": None, "tags": []},
        {"id": 3, "who_name": None, "who_home_city": None, "who_home_zip": None, "tags": None},
    ]


def test_depth_and_separator():
    first = flattened('{columns: [who], separator: ".", depth: 1}')[0]
    assert first == {
        "id": 1,
        "who.name": "Ann",
        "who.home": {"city": "Bonn", "zip": 53111},
        "tags": ["a", "b"],
    }


def test_only_what_is_read_is_taken_out():
    made = result_of(
        "flat: {type: flatten, inputs: [s], config: {}}\n"
        "step: {type: map, inputs: [flat], config: {select: [who_home_zip]}}",
        s=PEOPLE,
    )
    assert made == [{"who_home_zip": 53111}, {"who_home_zip": None}, {"who_home_zip": None}]


def exploded(config: str, **more: object) -> list[tuple[object, ...]]:
    made = result_of(f"step: {{type: explode, inputs: [s], config: {config}}}", s=PEOPLE, **more)
    return [tuple(v for k, v in row.items() if k != "who") for row in made]


def test_each_item_becomes_a_row_and_no_item_one_with_null():
    assert exploded("{column: tags}") == [(1, "a"), (1, "b"), (2, None), (3, None)]


def test_rows_without_items_may_leave():
    assert exploded("{column: tags, keep_empty: false}") == [(1, "a"), (1, "b")]


def test_places_count_from_one_and_no_item_has_none():
    assert exploded("{column: tags, index: at}") == [
        (1, "a", 1),
        (1, "b", 2),
        (2, None, None),
        (3, None, None),
    ]
    assert exploded("{column: tags, index: at, keep_empty: false}") == [(1, "a", 1), (1, "b", 2)]


def test_the_place_may_replace_a_column():
    assert exploded("{column: tags, index: id}") == [("a", 1), ("b", 2), (None, None), (None, None)]


def test_counting_rows_needs_no_column_of_theirs():
    made = result_of(
        "items: {type: explode, inputs: [s], config: {column: tags, index: at}}\n"
        'step: {type: aggregate, inputs: [items], config: {measures: {n: "count(*)"}}}',
        s=PEOPLE,
    )
    assert made == [{"n": 4}]


def test_a_row_with_an_error_stays_one_row():
    handled = "error_handling: {on_error: skip}"
    made = result_of(
        f"bad: {{type: map, inputs: [s], config: {{derive: {{x: 1 % (id - 1)}}}}, {handled}}}\n"
        "step: {type: explode, inputs: [bad], config: {column: tags, index: at}}",
        s=PEOPLE,
    )
    assert [row["id"] for row in made] == [2, 3]


@pytest.mark.parametrize(
    ("step", "code", "token"),
    [
        ("type: flatten, inputs: [s], config: {columns: [whom]}", "E0203", "whom"),
        ("type: flatten, inputs: [s], config: {columns: [id]}", "E0204", "id"),
        ("type: explode, inputs: [s], config: {column: tag}", "E0203", "tag"),
        ("type: explode, inputs: [s], config: {column: id}", "E0204", "id"),
        ("type: explode, inputs: [s], config: {column: tags, index: tags}", "E0311", "tags}"),
        (
            "type: explode, inputs: [s], config: {column: tags, index: __dataflare_at}",
            "E0310",
            "__dataflare_at",
        ),
    ],
)
def test_errors_point_to_the_very_word(step: str, code: str, token: str):
    header, _, line, carets, *_ = picture(f"step: {{{step}}}", s=PEOPLE)
    assert header.startswith(f"error[{code}]")
    assert line[carets.index("^") :].startswith(token)


def test_two_fields_of_one_name_need_another_separator():
    block = refused("step: {type: flatten, inputs: [s], config: {}}", s=[{"a": {"b": 1}, "a_b": 2}])
    assert block.startswith("error[E0311]: step 'step' gives the column 'a_b' twice")
    assert block.endswith("help: choose another separator")
