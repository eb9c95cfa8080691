"""Items of a list that no parser takes: the sound ones are read, and nothing is made up."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataflare.formats.json_spans import items_apart

TEXTS = st.text(st.sampled_from('ab,:[]{}"\\\n é'), max_size=5)
VALUES = st.recursive(
    st.none() | st.integers(-9, 9) | TEXTS,
    lambda each: st.lists(each, max_size=3) | st.dictionaries(TEXTS, each, max_size=3),
    max_leaves=6,
)
ROWS = st.lists(st.dictionaries(TEXTS, VALUES, min_size=1, max_size=3), max_size=6)
BROKEN = ['{"a": tru}', '{"a": 1,}', '{"a": "x\ny"}', "x", "[" * 2_000 + "]" * 2_000]


@pytest.mark.parametrize("broken", BROKEN)
@settings(max_examples=40)
@given(rows=ROWS, at=st.integers(0, 6), indent=st.sampled_from([None, 2]), beside=VALUES)
def test_the_items_around_a_broken_one_are_read(broken, rows, at, indent, beside):
    items = [json.dumps(row, indent=indent) for row in rows]
    at = min(at, len(items))
    page = "[" + " ,\n".join([*items[:at], broken, *items[at:]]) + " ]"
    text = f'{{"beside": {json.dumps(beside)}, "at": [null, {page}], "next": "u"}}'
    apart = items_apart(text.encode(), ["at", 1])
    assert apart is not None
    lines, around = apart
    assert [json.loads(line) for line in [*lines[:at], *lines[at + 1 :]]] == rows
    with pytest.raises((ValueError, RecursionError)):
        assert json.loads(lines[at]) != json.loads(broken)
    assert json.loads(around) == {"beside": beside, "at": [None, []], "next": "u"}


@given(
    rows=ROWS,
    at=st.integers(0, 200),
    removed=st.integers(0, 2),
    added=st.sampled_from(["", *'[]{},:"\\ 1\n']),
)
def test_a_damaged_text_is_never_read_as_if_it_were_whole(rows, at, removed, added):
    text = json.dumps(rows)
    text = text[:at] + added + text[min(at, len(text)) + removed :]
    apart = items_apart(text.encode(), [])
    try:
        lines = None if apart is None else [json.loads(line) for line in apart[0]]
    except ValueError:
        lines = None
    try:
        whole = json.loads(text)
    except ValueError:
        whole = None
    if lines is not None:
        assert whole == lines


@pytest.mark.parametrize("text", ["", "<html>", '[{"a": 1}', '[{"a": 1}] x', "[1,,2]", '{"a": 1}'])
def test_other_texts_have_no_items(text):
    assert items_apart(text.encode(), []) is None
