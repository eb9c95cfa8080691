"""JSON is read as it was written: digits, duplicate keys, halves of characters, depth."""

from __future__ import annotations

import json
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import polars as pl
import pytest

from dataflare.formats.json_values import BadJson, decode, fields_of, list_items
from dataflare.formats.misread import SortedRows
from dataflare.formats.ndjson_read import NdjsonPlan, sniff
from dataflare.formats.text_types import with_contract
from dataflare.model.types import Schema

HUGE = "123456789012345678901234567890"
BEYOND_128_BITS = "9" * 45


def read(sample: Sequence[str], later: Sequence[str] = (), **contract: str) -> SortedRows:
    """The rows of the sample and of the later lines, with the types of the sample."""
    columns = sniff(["\n".join(sample).encode()])
    if contract:
        columns = with_contract(columns, Schema.of(contract))
    plan = NdjsonPlan(tuple(columns), tuple(column.name for column in columns))
    data = "\n".join([*sample, *later]).encode()
    try:
        good = plan.scan(data).collect()
    except pl.exceptions.PolarsError:
        return plan.salvage(data, str)
    return SortedRows(good, pl.Series(range(good.height)), plan.salvage(b"", str).bad)


def values(sample: Sequence[str], later: Sequence[str] = (), **contract: str) -> list[Any]:
    result = read(
        [f'{{"v": {text}}}' for text in sample], [f'{{"v":{text}}}' for text in later], **contract
    )
    assert not result.bad, [bad.message for bad in result.bad]
    return result.good["v"].to_list()


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ([HUGE, "1"], [HUGE, "1"]),
        (["-" + BEYOND_128_BITS, "1"], ["-" + BEYOND_128_BITS, "1"]),
        (["9223372036854775808", "-1"], ["9223372036854775808", "-1"]),
        (["9223372036854775807", "-1"], [9223372036854775807, -1]),
        (["9007199254740993", "1.5"], ["9007199254740993", "1.5"]),
        (["9007199254740992", "1.50"], [9007199254740992.0, 1.5]),
        (["12345678901234567.89", "1e3"], ["12345678901234567.89", "1e3"]),
        (["1e400", "1.50"], ["1e400", "1.50"]),
        (["1e300", "7"], [1e300, 7.0]),
        (['"02116"', '"7"'], ["02116", "7"]),
        (['"a"', "1.50", "1E5", "-0.0", HUGE, "true", "null"],
         ["a", "1.50", "1E5", "-0.0", HUGE, "true", None]),
        (['["a", 1.50, 7]', '["b"]'], [["a", "1.50", "7"], ["b"]]),
        (['[1, 9007199254740993, 0.5]'], [["1", "9007199254740993", "0.5"]]),
        (['{"p": "x"}', '{"p": 1.50}'], [{"p": "x"}, {"p": "1.50"}]),
        (['{"p": [{"q": 1}, {"q": ' + HUGE + "}]}"], [{"p": [{"q": "1"}, {"q": HUGE}]}]),
        (['"x"', '{"q": 12345678901234567890.5}'], ["x", '{"q": 12345678901234567890.5}']),
    ],
)  # fmt: skip
def test_the_sample_finds_types_that_keep_every_digit(
    written: list[str], expected: list[Any]
) -> None:
    assert values(written) == expected


@pytest.mark.parametrize(
    ("later", "expected"),
    [
        ("1.50", "1.50"),
        ("1e5", "1e5"),
        ("12", "12"),
        (HUGE, HUGE),
        (BEYOND_128_BITS, BEYOND_128_BITS),
        ("1e400", "1e400"),
        ("true", "true"),
        ('{"b": [0.1234567890123456789]}', '{"b": [0.1234567890123456789]}'),
    ],
)
def test_a_number_in_a_column_of_text_stays_as_it_was_written(later: str, expected: str) -> None:
    assert values(['"a"', '"b"'], [later]) == ["a", "b", expected]


