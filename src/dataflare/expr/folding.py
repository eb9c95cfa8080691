"""Text literals as dates, times or timestamps, converted when the workflow is planned."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time, timedelta, timezone
from zoneinfo import ZoneInfo

from dataflare.expr.tree import LITERAL, Node
from dataflare.model.types import DataType

_DATE = r"(\d{1,4})[-/](\d{1,2})[-/](\d{1,2})"
_TIME = r"(\d{1,2}):(\d{1,2})(?::(\d{1,2})(?:\.(\d+))?)?"
_ZONE = r"(Z|UTC|[+-]\d{1,2}(?::?\d{2})?)"
_TIMESTAMP = re.compile(rf"\s*{_DATE}(?:[ T]{_TIME}\s*{_ZONE}?)?\s*", re.IGNORECASE)
_ONLY_TIME = re.compile(rf"\s*{_TIME}\s*")


def literal_as(text: str, type_: DataType) -> Node | None:
    """The literal of that temporal type, or None if the text is not one.

    A zoned timestamp is an aware datetime in UTC. Text without an offset is local time of the type's
    zone: the later of two instants; None if the clock skipped it. Text with an offset is refused for a
    naive timestamp, because the offset would be lost.
    """
    if type_.name == "time":
        match = _ONLY_TIME.fullmatch(text)
        clock_time = None if match is None else _time(match.groups())
        return None if clock_time is None else Node(LITERAL, type_, value=clock_time)
    match = _TIMESTAMP.fullmatch(text)
    if match is None or type_.name not in ("date", "timestamp"):
        return None
    try:
        day = date(int(match[1]), int(match[2]), int(match[3]))
    except ValueError:
        return None
    clock = _time(match.groups()[3:7]) if match[4] is not None else time()
    if clock is None:
        return None
    if type_.name == "date":
        return Node(LITERAL, type_, value=day) if match[4] is None else None
    moment = datetime.combine(day, clock)
    if type_.timezone is None:
        return Node(LITERAL, type_, value=moment) if match[8] is None else None
    zone = ZoneInfo(type_.timezone) if match[8] is None else _offset(match[8])
    try:
        instant = moment.replace(tzinfo=zone, fold=1).astimezone(UTC)
        skipped = instant.astimezone(zone).replace(tzinfo=None) != moment
    except OverflowError:
        return None
    return None if skipped else Node(LITERAL, type_, value=instant)


def _time(parts: tuple[str | None, ...]) -> time | None:
    hour, minute, second, fraction = parts[:4]
    try:
        return time(
            int(hour or 0),
            int(minute or 0),
            int(second or 0),
            int((fraction or "0")[:6].ljust(6, "0")),
        )
    except ValueError:
        return None


def _offset(text: str) -> timezone:
    if text.upper() in ("Z", "UTC"):
        return timezone.utc  # noqa: UP017
    digits = text[1:].replace(":", "")
    hours, minutes = int(digits[:2] if len(digits) != 3 else digits[0]), int(digits[2:] or 0)
    sign = -1 if text[0] == "-" else 1
    return timezone(sign * timedelta(hours=hours, minutes=minutes))
