"""Maps and lists of a workflow file with the places of their keys and values.

Always true: they are subclasses of `dict` and `list`, so code for plain values accepts them; a place is
None if it is unknown (for example in a workflow built in Python).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dataflare.errors import Spot
from dataflare.model.text import SourceText


class SpotMap(dict[str, Any]):
    """A mapping. spot: the place of its key, or else of its beginning.

    replaces: it was written `!replace`, so it is not merged into a map below it.
    """

    __slots__ = ("key_spots", "replaces", "spot", "value_spots")

    def __init__(self, values: dict[str, Any] | None = None, spot: Spot | None = None) -> None:
        super().__init__(values or {})
        self.spot = spot
        self.replaces = False
        self.key_spots: dict[str, Spot] = {}
        self.value_spots: dict[str, Spot] = {}

    def put(self, key: str, value: Any, key_spot: Spot | None, value_spot: Spot | None) -> None:
        """Set a key together with its places."""
        self[key] = value
        if key_spot is not None:
            self.key_spots[key] = key_spot
        if value_spot is not None:
            self.value_spots[key] = value_spot

    def take(self, other: SpotMap, key: str, value: Any) -> None:
        """Set a key to `value`, with the places it has in `other`."""
        self.put(key, value, other.key_spots.get(key), other.value_spots.get(key))

    def without(self, *keys: str) -> SpotMap:
        """A copy without some keys."""
        copy = SpotMap(spot=self.spot)
        for key, value in self.items():
            if key not in keys:
                copy.take(self, key, value)
        return copy


class SpotList(list[Any]):
    """A list. `spots` has the place of each item."""

    __slots__ = ("spot", "spots")

    def __init__(self, values: Sequence[Any] = (), spot: Spot | None = None) -> None:
        super().__init__(values)
        self.spot = spot
        self.spots: list[Spot] = []

    def put(self, value: Any, spot: Spot | None) -> None:
        """Append a value together with its place."""
        self.append(value)
        if spot is not None:
            self.spots.append(spot)


class Unresolved(SourceText):
    """A string with a missing variable. The error was added already, so other checks skip the string."""


def spot_of(node: Any, key: str | int) -> Spot | None:
    """The place of the value under a key or index, or None."""
    if isinstance(node, SpotMap) and isinstance(key, str):
        return node.value_spots.get(key)
    if isinstance(node, SpotList) and isinstance(key, int) and 0 <= key < len(node.spots):
        return node.spots[key]
    return None


def key_spot_of(node: Any, key: str | int) -> Spot | None:
    """The place of a key. For a list, the place of the item."""
    if isinstance(node, SpotMap) and isinstance(key, str):
        return node.key_spots.get(key)
    return spot_of(node, key)


def kind_of(value: Any) -> str:
    """The kind of a value, in words for the user."""
    match value:
        case None:
            return "nothing (null)"
        case bool():
            return "true or false"
        case int():
            return "a whole number"
        case float():
            return "a number"
        case str():
            return "text"
        case dict():
            return "a mapping"
        case list():
            return "a list"
    return type(value).__name__