@pytest.mark.parametrize(
    ("sample", "later"),
    [
        ("1", '"x"'),
        ("1", "1.5"),
        ("1", "9223372036854775808"),
        ("1.5", "9007199254740993"),
        ("1.5", "-9007199254740993"),
        ("1.5", "12345678901234567.89"),
        ("1.5", "1e400"),
        ("1.5", HUGE),
        ("1.5", '"1.5"'),
        ("true", '"true"'),
        ("[1.5]", "[9007199254740993]"),
        ('{"p": 1}', '{"p": "1"}'),
        ('"2024-01-01"', "20240101"),
    ],
)
def test_a_later_value_that_does_not_fit_is_a_bad_row_that_names_schema(
    sample: str, later: str
) -> None:
    result = read([f'{{"id": 1, "v": {sample}}}'], [f'{{"id": 2, "v": {later}}}', '{"id": 3}'])
    assert result.good["id"].to_list() == [1, 3]
    [bad] = result.bad
    assert (bad.code, bad.raw) == ("E0501", f'{{"id": 2, "v": {later}}}')
    assert "'schema'" in bad.message


def test_a_type_that_the_user_named_is_kept_to_without_that_advice() -> None:
    result = read(['{"v": 1}', '{"v": "x"}'], v="int64")
    assert result.bad[0].message == "column 'v': 'x' is not an int64"


@pytest.mark.parametrize("number", ["12345678901234567890.12", HUGE, "0.01", '"7.25"', "1e-2"])
def test_decimals_are_exact(number: str) -> None:
    expected = Decimal(number.strip('"'))
    assert values(["1.50", number], v="decimal(38, 2)") == [Decimal("1.50"), expected]


def test_the_first_of_two_equal_keys_counts() -> None:
    result = read(['{"a": 1, "a": "x", "b": {"c": 1, "c": 2}}'], ['{"a": 2, "a": 1.5, "a": null}'])
    assert result.good.rows() == [(1, {"c": 1}), (2, None)]
    # The same if a bad row causes a read line by line.
    result = read(['{"a": 1, "a": "x"}'], ['{"a": "bad"}', '{"a": 3, "a": "x"}'])
    assert result.good["a"].to_list() == [1, 3]


@pytest.mark.parametrize("half", [r"\ud83d", r"\uDE00", r"x\ud83d\ud83d\ude00", r"\ude00\ud83d"])
def test_half_of_a_character_is_a_bad_row(half: str) -> None:
    good = r'{"v": "\ud83d\ude00 \\ud83d"}'
    result = read([good, f'{{"v": "{half}"}}'])
    assert result.good["v"].to_list() == ["\U0001f600 \\ud83d"]
    [bad] = result.bad
    assert (bad.code, "half of a character" in bad.message) == ("E0503", True)


def test_a_row_that_is_nested_too_deep_is_a_bad_row() -> None:
    deep = '{"id": 2, "v": ' + "[" * 500 + "]" * 500 + "}"
    for sample in ('{"id": 1, "v": []}', '{"id": 1, "v": "x"}'):
        result = read([sample], [deep])
        assert result.good["id"].to_list() == [1]
        assert "nested deeper" in result.bad[0].message


def test_a_number_that_no_type_holds_does_not_harm_the_other_columns() -> None:
    assert values(["1"], ['2, "unread": 1e400', '3, "unread": ' + BEYOND_128_BITS]) == [1, 2, 3]


@pytest.mark.parametrize("spaces", ["", " ", "\n", "\r\n\t"])
def test_items_and_fields_are_cut_out_as_they_were_written(spaces: str) -> None:
    texts = ['{"a":1.50,"a":2}', "null", HUGE, '"x,]"', r'"\ud83d"', "[[],{}]"]
    s = spaces
    text = f"{s}[{s}" + f"{s},{s}".join(texts) + f"{s}]{s}"
    assert [item.decode() for item in list_items(text.encode())] == texts
    pairs = [*enumerate(texts), (0, "7")]
    text = f"{s}{{{s}" + f"{s},{s}".join(f'"{k}"{s}:{s}{v}' for k, v in pairs) + f"{s}}}{s}"
    assert {k: v.decode() for k, v in fields_of(text.encode()).items()} == {
        str(place): each for place, each in enumerate(texts)
    }


@pytest.mark.parametrize("text", ["[1,]", "[1", '{"a":1}', "[NaN]", "[01]", "", "[1] 2", '["\t"]'])
def test_what_is_not_a_list_of_json_is_refused(text: str) -> None:
    with pytest.raises(BadJson):
        list_items(text.encode())


def test_a_decoded_value_says_what_python_s_own_parser_says() -> None:
    text = '{"a": [1, 2.50, {"b": null, "c": "x\\": 1"}], "d": true, "e": ' + HUGE + "}"
    assert decode(text.encode()) == json.loads(text, parse_float=str)
