"""Splits, positions, watermarks and barriers: how far a stream has come. Plain data, no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Split:
    """An independent part of a source: a file, a key range, a partition.

    id: stays the same from listing to listing, and orders the splits of one source.
    data: what `open` needs, JSON. bytes_estimate: for progress only.
    """

    id: str
    data: Mapping[str, Any] = field(default_factory=dict)
    bytes_estimate: int | None = None

    def to_json(self) -> dict[str, Any]:
        return {"id": self.id, "data": dict(self.data), "bytes_estimate": self.bytes_estimate}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Split:
        return cls(value["id"], value["data"], value.get("bytes_estimate"))


@dataclass(frozen=True, slots=True)
class Position:
    """The place of the first row not yet read in a split. JSON, small."""

    value: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        return dict(self.value)


@dataclass(frozen=True, slots=True, order=True)
class Watermark:
    """No row with an event time below this is expected any more. Microseconds since 1970, UTC."""

    event_time_us: int


@dataclass(frozen=True, slots=True)
class Barrier:
    """The mark in the stream that cuts epoch `epoch` from the next one. `final`: nothing follows."""

    epoch: int
    final: bool = False
