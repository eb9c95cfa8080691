"""What scalars mean, and where their characters stand."""

from __future__ import annotations

import math

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from dataflare.errors import WorkflowError
from dataflare.model.text import SourceText
from dataflare.workflow import parse as parse_module
from dataflare.workflow.parse import parse


def read(text, file="f.yaml"):
    errors = []
    value, _ = parse(text, file, errors)
    assert errors == []
    return value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("False", False),
        ("no", "no"),
        ("on", "on"),
        ("y", "y"),
        ("1:30", "1:30"),
        ("2023-01-01", "2023-01-01"),
        ("2023-01-01T00:00:00Z", "2023-01-01T00:00:00Z"),
        ("null", None),
        ("~", None),
        ("", None),
        ("0", 0),
        ("-12", -12),
        ("+7", 7),
        ("0x1F", 31),
        ("0o17", 15),
        ("007", "007"),
        ("1_000", "1_000"),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("-.inf", -math.inf),
        ("1.2.3", "1.2.3"),
        ("-", None),
        ("=", "="),
        ("'5'", "5"),
        ('"true"', "true"),
        ("!!str 5", "5"),
        ("!!float 5", 5.0),
        ("! 5", "5"),
    ],
)
def test_only_the_core_schema_is_read(text, value):
    found = read(f"a: {text}\n")["a"] if text != "-" else read("- \n")[0]
    assert found == value
    assert type(found) is (SourceText if isinstance(value, str) else type(value))


def test_a_number_of_ten_thousand_digits_stays_text():
    assert read("a: " + "9" * 10_000)["a"] == "9" * 10_000


def test_keys_are_text_whatever_they_look_like():
    assert list(read("1: a\nno: b\nnull: c\n2023-01-01: d\n")) == ["1", "no", "null", "2023-01-01"]


def test_merge_keys_give_way_to_the_map_they_stand_in():
    text = "base: &b {x: 1, y: 2}\nother: &o {x: 9, z: 3}\nm: {<<: [*b, *o], y: 7}\n"
    assert read(text)["m"] == {"x": 1, "y": 7, "z": 3}


def test_an_alias_repeats_a_scalar_and_has_a_place_of_its_own():
    found = read("a: &v five\nb: [*v, *v]\n")
    assert found == {"a": "five", "b": ["five", "five"]}
    assert [spot.column for spot in found["b"].spots] == [5, 9]


def test_a_key_may_be_an_alias():
    assert read("a: &v five\n*v : 1\n") == {"a": "five", "five": 1}


def test_a_byte_order_mark_and_windows_line_ends_are_fine():
    found = read("\ufeffa: one\r\nb: two\r\n")
    assert found == {"a": "one", "b": "two"}
    assert (found["b"].spot.line, found["b"].spot.column, found["b"].spot.text) == (2, 4, "b: two")


SPELLINGS = {
    "plain": "a: one two  three\n",
    "plain in flow": "a: {b: one two, c: d}\n",
    "plain on three lines": "a: one\n  two\n   three\n",
    "single quoted": "a: 'one two'\n",
    "single quoted with a quote": "a: 'it''s one'\n",
    "single quoted on two lines": "a: 'one\n  two'\n",
    "double quoted": 'a: "one two"\n',
    "double quoted with escapes": 'a: "one\\ttwo \\u00e9 \\"three\\" end"\n',
    "double quoted on two lines": 'a: "one\n  two"\n',
    "double quoted, line continued": 'a: "one \\\n  two"\n',
    "literal": "a: |\n  one\n\n    two\n  three\n",
    "literal with spaces on an empty line": "a: |\n  one\n     \n  two\n",
    "literal kept": "a: |+\n  one\n\n\n",
    "literal with a digit": "a: |2\n    one\n  two\n",
    "literal with a comment": "a: | # comment\n  one\n",
    "folded": "a: >\n  one\n  two\n\n  three\n",
    "folded with an indented line": "a: >-\n  one\n    two\n  three\n",
    "after a tag": "a: !!str one\n",
    "after an anchor": "a: &x one\n",
    "after a tag, quoted": "a: !!str 'one'\n",
    "not ASCII": "a: 'é😀 two'\n",
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_each_character_is_found_where_it_stands(name):
    value = read(SPELLINGS[name])["a"]
    value = value["b"] if isinstance(value, dict) else value
    for i, char in enumerate(value):
        spot = value.spot_of(i, i + 1)
        if char not in " \n\té\"'":  # these are spelt in several ways
            assert spot.text[spot.column - 1] == char, (i, value.starts)
    word = str(value).split()[-1].strip('."')
    start = value.rindex(word)
    spot = value.spot_of(start, start + len(word))
    assert spot.text[spot.column - 1 :][: len(word)] == word


@pytest.mark.parametrize("style", ["plain", "'", '"', "|", ">"])
def test_a_value_covers_its_whole_token(style):
    spelt = {"plain": "x y", "'": "'x y'", '"': '"x y"', "|": "|\n  x y", ">": ">\n  x y"}[style]
    spot = read(f"key: {spelt}\n").value_spots["key"]
    first = spelt.partition("\n")[0]
    assert (spot.line, spot.column, spot.length) == (1, 6, len(first))


@pytest.mark.parametrize("name", SPELLINGS)
def test_the_reader_in_python_finds_the_same(name, monkeypatch):
    fast = read(SPELLINGS[name])["a"]
    monkeypatch.setattr(parse_module, "_Loader", yaml.SafeLoader)
    slow = read(SPELLINGS[name])["a"]
    assert slow == fast
    if isinstance(fast, SourceText):
        assert slow.starts == fast.starts


printable = st.text(
    st.characters(
        exclude_categories=["Cs", "Cc", "Zl", "Zp"], exclude_characters="\ufeff\ufffe\uffff"
    )
)


@given(printable)
def test_single_quotes_spell_any_text_and_every_character_is_found(text):
    spelt = text.replace("'", "''")
    value = read(f"a: '{spelt}'\n")["a"]
    assert value == text
    for i, char in enumerate(value):
        spot = value.spot_of(i, i + 1)
        assert spot.text[spot.column - 1] == char


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufeff"), max_size=60))
def test_any_text_is_read_or_refused_with_a_place_and_never_breaks(text):
    value, code = None, None
    try:
        value, _ = parse(text, "f.yaml", [])
    except WorkflowError as error:
        code = error.code
    assert code in (None, "E0101", "E0113")
    assert value is None or isinstance(value, str | int | float | dict | list)
