"""Durations, sizes and rates."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from dataflare.model.units import Duration, Rate, Size, parse_duration, parse_rate, parse_size


class Units(BaseModel):
    duration: Duration = 1.0
    size: Size = 1
    rate: Rate = 1.0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("250ms", 0.25),
        ("10s", 10.0),
        ("5m", 300.0),
        ("1h", 3600.0),
        ("7d", 604800.0),
        ("100us", 0.0001),
        ("1h30m", 5400.0),
        (" 1.5 s ", 1.5),
        ("0", 0.0),
        ("0s", 0.0),
    ],
)
def test_durations(text, seconds):
    assert parse_duration(text) == seconds
    assert Units(duration=text).duration == seconds


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("512KiB", 524288),
        ("64MiB", 67108864),
        ("2GiB", 2**31),
        ("10kb", 10_000),
        ("1.5KiB", 1536),
        ("7B", 7),
    ],
)
def test_sizes(text, size):
    assert parse_size(text) == size
    assert Units(size=text).size == size


@pytest.mark.parametrize(("text", "rate"), [("10/s", 10.0), ("6/m", 0.1), ("1/ms", 1000.0)])
def test_rates(text, rate):
    assert parse_rate(text) == rate
    assert Units(rate=text).rate == rate


@pytest.mark.parametrize("text", ["", "10", "-5s", "5 parsecs", "1e3s", "s", "5S", "1h-30m", "٣s"])
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(ValueError, match="expected a duration"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["", "10", "-1KiB", "1 GigaByte", "KiB"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ValueError, match="expected a size"):
        parse_size(text)


@pytest.mark.parametrize("text", ["", "10", "0/s", "10/", "/s", "10/y"])
def test_what_is_no_rate_is_refused(text):
    with pytest.raises(ValueError, match="expected a rate"):
        parse_rate(text)


@pytest.mark.parametrize("value", [10, 1.5, True, None, [1]])
@pytest.mark.parametrize("field", ["duration", "size", "rate"])
def test_a_number_without_a_unit_is_refused(field, value):
    with pytest.raises(ValidationError):
        Units(**{field: value})


def test_zero_needs_no_unit():
    assert (Units(duration=0).duration, Units(size=0).size) == (0.0, 0)


@given(st.integers(0, 10**9))
def test_a_whole_number_of_milliseconds_is_exact(number):
    assert round(parse_duration(f"{number}ms") * 1000) == number
