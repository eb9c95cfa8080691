"""The search by bytes finds what the expression finds."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataflare.formats.number_bytes import BEYOND_FLOAT, has_number_beyond_floats

TEXTS = st.lists(
    st.one_of(
        st.text(alphabet="0123456789", min_size=1, max_size=22),
        st.text(alphabet="019.", min_size=14, max_size=24),
        st.sampled_from(['{"a":', ",", "-", "e", " ", "x"]),
    ),
    max_size=8,
).map("".join)


@given(TEXTS)
@settings(derandomize=True, deadline=None, max_examples=1_000)
def test_bytes_are_searched_as_the_expression_does(text: str) -> None:
    assert has_number_beyond_floats(text.encode()) == bool(re.search(BEYOND_FLOAT, text))


@given(TEXTS)
@settings(derandomize=True, deadline=None, max_examples=200)
def test_so_are_the_bytes_of_objects(text: str) -> None:
    line = f'{{"name": "\u00e9{text}\u00e9"}}'
    assert has_number_beyond_floats(line.encode()) == bool(re.search(BEYOND_FLOAT, text))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", False),
        ("12345678901234567", False),
        ("123456789012345678", True),
        ("0123456789012345678", True),
        ("0.12345678901234567", False),
        ("0.123456789012345678", True),
        ("123456789.12345678", False),
        ("123456789.1234567890", True),
    ],
)
def test_the_bounds(text: str, found: bool) -> None:
    assert has_number_beyond_floats(text.encode()) is found
    assert bool(re.search(BEYOND_FLOAT, text)) is found
