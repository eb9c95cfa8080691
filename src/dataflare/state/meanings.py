"""What state columns and keys hold, in the words of a user. Pure.

The text in a checkpoint stays as it is, because state is found by it; only what is shown is changed here.
"""

from __future__ import annotations

import re

from dataflare.model.units import shown_duration

_UNITS = {"days": 86_400_000_000, "seconds": 1_000_000, "microseconds": 1}
_DURATION = re.compile(r"datetime\.timedelta\(([^()]*)\)")
_DECIMAL = re.compile(r"Decimal\(('[^']*')\)")
_BETWEEN = re.compile(r"(?<![\w)])([-+*/%])\(([^(),]+), ([^(),]+)\)")


def readable(meaning: str) -> str:
    """The text of `expr.tree.as_text` with durations and simple sums as they are written in a workflow:
    `+(at, datetime.timedelta(seconds=3600))` is `at + 1h`."""
    text = _DURATION.sub(lambda match: _duration(match[1]), meaning)
    text = _DECIMAL.sub(lambda match: match[1].strip("'"), text)
    return _BETWEEN.sub(r"\2 \1 \3", text)


def _duration(arguments: str) -> str:
    pairs = [each.partition("=") for each in arguments.replace(" ", "").split(",")]
    return shown_duration(sum(_UNITS[name] * int(value) for name, _, value in pairs if value))
