"""Find where each value of the rows of many events lies, column by column. Pure.

The rows of an event have no lengths. So the k-th rows of all events are passed over together: the end of each is the
start of the next one of its event.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from dataflare.connectors.mysql.cdc.table_map import Cell

Numbers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Bytes = npt.NDArray[np.uint8]
_SLACK = 64
"""Zero bytes behind the last event: bytes are read also for a value that is NULL."""


class Values(Struct):
    """Of one column, in the order of the rows: where its values begin, how long they are, which are NULL."""

    start: Numbers
    size: Numbers
    is_null: Flags


class Image(Struct):
    """One image of each row: as it was, or as it is. By the numbers of the columns that are wanted."""

    values: dict[int, Values]


class Rows(Struct):
    """event: by row, the number of its event. images: one, or two of an update."""

    data: bytes
    event: Numbers
    images: list[Image]


def locate(
    events: Sequence[bytes], cells: Sequence[Cell], wanted: Sequence[int], images: int
) -> Rows:
    """events: the rows of each event. images: how many a row has. Raises ValueError for rows that do not end with
    their event."""
    sizes = np.fromiter(map(len, events), np.int64, len(events))
    ends = np.cumsum(sizes)
    data = b"".join([*events, bytes(_SLACK)])
    place = ends - sizes
    walk = _Walk(np.frombuffer(data, np.uint8), cells, wanted)
    walked: list[list[list[tuple[Numbers, Numbers, Flags]]]] = [[] for _ in range(images)]
    numbers: list[Numbers] = []
    active = np.flatnonzero(sizes > 0)
    place = place[active]
    while active.size:
        numbers.append(active)
        for image in walked:
            place = walk.row(place, image)
        limit = ends[active]
        if (place > limit).any():
            raise ValueError("a row is longer than its event")
        more = place < limit
        active, place = active[more], place[more]
    event = np.concatenate(numbers) if numbers else np.empty(0, np.int64)
    order = np.argsort(event, kind="stable")
    return Rows(data, event[order], [_image(image, wanted, order) for image in walked])


def _image(
    walked: list[list[tuple[Numbers, Numbers, Flags]]], wanted: Sequence[int], order: Numbers
) -> Image:
    values = {}
    for at, column in enumerate(wanted):
        parts = [step[at] for step in walked]
        start, size, is_null = (np.concatenate(each)[order] for each in zip(*parts, strict=True))
        values[column] = Values(start, size, is_null)
    return Image(values)


class _Walk:
    """Passes over one image of one row of each event."""

    def __init__(self, data: Bytes, cells: Sequence[Cell], wanted: Sequence[int]) -> None:
        self._data, self._cells, self._wanted = data, cells, frozenset(wanted)
        self._order = list(wanted)
        self._bitmap = np.arange((len(cells) + 7) // 8)

    def row(self, place: Numbers, found: list[list[tuple[Numbers, Numbers, Flags]]]) -> Numbers:
        """place: where the images begin. Returns where they end."""
        count = len(self._cells)
        bits = self._data[place[:, None] + self._bitmap]
        nulls: Flags = np.unpackbits(bits, axis=1, count=count, bitorder="little").view(np.bool_)
        has_null: Flags = np.any(nulls, axis=0)
        place = place + self._bitmap.size
        by_column: dict[int, tuple[Numbers, Numbers, Flags]] = {}
        for column, cell in enumerate(self._cells):
            is_null = nulls[:, column]
            size: Numbers
            if cell.width is not None:
                start, size = place, np.full(place.size, cell.width)
            else:
                start, size = place + cell.prefix, self._lengths(place, cell.prefix)
            behind = start + size
            if has_null[column]:
                behind = np.where(is_null, place, behind)
                start = np.where(is_null, place, start)
                size = np.where(is_null, 0, size)
            if column in self._wanted:
                by_column[column] = start, size, is_null
            place = behind
        found.append([by_column[column] for column in self._order])
        return place

    def _lengths(self, place: Numbers, width: int) -> Numbers:
        # The place of a NULL may be the very end.
        size = self._data[place].astype(np.int64)
        for at in range(1, width):
            size |= self._data[place + at].astype(np.int64) << (8 * at)
        return size
