"""`parse`: JSON, CSV and regular expressions in a text column."""

from __future__ import annotations

import csv
import io
import json

import pytest
from flows import failure, flow, picture, result_of, rows_of
from hypothesis import given, settings
from hypothesis import strategies as st

SKIP = ", error_handling: {on_error: skip}"


def parsed(texts: list[str | None], config: str, more: str = "") -> list[dict[str, object]]:
    rows = [{"id": i, "text": text} for i, text in enumerate(texts)]
    step = f"step: {{type: parse, inputs: [s], config: {{column: text, {config}}}{more}}}"
    return result_of(step, s=[*rows, {"id": -1, "text": ""}, {"id": -2, "text": None}][: len(rows)])


def test_keys_of_an_object_become_typed_columns():
    made = parsed(
        [
            '{"user": 7, "at": "2024-05-01T10:00:00Z", "ok": true, "x": {"y": [1]}, "p": 1.50}',
            "{}",
            None,
        ],
        'schema: {user: int64, at: "timestamp[us, UTC]", ok: bool, x: json, p: "decimal(9, 2)"}',
    )
    assert [str(made[0][name]) for name in ("user", "ok", "x", "p")] == [
        "7", "True", '{"y":[1]}', "1.50",
    ]  # fmt: skip
    assert str(made[0]["at"]) == "2024-05-01 10:00:00+00:00"
    nothing = {"user": None, "at": None, "ok": None, "x": None, "p": None}
    assert made[1:] == [{"id": 1, **nothing}, {"id": 2, **nothing}]


@pytest.mark.parametrize("key", ["a b", "a.b", "a[0]", "it's", 'a "b"', "é", "", "$", "a\nb"])
def test_any_key_may_be_named(key: str):
    schema = f"schema: {{{json.dumps(key)}: int64}}"
    assert parsed([json.dumps({key: 5})], schema) == [{"id": 0, key: 5}]


@pytest.mark.parametrize("text", ["{", "[1]", "5", "null", '"a"', "nonsense", ""])
def test_text_that_is_no_object_fails_its_row(text: str):
    good = '{"a": 1}'
    assert parsed([good, text], "schema: {a: int64}", SKIP) == [{"id": 0, "a": 1}]


def test_a_value_that_does_not_fit_fails_its_row():
    error = failure(
        "step: {type: parse, inputs: [s], config: {column: t, schema: {a: int64}}}",
        s=[{"t": '{"a": "x"}'}],
    )
    assert "a: int64" in error.message


def test_the_text_may_be_kept():
    assert parsed(['{"a": 1}'], "schema: {a: int64}, keep: true") == [
        {"id": 0, "text": '{"a": 1}', "a": 1}
    ]
    assert parsed(['{"text": 1}'], "schema: {text: int64}") == [{"id": 0, "text": 1}]


def test_fields_of_a_line_become_columns_in_order():
    made = parsed(
        ["1,a", '2,"b, ""c"""', "3,", '4,""', '5,"two\nlines"', None],
        "format: csv, schema: {n: int64, t: string}",
    )
    assert [(row["n"], row["t"]) for row in made] == [
        (1, "a"), (2, 'b, "c"'), (3, None), (4, ""), (5, "two\nlines"), (None, None),
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["1", "1,2,3", '1,"open', '1,"a"b', '1,"a""', ""])
def test_a_line_with_other_fields_fails_its_row(text: str):
    made = parsed(["7,x", text], "format: csv, schema: {n: int64, t: string}", SKIP)
    assert made == [{"id": 0, "n": 7, "t": "x"}]


@pytest.mark.parametrize("mark", [";", "|", "\t", " ", "^", "]", "-", "."])
def test_any_delimiter(mark: str):
    config = f"format: csv, delimiter: {json.dumps(mark)}, schema: {{a: string, b: string}}"
    assert parsed([f"x,y{mark}z"], config) == [{"id": 0, "a": "x,y", "b": "z"}]


CELLS = st.text(alphabet='ab",\n é', min_size=1, max_size=5)


@given(st.lists(st.tuples(CELLS, CELLS, CELLS), min_size=1, max_size=20))
@settings(derandomize=True, deadline=None, max_examples=15)
def test_lines_are_read_as_the_csv_module_writes_them(lines: list[tuple[str, str, str]]):
    texts = []
    for line in lines:
        out = io.StringIO()
        csv.writer(out, lineterminator="").writerow(line)
        texts.append({"t": out.getvalue()})
    step = (
        "step: {type: parse, inputs: [s], config: "
        "{column: t, format: csv, schema: {a: string, b: string, c: string}}}"
    )
    made = rows_of(flow(step, s=texts))
    assert [tuple(row.values()) for row in made] == lines


def test_named_groups_become_columns():
    made = parsed(
        ["GET /a 200", "PUT /b 404", None],
        r"format: regex, pattern: '^(?P<verb>\w+) (?P<path>\S+) (?P<code>\d+)$', schema: {code: int16}",
    )
    assert [(row["verb"], row["path"], row["code"]) for row in made] == [
        ("GET", "/a", 200),
        ("PUT", "/b", 404),
        (None, None, None),
    ]


def test_text_that_does_not_match_fails_its_row():
    made = parsed(["a1", "b"], r"format: regex, pattern: '(?P<n>\d)'", SKIP)
    assert made == [{"id": 0, "n": "1"}]


def test_only_what_is_read_is_cast():
    made = result_of(
        "wide: {type: parse, inputs: [s], config: {column: t, schema: {a: int64, b: int64}}}\n"
        "step: {type: map, inputs: [wide], config: {select: [b]}}",
        s=[{"t": '{"a": "no number", "b": 2}'}],
    )
    assert made == [{"b": 2}]


@pytest.mark.parametrize(
    ("config", "code", "token"),
    [
        ("{column: tt, schema: {a: int64}}", "E0203", "tt"),
        ("{column: n, schema: {a: int64}}", "E0204", "n,"),
        ("{column: t, schema: {a: int}}", "E0112", "int}"),
        ("{column: t, schema: {a: list<int64>}}", "E0204", "list<int64>"),
        ("{column: t, schema: {__dataflare_a: int64}}", "E0310", "__dataflare_a"),
        ("{column: t}", "E0405", "parse"),
        ("{column: t, format: regex}", "E0405", "parse"),
        ("{column: t, format: regex, pattern: '(?P<a>x'}", "E0405", "(?P<a>x"),
        ("{column: t, format: regex, pattern: '(?=x)(?P<a>x)'}", "E0405", "(?=x)"),
        ("{column: t, format: regex, pattern: x}", "E0405", "x}"),
        (
            "{column: t, format: regex, pattern: '(?P<a>x)', schema: {b: int64}}",
            "E0405",
            "b: int64",
        ),
        ("{column: t, format: csv, delimiter: ab, schema: {a: int64}}", "E0405", "ab"),
        ("{column: t, format: xml, schema: {a: int64}}", "E0405", "xml"),
        ("{column: t, format: json, schema: [a]}", "E0405", "[a]"),
        ("{column: t, schema: {'a\\b': int64}}", "E0405", "'a"),
    ],
)
def test_errors_point_to_the_very_word(config: str, code: str, token: str):
    header, _, line, carets, *_ = picture(
        f"step: {{type: parse, inputs: [s], config: {config}}}", s=[{"t": "x", "n": 1}]
    )
    assert header.startswith(f"error[{code}]"), header
    assert token in line[carets.index("^") - 1 :][: len(token) + 1]
