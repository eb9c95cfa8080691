"""INTERVAL literals: `1 day`, `90 minutes`, `1 month 2 days`, `01:30:00`."""

from __future__ import annotations

import re
from datetime import timedelta
from fractions import Fraction
from typing import Any

from dataflare.expr.sqltypes import INTERVAL
from dataflare.model import types as t
from dataflare.model.types import DataType

MONTHS = {
    "month": 1,
    "mon": 1,
    "quarter": 3,
    "year": 12,
    "yr": 12,
    "y": 12,
    "decade": 120,
    "century": 1200,
}
MICROSECONDS = {
    "microsecond": 1, "us": 1, "usec": 1, "millisecond": 1000, "ms": 1000, "msec": 1000,
    "second": 1_000_000, "s": 1_000_000, "sec": 1_000_000,
    "minute": 60_000_000, "m": 60_000_000, "min": 60_000_000,
    "hour": 3_600_000_000, "h": 3_600_000_000, "hr": 3_600_000_000,
    "day": 86_400_000_000, "d": 86_400_000_000,
    "week": 604_800_000_000, "w": 604_800_000_000,
}  # fmt: skip


def unit_named(name: str) -> str | None:
    """The unit without its plural, or None."""
    lowered = name.lower()
    for candidate in (lowered, lowered.removesuffix("s"), lowered.removesuffix("ies") + "y"):
        if candidate in MONTHS or candidate in MICROSECONDS:
            return candidate
    return None


def literal_interval(text: str, unit: str | None) -> tuple[Any, DataType] | None:
    """Value and type: a timedelta as duration[us], or (months, microseconds) if it has months."""
    full_text = f"{text} {unit}" if unit else text
    months, us = 0, Fraction(0)
    unread = full_text.strip()
    if not unread:
        return None
    part = re.compile(
        r"([+-]?)\s*(?:(\d+):(\d+)(?::(\d+(?:\.\d+)?))?|(\d+(?:\.\d+)?)\s*([A-Za-z]+))\s*"
    )
    while unread:
        match = part.match(unread)
        if match is None:
            return None
        sign = -1 if match[1] == "-" else 1
        if match[2] is not None:
            seconds = int(match[2]) * 3600 + int(match[3]) * 60 + Fraction(match[4] or 0)
            us += sign * seconds * 1_000_000
        else:
            name = unit_named(match[6])
            if name is None:
                return None
            amount = sign * Fraction(match[5])
            if name in MONTHS:
                if (amount * MONTHS[name]).denominator != 1:
                    return None
                months += int(amount * MONTHS[name])
            else:
                us += amount * MICROSECONDS[name]
        unread = unread[match.end() :]
    if months:
        return (months, int(us)), INTERVAL
    try:
        return timedelta(microseconds=int(us)), t.DURATION
    except OverflowError:
        return None
