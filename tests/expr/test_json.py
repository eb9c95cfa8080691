"""JSON documents: DuckDB's answers, all digits kept, and what is not JSON is an error of the row."""

from __future__ import annotations

from typing import Any

import duckdb
import polars as pl
import pytest
from oracle import connection

from dataflare.expr import check
from dataflare.model.types import Schema

DOCUMENTS = [
    '{"a":12345678901234567890123}', '{"a": 18446744073709551616, "b": 1}', '{"a":-9223372036854775809}',
    '{"a":9007199254740993}', '{"a":1.10}', '{"a":1e2}', '{"a":-0.0}', '{"a":1.5E+3}', '{"a":1,"a":2}',
    '{"a":{"b":1,"b":2,"c":3}}', '{"a":[1.50,{"x":1,"x":2}]}', '{"\\u0061":7}', '{"a":{"a":{"a":1}}, "a": 3}',
    '{"a":"\\u00e9\\ud83d\\ude00"}', '{"a":"\\ud83d"}', '{"a":"x/y\\/z"}', '{"a":01}', "[1,2] x",
    ' {"a" : [1 , 2]} ', '{"a":null}', "null", '{"a":"\x01"}', '{"a":"\\u0000"}', '{"a":true}', '"a"', "1",
    '[{"a":1}]', '{"a":[]}', '{"a":{}}', "", '{"a":"null"}', '{"a": {"b": {"c": 1, "c": 2}}, "z": "x, y: z"}',
]  # fmt: skip
CALLS = [
    "json_extract(s, '$.a')", "json_extract_string(s, '$.a')", "json_type(s, '$.a')", "json_valid(s)", "json_type(s)",
    "json_keys(s)", "json_keys(s, '$.a')", "json_array_length(s, '$.a')", "json_exists(s, '$.a')", "json_extract(s, '$')",
    "json_extract(s, '$.a.b.c')", "json_extract_string(s, '$.a.b')", "json_extract(s, '/a')", "json_extract(s, '$[0]')",
    "s ->> 'a'",
]  # fmt: skip


def ours(call: str, texts: list[str]) -> list[Any]:
    lowered = check(call, Schema.of({"s": "string"})).lower()
    error = pl.lit(None, pl.UInt8) if lowered.error is None else lowered.error
    out = pl.DataFrame({"s": texts}).select(lowered.value.alias("x"), error.alias("e"))
    return ["ERROR" if e is not None else x for x, e in out.iter_rows()]


def theirs(call: str, text: str) -> Any:
    connection().register("documents", pl.DataFrame({"s": [text]}).to_arrow())
    try:
        return connection().sql(f"SELECT {call} FROM documents").fetchall()[0][0]
    except duckdb.InvalidInputException:
        return "ERROR"


@pytest.mark.parametrize("call", CALLS)
def test_json_functions_answer_as_duckdb_does(call: str) -> None:
    answers = zip(DOCUMENTS, ours(call, DOCUMENTS), strict=True)
    assert [(t, a, b) for t, a in answers if a != (b := theirs(call, t))] == []


def test_no_digit_of_a_number_is_lost() -> None:
    """DuckDB itself gives 0.12345678901234568 here."""
    texts = [
        '{"a":0.1234567890123456789012345}',
        '{"a":123456789.123456789}',
        '{"a": [1e-30, 1.10]}',
    ]
    assert ours("json_extract(s, '$.a')", texts) == [
        "0.1234567890123456789012345", "123456789.123456789", "[1e-30,1.1]",
    ]  # fmt: skip
    assert ours("s ->> '$.a'", texts)[:2] == ["0.1234567890123456789012345", "123456789.123456789"]


@pytest.mark.parametrize("depth", [200, 5_000])
@pytest.mark.parametrize("call", CALLS)
def test_a_document_nested_deep_fails_no_other_row(call: str, depth: int) -> None:
    deep, plain = '{"a":' + "[" * depth + "]" * depth + "}", '{"a": 1}'
    assert ours(call, [deep, plain])[1] == ours(call, [plain])[0]
    if depth == 5_000:
        assert ours(call, [deep]) == ["ERROR"]


@pytest.mark.parametrize("depth", [100, 128, 129, 500, 10_000])
def test_json_valid_knows_or_refuses_a_deep_text_and_never_calls_it_wrong(depth):
    sound, broken = "[" * depth + "]" * depth, "[" * (depth - 1) + "}"
    answer, no = ours("json_valid(s)", [sound, broken])
    assert answer in (True, "ERROR")
    assert answer is True or depth >= 128
    assert no is False or depth > 1_000
