"""Durations of a workflow file: whole microseconds, exactly, and never so long that arithmetic with times overflows."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataflare.model.units import DURATION_MAX_US, duration_us, parse_duration, shown_duration

MICROS = {"us": 1, "ms": 10**3, "s": 10**6, "m": 60 * 10**6, "h": 3600 * 10**6, "d": 86400 * 10**6}

parts = st.tuples(
    st.integers(0, 10**9), st.integers(0, 6), st.integers(0, 10**6), st.sampled_from([*MICROS])
)


def text_of(whole: int, digits: int, fraction: int, unit: str) -> tuple[str, Fraction]:
    decimals = str(fraction).zfill(digits)[:digits]
    number = f"{whole}.{decimals}" if decimals else f"{whole}"
    return number + unit, Fraction(number) * MICROS[unit]


@given(st.lists(parts, min_size=1, max_size=4))
def test_a_duration_is_exact_or_refused(given_parts: list[tuple[int, int, int, str]]) -> None:
    texts, values = zip(*(text_of(*part) for part in given_parts), strict=True)
    expected = sum(values)
    try:
        seconds = parse_duration(" ".join(texts))
    except ValueError:
        too_fine = expected > 2**51 and expected % 1000
        assert expected.denominator != 1 or expected > DURATION_MAX_US or too_fine
        return
    assert round(seconds * 1_000_000) == expected <= DURATION_MAX_US


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("3652060d", "at most 3652059d, which are the years 1 to 9999"),
        ("9" * 400 + "d", "at most 3652059d"),
        ("0.5us", "whole number of microseconds"),
        ("0.0000001s", "whole number of microseconds"),
        ("3652058d 1us", "milliseconds or longer units"),
        ("5", "a duration such as"),
    ],
)
def test_what_no_arithmetic_can_hold_is_refused(text: str, part: str) -> None:
    with pytest.raises(ValueError, match=part):
        parse_duration(text)


def test_the_longest_duration_and_data_that_is_longer() -> None:
    assert parse_duration("3652059d") * 1_000_000 == DURATION_MAX_US
    assert shown_duration(DURATION_MAX_US) == "3652059d"
    assert duration_us("3652058d1us") == 3652058 * 86400 * 10**6 + 1
    assert parse_duration("0") == 0
