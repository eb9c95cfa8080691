"""Durations, sizes and rates as users write them: `250ms 10s 5m 1h 7d`, `64MiB`, `10000/s`.

`Duration` (float seconds), `Size` (int bytes), `Rate` and `ByteRate` (float per second) and `Moment` (a time, in UTC if it has
no zone) are field types for Pydantic models; the functions below need no Pydantic. Always true: a number without a unit is
refused because it is ambiguous (0 is allowed); a value is never negative. A duration is a whole number of
microseconds, `round(seconds * 1_000_000)` is exactly this number, and it is at most DURATION_MAX_US, so that
arithmetic with event times in 64 bits does not overflow.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from decimal import Decimal, localcontext
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, WithJsonSchema

_SECONDS = {
    "us": Decimal("0.000001"),
    "ms": Decimal("0.001"),
    "s": Decimal(1),
    "m": Decimal(60),
    "h": Decimal(3600),
    "d": Decimal(86400),
}
_BYTES = {
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}
_FOLDED_BYTES = {unit.casefold(): size for unit, size in _BYTES.items()}

_NUMBER = r"[0-9]+(?:\.[0-9]+)?"
_DURATION_PART = re.compile(rf"({_NUMBER})\s*(us|ms|s|m|h|d)")
_DURATION = re.compile(rf"(?:{_DURATION_PART.pattern}\s*)+")
_SIZE = re.compile(rf"({_NUMBER})\s*([KMGT]?i?B)", re.IGNORECASE)
_RATE = re.compile(rf"({_NUMBER})\s*/\s*(us|ms|s|m|h|d)")

_MICROS = 1_000_000
DURATION_MAX_US = 3_652_059 * 86_400 * _MICROS
"""As long as the years 1 to 9999."""

DURATION_EXPECTED = "a duration such as 250ms, 10s, 5m, 1h or 7d"
SIZE_EXPECTED = "a size such as 512KiB, 64MiB or 2GiB"
RATE_EXPECTED = "a rate such as 10/s or 10000/s"
BYTE_RATE_EXPECTED = "a rate of bytes such as 512KiB/s or 10MiB/s"


def parse_duration(text: str) -> float:
    """Seconds of a duration. It may have several parts (`1h30m`). Raises ValueError."""
    micros = duration_us(text)
    if micros > DURATION_MAX_US:
        raise ValueError(
            f"expected a duration of at most {shown_duration(DURATION_MAX_US)}, which are the years 1 to 9999"
        )
    if round(micros / _MICROS * _MICROS) != micros:
        raise ValueError(
            "expected a duration in milliseconds or longer units, because it is so long"
        )
    return micros / _MICROS


def duration_us(text: str) -> int:
    """Microseconds of a duration, however long it is. Raises ValueError."""
    stripped = text.strip()
    if stripped == "0":
        return 0
    if _DURATION.fullmatch(stripped) is None:
        raise ValueError(f"expected {DURATION_EXPECTED}")
    with localcontext() as context:
        context.prec = len(stripped) + 20
        parts = [Decimal(n) * _SECONDS[unit] for n, unit in _DURATION_PART.findall(stripped)]
        micros = sum(parts, Decimal(0)) * _MICROS
        if micros != int(micros):
            raise ValueError("expected a duration that is a whole number of microseconds (us)")
    return int(micros)


def shown_duration(micros: int) -> str:
    """A number of microseconds as a user would write it, in its largest whole unit."""
    for unit in ("d", "h", "m", "s", "ms", "us"):
        size = int(_SECONDS[unit] * _MICROS)
        if micros and micros % size == 0:
            return f"{micros // size}{unit}"
    return "0s"


def parse_size(text: str) -> int:
    """Bytes of a size. Raises ValueError."""
    stripped = text.strip()
    if stripped == "0":
        return 0
    match = _SIZE.fullmatch(stripped)
    if match is None:
        raise ValueError(f"expected {SIZE_EXPECTED}")
    return int(Decimal(match.group(1)) * _FOLDED_BYTES[match.group(2).casefold()])


def parse_rate(text: str) -> float:
    """Events per second. Raises ValueError, also for 0, because such a run would never end."""
    match = _RATE.fullmatch(text.strip())
    if match is None or not Decimal(match.group(1)):
        raise ValueError(f"expected {RATE_EXPECTED}")
    return float(Decimal(match.group(1)) / _SECONDS[match.group(2)])


def parse_byte_rate(text: str) -> float:
    """Bytes per second, of a rate such as `10MiB/s`. Raises ValueError."""
    size, slash, unit = text.strip().rpartition("/")
    if not slash or unit.strip() not in _SECONDS or _SIZE.fullmatch(size.strip()) is None:
        raise ValueError(f"expected {BYTE_RATE_EXPECTED}")
    num_bytes = parse_size(size)
    if not num_bytes:
        raise ValueError(f"expected {BYTE_RATE_EXPECTED}")
    return float(num_bytes / _SECONDS[unit.strip()])


def _from_text(parse: Any, expected: str) -> Any:
    def validate(value: Any) -> Any:
        if type(value) is int and value == 0:
            return parse("0")
        if not isinstance(value, str):
            raise ValueError(f"expected {expected}")
        return parse(value)

    return BeforeValidator(validate)


def _schema(pattern: str, expected: str, *, zero: bool = True) -> WithJsonSchema:
    text = {"type": "string", "pattern": pattern, "description": expected}
    return WithJsonSchema({"anyOf": [text, {"const": 0}]} if zero else text)


Duration = Annotated[
    float,
    _from_text(parse_duration, DURATION_EXPECTED),
    _schema(r"^\s*([0-9]+(\.[0-9]+)?\s*(us|ms|s|m|h|d)\s*)+$|^0$", DURATION_EXPECTED),
]
"""A field of float seconds, written `10s`."""


def _in_utc(value: datetime) -> datetime:
    return value if value.tzinfo is not None else value.replace(tzinfo=UTC)


Moment = Annotated[datetime, AfterValidator(_in_utc)]
"""A field of a time, which is in UTC if it has no zone."""

Size = Annotated[
    int,
    _from_text(parse_size, SIZE_EXPECTED),
    _schema(r"^\s*[0-9]+(\.[0-9]+)?\s*[KMGTkmgt]?i?[Bb]$|^0$", SIZE_EXPECTED),
]
"""A field of bytes, written `64MiB`."""

RATE_PATTERN = r"^\s*[0-9]+(\.[0-9]+)?\s*/\s*(us|ms|s|m|h|d)$"
Rate = Annotated[
    float,
    _from_text(parse_rate, RATE_EXPECTED),
    _schema(RATE_PATTERN, RATE_EXPECTED, zero=False),
]
"""A field of events per second, written `10000/s`."""

BYTE_RATE_PATTERN = r"^\s*[0-9]+(\.[0-9]+)?\s*[KMGTkmgt]?i?[Bb]\s*/\s*(us|ms|s|m|h|d)$"
ByteRate = Annotated[
    float,
    _from_text(parse_byte_rate, BYTE_RATE_EXPECTED),
    _schema(BYTE_RATE_PATTERN, BYTE_RATE_EXPECTED, zero=False),
]
"""A field of bytes per second, written `10MiB/s`."""
