"""Numbers, sizes and times as text to read."""

from __future__ import annotations

from datetime import UTC, datetime

from dataflare.model.human import clock as clock
from dataflare.model.human import count as count
from dataflare.model.human import counted as counted
from dataflare.model.human import rate as rate
from dataflare.model.human import size as size
from dataflare.model.human import span as span


def moment(rfc3339: str | None) -> str:
    """A time of the run history in the local zone, to the second."""
    if not rfc3339:
        return "–"
    try:
        return datetime.fromisoformat(rfc3339).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    except ValueError:
        return rfc3339


def between(start: str | None, end: str | None) -> float | None:
    """Seconds from one time of the run history to another, or to now if there is no end."""
    try:
        begun = datetime.fromisoformat(start or "")
        ended = datetime.fromisoformat(end) if end else datetime.now(UTC)
    except ValueError:
        return None
    return (ended - begun).total_seconds()
