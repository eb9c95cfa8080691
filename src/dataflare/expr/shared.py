"""Expressions that were read before in this process, so that a thousand jobs with the same steps read each once.

Always true: what is kept has no variable in it, and so no `${secret:...}`, no place of a file, and never changes; an expression with
an error is read again each time, so that the error names its own place.
"""

from __future__ import annotations

from typing import Generic, TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")

_MOST = 1_024


class Shared(Generic[Key, Value]):
    """At most some values by key. When there are more, all are let go. Any thread may ask."""

    def __init__(self) -> None:
        self._values: dict[Key, Value] = {}

    def get(self, key: Key) -> Value | None:
        return self._values.get(key)

    def keep(self, key: Key, value: Value) -> Value:
        """Keep a value; gives it."""
        if len(self._values) >= _MOST:
            self._values = {}
        self._values[key] = value
        return value
