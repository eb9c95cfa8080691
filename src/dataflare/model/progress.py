"""Splits, positions and marks: the progress of a stream. Plain data, no I/O.

Marks travel in the channels between tasks, in order with the rows. They cost no credit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct, field


class Split(Struct, frozen=True):
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


class Position(Struct, frozen=True):
    """The place of the first row not yet read in a split. JSON, small."""

    value: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        return dict(self.value)


class Watermark(Struct, frozen=True, order=True):
    """No row with an event time below this is expected any more. Microseconds since 1970, UTC."""

    event_time_us: int


class Idle(Struct, frozen=True):
    """No rows come for now: the channel does not hold the watermark back. Rows or a watermark end it."""


class Barrier(Struct, frozen=True):
    """The mark in the stream between epoch `epoch` and the next one.

    final: no rows follow. left_out: of the final one, by step, how many rows of the run failed and were
    left out. aligned: rows before it are processed before the cut; an unaligned barrier overtakes them,
    and they become part of the checkpoint.
    """

    epoch: int
    final: bool = False
    left_out: Mapping[str, int] = field(default_factory=dict)
    aligned: bool = True


class End(Struct, frozen=True):
    """Nothing follows in this channel."""


class Cancel(Struct, frozen=True):
    """The reader of a channel needs no more rows. The only mark that travels against the rows."""


Mark = Watermark | Idle | Barrier | End

END, IDLE = End(), Idle()
